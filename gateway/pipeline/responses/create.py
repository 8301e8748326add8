"""A create of /v1/responses on its way through the stations: Interpret adds the history, Close stores the answer."""

import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import orjson

from gateway.pipeline.admit import admit, find_fallback, name_group
from gateway.pipeline.exchange import exchange
from gateway.pipeline.interpret import check_hints, read_hints, read_timeout
from gateway.pipeline.ports import Catalog, CloseStep, Principal, Reply
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.conversations import (
    MAX_ITEMS,
    ConversationLease,
    ConversationRead,
    assign_free_ids,
    conversation_not_found,
)
from gateway.pipeline.responses.ports import Responses, ResponseServices
from gateway.pipeline.responses.turn import Continuation, ResponseTurn, owner_of
from gateway.pipeline.routing_request import read_route_options, read_routing_request
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.pipeline.stream_cost import ask_cost
from gateway.pipeline.time_limits import read_client_time
from gateway.pipeline.visit import BoundCall
from gateway.protocol.dialects.responses.client_request import ResponsesRequest, decode
from gateway.protocol.dialects.responses.conversation import check_calls, drop_unpaired_calls
from gateway.protocol.dialects.responses.dialect import ResponsesDialect
from gateway.protocol.dialects.responses.items import ID_PATTERN
from gateway.protocol.dialects.responses.stored import MAX_CHAIN, Item, Owner
from gateway.protocol.errors import BadRequest, NotFound, UpstreamFault
from gateway.protocol.ids import Ids, response_of
from gateway.protocol.provider import Target
from gateway.routing.walk import Walk

MAX_SHORTENINGS = 6
ATTEMPT_NUMBERS = 32  # more than one exchange can use
DAY_S = 86_400


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


async def open_turn(
    request: ResponsesRequest,
    principal: Principal,
    services: Services,
    response_services: ResponseServices,
    *,
    is_background: bool = False,
    is_read_only: bool = False,
) -> ResponseTurn:
    """Raises ClientFault where what the request continues is missing, in use, or does not fit. A turn in a conversation
    leases it, until `answer` is done or the lease ends; a turn that `is_read_only` will not be answered, and leases
    nothing."""
    owner = owner_of(principal)
    continuation = Continuation()
    lease: ConversationLease | None = None
    _check_size(request, response_services.max_stored_bytes)
    if (request.store or request.conversation_id) and not is_read_only:
        await response_services.check_room(owner.organization_id)
    if request.conversation_id:
        conversations, conversation_id = response_services.conversations, request.conversation_id
        entry: ConversationLease | ConversationRead
        if is_read_only:
            entry = ConversationRead(conversations, owner, conversation_id)
        else:
            entry = lease = ConversationLease(conversations, owner, conversation_id, request.ids.response_id)
        request, continuation = await _continue_conversation(entry, request, response_services)
    else:
        if request.previous_response_id:
            continuation = await _continue_response(request.previous_response_id, owner, response_services.responses)
        request = await _resolve_references(request, continuation.history, owner, response_services)
        check_calls([*continuation.history, *request.input])
    return ResponseTurn(
        request=request,
        owner=owner,
        continuation=continuation,
        seal=response_services.seal(owner.organization_id),
        created_s=services.now(),
        retention_s=(principal.retention_days or response_services.retention_days) * DAY_S,
        is_background=is_background,
        lease=lease,
    )


async def answer(
    turn: ResponseTurn,
    close: TurnClose,
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    reply: Reply,
    steps: Sequence[CloseStep] = (),
) -> None:
    """Answers on `reply`; `steps` follow `close` when an attempt ends. Ends the turn's lease on its conversation on
    every path, before the caller learns of a fault."""
    async with turn.lease or contextlib.nullcontext():
        timeout_s = read_timeout(inbound.headers, turn.request.body, stream=turn.request.stream)
        client_time = read_client_time(inbound.headers, timeout_s, services.now())
        number = 0
        while True:
            dialect = turn.dialect(services.now)
            call = ask_cost(dialect.call(), inbound.headers, by_default=services.tells_stream_cost)
            targets = admit(call, principal, catalog)
            preferred = turn.continuation.preferred_deployment
            walk = Walk(
                services.routing,
                targets,
                partial(find_fallback, call, principal, catalog),
                read_routing_request(call, inbound.headers, principal, catalog, preferred),
                read_route_options(call, inbound.headers, principal, catalog),
            )
            try:
                await exchange(
                    partial(_bind, dialect, close, steps, tells_cost=call.tells_cost),
                    walk,
                    name_group(call, principal, catalog),
                    services,
                    reply,
                    request_id=inbound.request_id,
                    time=client_time,
                    first_number=number,
                )
                return
            except BadRequest as fault:
                if fault.param is not None and fault.param.startswith("messages"):
                    fault.param = "input"  # which a provider knows as a conversation's messages
                raise
            except UpstreamFault as fault:
                # `truncation: auto`: the older part of what is too long is left out
                may_shorten = turn.request.truncates_automatically and fault.code == "context_length_exceeded"
                if not may_shorten or close.is_begun or number >= MAX_SHORTENINGS * ATTEMPT_NUMBERS:
                    raise
                shorter = turn.shorten()
                if shorter is None:
                    raise
                turn = shorter
            number += ATTEMPT_NUMBERS


