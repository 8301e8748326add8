"""/v1/responses: create, and what is done with a stored response.

Source: https://platform.openai.com/docs/api-reference/responses. The list (GET /v1/responses) is our own.
"""

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import CancelOnDisconnect, GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.query import Query, list_object, select_page
from gateway.edge.stored_answers import REPLAYED, begin, claim_key, tell
from gateway.edge.websocket.consumer import SocketConsumer
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Headers, Principal
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.compact import compact
from gateway.pipeline.responses.create import answer, interpret, open_turn
from gateway.pipeline.responses.idempotency import Settlement, read_key
from gateway.pipeline.responses.input_tokens import count_input
from gateway.pipeline.responses.turn import owner_of
from gateway.pipeline.run import Inbound
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.items import ID_PATTERN, render_item, render_response
from gateway.protocol.dialects.responses.stored import Listing, StoredResponse
from gateway.protocol.errors import BadRequest, Fault, MethodNotAllowed, NotFound

PATHS = ("/v1/responses", "/responses")
STATUSES = frozenset({"queued", "in_progress", "completed", "incomplete", "failed", "cancelled"})


class ResponsesConsumer(GatewayConsumer):
    methods = ("GET", "HEAD", "POST", "DELETE")
    _close: TurnClose | None = None

    def error_event(self, fault: Fault) -> bytes:
        return self._close.error_event(fault) if self._close is not None else super().error_event(fault)

    async def answer(self, receive: Receive) -> None:
        principal = await self.identify()
        path: str = self.scope["path"].rstrip("/")
        response_id, _, rest = path.partition("/responses")[2].lstrip("/").partition("/")
        method = {"HEAD": "GET"}.get(self.scope["method"], self.scope["method"])
        match (method, response_id, rest):
            case ("POST", "", ""):
                await self._create(principal, receive)
            case ("POST", "input_tokens", ""):
                await self._count_input(principal, receive)
            case ("POST", "compact", ""):
                await self._compact(principal, receive)
            case ("GET", "", ""):
                await self._list(principal)
            case ("GET", _, ""):
                await self._retrieve(await self._find(principal, response_id), receive)
            case ("DELETE", _, "") if response_id:
                await self._delete(principal, response_id)
            case ("POST", _, "cancel"):
                await self._cancel(principal, response_id)
            case ("GET", _, "input_items"):
                await self._input_items(await self._find(principal, response_id))
            case (_, _, "" | "cancel" | "input_items"):
                raise MethodNotAllowed(f"{self.scope['method']} is not allowed here.")
            case _:
                raise NotFound(f"Unknown path: {path[:255]}")

    async def _create(self, principal: Principal, receive: Receive) -> None:
        inbound = Inbound(self.request_id, self.headers, await self.read_body(receive))
        request = await read_sized(len(inbound.body), interpret, inbound)
        key = read_key(self.headers)
        with CancelOnDisconnect(self.scope, receive):
            if not key:
                await self._make(request, inbound, principal)
                return
            claim = await claim_key(key, request, principal, self.runtime)
            if isinstance(claim, StoredResponse):
                await self._show(claim, request, REPLAYED)
                return
            async with Settlement(self.runtime.claims, claim) as settlement:
                await self._make(request, inbound, principal, settlement)

    async def _make(
        self, request: ResponsesRequest, inbound: Inbound, principal: Principal, settlement: Settlement | None = None
    ) -> None:
        runtime = self.runtime
        services, response_services = runtime.services, runtime.response_services
        turn = await open_turn(request, principal, services, response_services, is_background=request.background)
        if request.background:
            stored, headers = await begin(turn, inbound, principal, runtime, settlement)
            await self._show(stored, request, headers)
            return
        close = self._close = TurnClose(turn, services.now, response_services.responses)
        await answer(
            turn,
            close,
            inbound,
            principal,
            runtime.snapshot.catalog,
            services,
            self.reply,
            (settlement.step(close, is_stored=request.store),) if settlement is not None else (),
        )

    async def _show(self, stored: StoredResponse, request: ResponsesRequest, headers: Headers | None = None) -> None:
        await tell(stored, self.runtime, self.reply, is_stream=request.stream, include=request.include, headers=headers)

    async def _count_input(self, principal: Principal, receive: Receive) -> None:
        runtime = self.runtime
        inbound = Inbound(self.request_id, self.headers, await self.read_body(receive))
        count = await count_input(
            inbound, principal, runtime.snapshot.catalog, runtime.services, runtime.response_services
        )
        await self._send({"object": "response.input_tokens", "input_tokens": count})

    async def _compact(self, principal: Principal, receive: Receive) -> None:
        runtime = self.runtime
        inbound = Inbound(self.request_id, self.headers, await self.read_body(receive))
        with CancelOnDisconnect(self.scope, receive):
            headers, window = await compact(
                inbound, principal, runtime.snapshot.catalog, runtime.services, runtime.response_services
            )
            await self.reply.send_body(200, headers, orjson.dumps(window))

    async def _retrieve(self, stored: StoredResponse, receive: Receive) -> None:
        query = Query.read(self.scope)
        after = query.integer("starting_after", None, 0, 2**31)
        with CancelOnDisconnect(self.scope, receive):
            await tell(
                stored,
                self.runtime,
                self.reply,
                is_stream=query.flag("stream"),
                include=query.include,
                after=-1 if after is None else after,
            )

    async def _list(self, principal: Principal) -> None:
        query = Query.read(self.scope)
        status = query.text("status")
        if status and status not in STATUSES:
            raise BadRequest("Invalid value for 'status'.", param="status", code="invalid_value")
        listing = Listing(
            limit=query.limit,
            is_descending=query.is_descending,
            after=query.text("after"),
            model=query.text("model"),
            status=status,
            metadata=query.members("metadata"),
        )
        page = await self.runtime.response_services.responses.page(owner_of(principal), listing)
        include = query.include
        data = [render_response(stored.response, include) for stored in page.data]
        await self._send(list_object(data, has_more=page.has_more))

    async def _input_items(self, stored: StoredResponse) -> None:
        query = Query.read(self.scope)
        data, has_more = select_page(stored.input, query)
        include = query.include
        await self._send(list_object([render_item(item, include) for item in data], has_more=has_more))

    async def _delete(self, principal: Principal, response_id: str) -> None:
        if not ID_PATTERN.fullmatch(response_id) or not await self.runtime.response_services.responses.delete(
            owner_of(principal), response_id
        ):
            raise not_found(response_id)
        await self._send({"id": response_id, "object": "response", "deleted": True})

    async def _cancel(self, principal: Principal, response_id: str) -> None:
        stored = await self._find(principal, response_id)
        if not stored.is_background:
            raise BadRequest("Only responses that were created with background=true can be cancelled.")
        cancelled = await self.runtime.response_services.responses.cancel(stored)
        if cancelled is None:
            raise not_found(response_id)
        await self._send(render_response(cancelled.response, frozenset()))

    async def _find(self, principal: Principal, response_id: str) -> StoredResponse:
        """Raises NotFound, in the same words for an unknown, deleted, expired or foreign one."""
        stored = (
            await self.runtime.response_services.responses.find(owner_of(principal), response_id)
            if ID_PATTERN.fullmatch(response_id)
            else None
        )
        if stored is None:
            raise not_found(response_id)
        return stored

    async def _send(self, value: object) -> None:
        await self.reply.send_body(200, [], orjson.dumps(value))


def not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:128]}' not found.", code="response_not_found")


ENDPOINT = Endpoint(name="responses", paths=PATHS, consumer=ResponsesConsumer, prefix=True, socket=SocketConsumer)
