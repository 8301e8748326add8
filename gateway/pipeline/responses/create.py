"""A create of /v1/responses on its way through the stations: Interpret adds the history, Close keeps the answer."""

import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import orjson

from gateway.pipeline.admit import admit
from gateway.pipeline.exchange import Services, exchange
from gateway.pipeline.interpret import check_hints, read_hints, read_timeout
from gateway.pipeline.ports import Attempt, Catalog, Ledger, Principal, Reply
from gateway.pipeline.responses.conversations import (
    MAX_ITEMS,
    ConversationLease,
    ConversationRead,
    Conversations,
    conversation_not_found,
    distinct,
)
from gateway.pipeline.responses.turn import Place, Session, owner_of
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.client_request import ResponsesRequest, decode
from gateway.protocol.dialects.responses.conversation import check_calls, drop_unpaired_calls
from gateway.protocol.dialects.responses.items import ID_PATTERN
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import MAX_CHAIN, Chain, Item, Listing, Owner, Page, StoredResponse
from gateway.protocol.errors import BadRequest, NotFound, UpstreamFault
from gateway.protocol.ids import Ids, response_of
from gateway.protocol.provider import Target
from gateway.routing.router import MAX_ATTEMPTS, Plan, route

MAX_SHORTENINGS = 6
ATTEMPT_NUMBERS = 32  # more than one exchange can use
CONTINUED = frozenset({"completed", "incomplete"})  # what a later response builds upon
DAY_S = 86_400
MAX_STORED_BYTES = 32 * 1024 * 1024


class Responses(Protocol):
    """The store of responses."""

    def keep(self, stored: StoredResponse) -> Awaitable[None]:
        """Queues the row at once, so that it shares the transaction of what is queued next; done when it is durable."""

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None: ...

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """None where the response or one of its ancestors is missing. Raises BadRequest where they are too large."""

    async def page(self, owner: Owner, listing: Listing) -> Page[StoredResponse]:
        """Of StoredResponses. Raises BadRequest where `after` names none of them."""

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """Erases it at once, with all that was kept for it; one that is being made ends. False: there is none."""

    async def cancel(self, stored: StoredResponse) -> StoredResponse | None:
        """Ends it unless it has ended. Returns what it is now; None: it is gone."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """What /v1/responses works with beside an exchange's services."""

    responses: Responses
    conversations: Conversations
    seal: Callable[[str], Seal]  # of an organization
    retention_days: int
    max_stored_bytes: int = MAX_STORED_BYTES  # of one request's own items


Keep = Callable[[StoredResponse], Awaitable[None] | None]


class KeepingBooks:
    """Books that keep the response, and what it adds to its conversation, in the transaction of its spend row."""

    def __init__(self, ledger: Ledger, session: Session, keep: Keep) -> None:
        self._books = ledger
        self._session = session
        self._keep = keep

    async def open(self, attempt: Attempt) -> None:
        await self._books.open(attempt)

    async def close(self, attempt: Attempt) -> None:
        stored = self._session.kept(attempt)
        writes = written(self._session, self._keep, stored) if stored is not None else []
        await self._books.close(attempt)
        for write in writes:
            await write


def written(session: Session, keep: Keep, stored: StoredResponse) -> list[Awaitable[object]]:
    """Queues at once all that is kept of a response that was made; each is done when it is durable."""
    writes: list[Awaitable[object]] = []
    if session.on_made is not None:
        session.on_made(stored)
    if session.request.store:
        keeping = keep(stored)
        if keeping is not None:
            writes.append(keeping)
    if session.hold is not None:
        if stored.status in CONTINUED:
            items = stored.items
            writes.append(session.hold.append(items, is_stored=session.request.store))
        else:
            writes.append(session.hold.leave())
    return writes


