"""BodyLimit, in front of Django: Django would spool a body to disk without a limit before anybody is authenticated."""

import asyncio

from gateway.edge.asgi_types import App, Message, Receive, Scope, Send
from gateway.edge.consumer import ClientDisconnected, read_body
from gateway.edge.problems import error_body
from gateway.edge.reply import AsgiReply
from gateway.protocol.errors import ClientFault, TooLarge
from tenants.rest.client_departure import add_departure

MAX_BYTES = 1024 * 1024  # the management API and the console's forms, with the files of invoices
DEADLINE_S = 60.0
TOO_SLOW = ClientFault("The body took too long to arrive.", status=408, code="request_timeout")


class BodyLimit:
    """Reads the whole body, bounded in bytes and time, and hands it to the application in one message."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(DEADLINE_S):
                body = await read_body(dict(scope["headers"]), receive, MAX_BYTES)
        except ClientDisconnected:
            return
        except TooLarge as fault:
            await _refuse(fault, send)
            return
        except TimeoutError:
            await _refuse(TOO_SLOW, send)
            return
        departure, is_read = add_departure(scope), False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                message = await receive()
                if message["type"] == "http.disconnect":
                    departure.note()
                return message
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)


async def _refuse(fault: ClientFault, send: Send) -> None:
    await AsgiReply(send, []).send_body(fault.status, [(b"connection", b"close")], error_body(fault))
