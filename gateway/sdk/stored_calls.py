"""The functions beside `responses`: a stored response is fetched, listed by its input, cancelled and deleted."""

from collections.abc import Callable, Sequence

import orjson

from gateway.pipeline.responses.turn import owner_of
from gateway.protocol.dialects.responses.items import (
    ID_PATTERN,
    INCLUDABLE,
    invalid_value,
    render_item,
    render_response,
)
from gateway.protocol.dialects.responses.replay import replay_events
from gateway.protocol.dialects.responses.stored import StoredResponse
from gateway.protocol.errors import BadRequest, Fault, NotFound
from gateway.protocol.json.types import JsonObject
from gateway.sdk.background_runs import BackgroundRuns
from gateway.sdk.details import NO_DETAILS, CallFailed, Details
from gateway.sdk.engine import PRINCIPAL
from gateway.sdk.event_logs import LogReader, replay_log
from gateway.sdk.sessions import SessionStore

OWNER = owner_of(PRINCIPAL)
MAX_LIMIT = 100


class StoredCalls:
    """Every call raises CallFailed: NotFound for a response that is unknown, deleted or expired."""

    def __init__(self, find_store: Callable[[], SessionStore], runs: BackgroundRuns) -> None:
        self._find_store = find_store
        self._runs = runs

    async def get(self, response_id: str, include: Sequence[str] | None, after: int | None) -> tuple[bytes, Details]:
        """(the response's JSON, the details of a background response that this process has made)"""
        try:
            if after is not None:
                raise invalid_value("starting_after", "it needs stream=True")
            stored = await self._find(response_id)
            body = orjson.dumps(render_response(stored.response, _read_include(include)))
        except Fault as fault:
            raise CallFailed(fault) from None
        call_log = self._runs.find_log(response_id)
        return body, call_log.read_details() if call_log is not None else NO_DETAILS

    async def follow(self, response_id: str, include: Sequence[str] | None, after: int | None) -> LogReader:
        """The stream of the response, from the event behind number `after`. A background response is followed as it is
        made; of one whose log is gone the events are made from the response, and have other numbers."""
        try:
            if after is not None and (type(after) is not int or after < 0):
                raise invalid_value("starting_after", "it must be an integer that is not negative")
            included = _read_include(include)
            stored = await self._find(response_id)
            call_log = self._runs.find_log(response_id)
            if call_log is None:
                if stored.is_background and after is not None:
                    raise invalid_value("starting_after", "the events of this response are not kept any more")
                call_log = replay_log(replay_events(stored.response, INCLUDABLE))
        except Fault as fault:
            raise CallFailed(fault) from None
        return call_log.read(-1 if after is None else after, included)

    async def delete(self, response_id: str) -> JsonObject:
        """A response in progress ends."""
        try:
            await self._find(response_id)
            await self._runs.erase(response_id)
            await self._find_store().responses.delete(OWNER, response_id)
        except Fault as fault:
            raise CallFailed(fault) from None
        return {"id": response_id, "object": "response", "deleted": True}

    async def cancel(self, response_id: str) -> bytes:
        """The JSON of the response, which has ended."""
        try:
            stored = await self._find(response_id)
            if not stored.is_background:
                raise BadRequest("Only responses that were created with background=true can be cancelled.")
            await self._runs.cancel(response_id)
            return orjson.dumps(render_response((await self._find(response_id)).response, frozenset()))
        except Fault as fault:
            raise CallFailed(fault) from None

    async def items(
        self, response_id: str, *, after: str, include: Sequence[str] | None, limit: int, order: str
    ) -> JsonObject:
        """A page of the response's input."""
        try:
            if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
                raise invalid_value("limit", f"it must be an integer between 1 and {MAX_LIMIT}")
            if order not in {"asc", "desc"}:
                raise invalid_value("order", "it must be asc or desc")
            included = _read_include(include)
            stored = await self._find(response_id)
            items = list(stored.input) if order == "asc" else list(reversed(stored.input))
            if after:
                place = next((place for place, item in enumerate(items) if item["id"] == after), None)
                if place is None:
                    raise invalid_value("after", "there is no item with this id")
                items = items[place + 1 :]
        except Fault as fault:
            raise CallFailed(fault) from None
        page = [render_item(item, included) for item in items[:limit]]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }

    async def _find(self, response_id: str) -> StoredResponse:
        """Raises NotFound."""
        stored = None
        if isinstance(response_id, str) and ID_PATTERN.fullmatch(response_id):
            stored = self._runs.find(response_id) or await self._find_store().responses.find(OWNER, response_id)
        if stored is None:
            raise NotFound(f"Response with id '{str(response_id)[:128]}' not found.", code="response_not_found")
        return stored


def _read_include(include: Sequence[str] | None) -> frozenset[str]:
    names = include or ()
    if not isinstance(names, list | tuple | set | frozenset) or any(name not in INCLUDABLE for name in map(str, names)):
        raise BadRequest("Invalid value for 'include'.", param="include", code="invalid_value")
    return frozenset(names)