def _bind(
    dialect: ResponsesDialect, close: TurnClose, steps: Sequence[CloseStep], target: Target, *, tells_cost: bool
) -> BoundCall:
    bound = dialect.for_target(target)
    return BoundCall(replace(bound.call(), tells_cost=tells_cost), (close.step(bound), *steps))


async def _continue_response(parent_id: str, owner: Owner, responses: Responses) -> Continuation:
    parent = await responses.chain(owner, parent_id) if ID_PATTERN.fullmatch(parent_id) else None
    if parent is None:
        raise previous_not_found(parent_id)
    if not parent.may_be_continued:
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
    return Continuation(parent.items, parent.depth + 1, parent.deployment_id)


async def _continue_conversation(
    entry: ConversationLease | ConversationRead, request: ResponsesRequest, response_services: ResponseServices
) -> tuple[ResponsesRequest, Continuation]:
    """The request with ids that are free in the conversation, and the conversation's history. A fault ends the
    lease."""
    if not ID_PATTERN.fullmatch(request.conversation_id):
        raise conversation_not_found(request.conversation_id, param="conversation")
    contents = await entry.enter()
    items = contents.items
    is_complete = False
    try:
        if len(items) > MAX_ITEMS:
            raise BadRequest(
                f"The conversation has more than {MAX_ITEMS} items; compact it to go on.",
                param="conversation",
                code="conversation_too_long",
            )
        history = drop_unpaired_calls(items)
        request = replace(request, input=assign_free_ids(request.input, {item["id"] for item in items}, request.ids))
        request = await _resolve_references(request, history, entry.owner, response_services)
        check_calls([*history, *request.input])
        is_complete = True
    finally:
        if not is_complete:
            await entry.give_up()
    return request, Continuation(history, preferred_deployment=contents.deployment_id)


async def _resolve_references(
    request: ResponsesRequest, history: tuple[Item, ...], owner: Owner, response_services: ResponseServices
) -> ResponsesRequest:
    """The request with items in the place of its references; an item that is there already is not repeated. Raises
    NotFound, or BadRequest where the references bring more than the gateway stores of one request."""
    if not any(item["type"] == "item_reference" for item in request.input):
        return request
    present = {item["id"] for item in (*history, *request.input) if item["type"] != "item_reference"}
    wanted: dict[str, set[str]] = {}  # {response: ids of its items}
    for item in request.input:
        if item["type"] == "item_reference" and item["id"] not in present:
            wanted.setdefault(response_of(item["id"]), set()).add(item["id"])
    loaded: dict[str, dict[str, Item]] = {"": {}}  # {response: these items, by their ids}
    size = len(request.raw)
    most = response_services.max_stored_bytes
    items: list[Item] = []
    for index, item in enumerate(request.input):
        if item["type"] != "item_reference":
            items.append(item)
        elif item["id"] not in present:
            present.add(item["id"])
            response_id = response_of(item["id"])
            if response_id not in loaded:
                rows = await _load_items(response_id, wanted[response_id], owner, response_services.responses)
                size += sum(len(orjson.dumps(row)) for row in rows.values())
                if size > most:
                    raise _too_large(most)
                loaded[response_id] = rows
            if item["id"] not in loaded[response_id]:
                raise NotFound(
                    f"Item with id '{item['id'][:128]}' not found.", param=f"input[{index}].id", code="item_not_found"
                )
            items.append(loaded[response_id][item["id"]])
    return replace(request, input=tuple(items))


async def _load_items(response_id: str, ids: set[str], owner: Owner, responses: Responses) -> dict[str, Item]:
    """{id: item} of the response's items with these ids. Nothing else of the response stays in memory."""
    stored = await responses.find(owner, response_id)
    return {item["id"]: item for item in stored.items if item.get("id") in ids} if stored else {}


def _check_size(request: ResponsesRequest, most: int) -> None:
    """Raises BadRequest where the request's items are too large to be stored. The answer is bounded elsewhere."""
    is_stored = request.store or bool(request.conversation_id)
    # The items are a part of the body: most requests need no second measure
    if is_stored and len(request.raw) > most and len(orjson.dumps(request.input)) > most:
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