def new_token() -> str:
    """Milliseconds, then 144 random bits: rows that are made together lie together in the database's index."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(18)}"


def new_id(prefix: str) -> str:
    """192 random bits."""
    return prefix + secrets.token_hex(24)


def interpret(inbound: Inbound, response_id: str = "", *, needs_input: bool = True) -> ResponsesRequest:
    """`response_id` is that of a response which exists already. Raises ClientFault naming the `param`."""
    ids = Ids(response_id.removeprefix("resp_") or new_token())
    request = decode(inbound.body, read_hints(inbound.headers), ids, needs_input=needs_input)
    check_hints(request.end_user, request.tags)
    return request


async def open_session(
    request: ResponsesRequest,
    principal: Principal,
    services: Services,
    sessions: Sessions,
    *,
    is_background: bool = False,
    is_look: bool = False,
    on_made: Callable[[StoredResponse], None] | None = None,
) -> Session:
    """Raises ClientFault where what the request continues is not there, is held, or does not fit. A session in a
    conversation holds it, until `answer` is done or the hold's lease ends; `is_look`: of one that is not answered."""
    owner = owner_of(principal)
    place = Place()
    hold: ConversationLease | None = None
    response_id = request.ids.response_id
    _check_size(request, sessions.max_stored_bytes)
    if request.conversation_id:
        if is_look:
            entry: ConversationLease | ConversationRead = ConversationRead(
                sessions.conversations, owner, request.conversation_id
            )
        else:
            entry = hold = ConversationLease(sessions.conversations, owner, request.conversation_id, response_id)
        request, place = await _within(entry, request, sessions)
    else:
        if request.previous_response_id:
            place = await _after(request.previous_response_id, owner, sessions.responses)
        request = await _resolved(request, place.history, owner, sessions)
        check_calls([*place.history, *request.input])
    retention_days = principal.retention_days or sessions.retention_days
    return Session(
        request=request,
        owner=owner,
        place=place,
        hold=hold,
        response_id=response_id,
        new_id=request.ids,
        now=services.now,
        seal=sessions.seal(owner.organization_id),
        created_s=services.now(),
        retention_s=retention_days * DAY_S,
        is_background=is_background,
        on_made=on_made,
    )


async def answer(
    session: Session,
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    keep: Keep,
    reply: Reply,
    draw: Callable[[], float],
) -> None:
    """Ends the session's hold on its conversation on every path, before the caller learns of a fault."""
    async with session.hold or contextlib.nullcontext():
        timeout_s = read_timeout(inbound.headers, stream=session.request.stream)
        keeping = replace(services, ledger=KeepingBooks(services.ledger, session, keep))
        number = 0
        while True:
            call = session.call()
            plan = planned(admit(call, principal, catalog), session.place.preferred_deployment, draw)
            try:
                await exchange(
                    call,
                    plan,
                    principal,
                    keeping,
                    reply,
                    request_id=inbound.request_id,
                    timeout_s=timeout_s,
                    first_number=number,
                )
                return
            except BadRequest as fault:
                if fault.param is not None and fault.param.startswith("messages"):
                    fault.param = "input"  # which a provider knows as a conversation's messages
                raise
            except UpstreamFault as fault:
                # `truncation: auto`: the older part of what is too long is left out
                may_shorten = session.request.truncates_automatically and fault.code == "context_length_exceeded"
                if (
                    not may_shorten
                    or session.is_begun
                    or number >= MAX_SHORTENINGS * ATTEMPT_NUMBERS
                    or not session.shorten()
                ):
                    raise
            number += ATTEMPT_NUMBERS


def planned(targets: tuple[Target, ...], preferred: str, draw: Callable[[], float]) -> Plan:
    """The deployment that answered before comes first: it has the prompt in its cache. Any other may follow."""
    first = tuple(target for target in targets if target.deployment_id == preferred)
    others = tuple(target for target in targets if target.deployment_id != preferred)
    return (first + (route(others, draw) if others else ()))[:MAX_ATTEMPTS] if first else route(targets, draw)


async def _after(parent_id: str, owner: Owner, responses: Responses) -> Place:
    parent = await responses.chain(owner, parent_id) if ID_PATTERN.fullmatch(parent_id) else None
    if parent is None:
        raise previous_not_found(parent_id)
    if parent.status not in CONTINUED:
        state = "has not ended yet" if parent.status in {"queued", "in_progress"} else f"is {parent.status}"
        raise BadRequest(
            f"The previous response '{parent_id}' {state}: it cannot be continued.",
            param="previous_response_id",
            code="invalid_previous_response",
        )
    if parent.conversation_id:
        raise BadRequest(
            f"The previous response '{parent_id}' was made in a conversation: continue that one.",
            param="previous_response_id",
            code="invalid_previous_response",
        )
    if parent.depth >= MAX_CHAIN:
        raise BadRequest(
            f"The chain of previous responses is longer than {MAX_CHAIN}; compact it to go on.",
            param="previous_response_id",
            code="previous_response_chain_too_long",
        )
    return Place(parent.items, parent.depth + 1, parent.deployment_id)


async def _within(
    hold: ConversationLease | ConversationRead, request: ResponsesRequest, sessions: Sessions
) -> tuple[ResponsesRequest, Place]:
    """The request with ids that are not taken in the conversation, and its place there. Nothing is held after a
    fault."""
    if not ID_PATTERN.fullmatch(request.conversation_id):
        raise conversation_not_found(request.conversation_id, param="conversation")
    contents = await hold.enter()
    items = contents.items
    is_placed = False
    try:
        if len(items) > MAX_ITEMS:
            raise BadRequest(
                f"The conversation has more than {MAX_ITEMS} items; compact it to go on.",
                param="conversation",
                code="conversation_too_long",
            )
        history = drop_unpaired_calls(items)
        request = replace(request, input=distinct(request.input, {item["id"] for item in items}, request.ids))
        request = await _resolved(request, history, hold.owner, sessions)
        check_calls([*history, *request.input])
        is_placed = True
    finally:
        if not is_placed:
            await hold.give_up()
    return request, Place(history, preferred_deployment=contents.deployment_id)


async def _resolved(
    request: ResponsesRequest, history: tuple[Item, ...], owner: Owner, sessions: Sessions
) -> ResponsesRequest:
    """The request with what its references name in their place; what stands there already is not said twice.
    Raises NotFound, or BadRequest where they bring more than the gateway stores of one request."""
    if not any(item["type"] == "item_reference" for item in request.input):
        return request
    known = {item["id"] for item in (*history, *request.input) if item["type"] != "item_reference"}
    meant: dict[str, set[str]] = {}  # {response: those of its items that are asked for}
    for item in request.input:
        if item["type"] == "item_reference" and item["id"] not in known:
            meant.setdefault(response_of(item["id"]), set()).add(item["id"])
    read: dict[str, dict[str, Item]] = {"": {}}  # {response: these, by their ids}
    size = len(request.raw)
    items: list[Item] = []
    for index, item in enumerate(request.input):
        if item["type"] != "item_reference":
            items.append(item)
        elif item["id"] not in known:
            known.add(item["id"])
            response_id = response_of(item["id"])
            if response_id not in read:
                found = await _stored_items(response_id, meant[response_id], owner, sessions.responses)
                size += sum(len(orjson.dumps(one)) for one in found.values())
                if size > sessions.max_stored_bytes:
                    raise _too_large(sessions.max_stored_bytes)
                read[response_id] = found
            if item["id"] not in read[response_id]:
                raise NotFound(
                    f"Item with id '{item['id'][:128]}' not found.", param=f"input[{index}].id", code="item_not_found"
                )
            items.append(read[response_id][item["id"]])
    return replace(request, input=tuple(items))


async def _stored_items(response_id: str, ids: set[str], owner: Owner, responses: Responses) -> dict[str, Item]:
    """Those of its items by their ids. Nothing else of the response is kept in memory."""
    stored = await responses.find(owner, response_id)
    return {item["id"]: item for item in stored.items if item.get("id") in ids} if stored else {}


def _check_size(request: ResponsesRequest, most: int) -> None:
    """Raises BadRequest where what is to be kept of the request is too large. Its answer is bounded elsewhere."""
    is_kept = request.store or bool(request.conversation_id)
    # Its items are a part of its body: most requests need no look at them
    if is_kept and len(request.raw) > most and len(orjson.dumps(request.input)) > most:
        raise _too_large(most)


def _too_large(most: int) -> BadRequest:
    return BadRequest(
        f"The input is larger than the {most:,} bytes that the gateway stores of one request.",
        param="input",
        code="input_too_large",
    )


def previous_not_found(parent_id: str) -> BadRequest:
    return BadRequest(
        f"Previous response with id '{parent_id[:128]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )
