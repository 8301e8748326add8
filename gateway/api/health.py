"""GET /health/liveliness (and /liveness): the process answers. /health/readiness: it can serve calls."""

import orjson

from gateway.edge.asgi_types import App, Receive, Scope, Send
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint, StartState
from gateway.edge.reply import AsgiReply
from gateway.version import VERSION

STARTING = "The gateway is starting."


class HealthConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        runtime = self.runtime
        await _answer(self.reply, self.scope["path"], runtime.is_draining, runtime.unready_reason)


def answer_without_runtime(state: StartState) -> App:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(AsgiReply(send, []), scope["path"], state.drain.has_begun, state.reason or STARTING)

    return answer


async def _answer(reply: AsgiReply, path: str, is_draining: bool, unready_reason: str) -> None:
    if is_draining:
        await reply.send_body(503, [], b'{"status":"shutting down"}')
    elif not path.rstrip("/").endswith("/readiness"):
        await reply.send_body(200, [], b'"I\'m alive!"')
    elif unready_reason:
        body = {"status": "unhealthy", "db": "Not connected", "reason": unready_reason}
        await reply.send_body(503, [(b"retry-after", b"1")], orjson.dumps(body))
    else:
        body = {"status": "healthy", "db": "connected", "litellm_version": f"tollgate-{VERSION}"}
        await reply.send_body(200, [], orjson.dumps(body))


ENDPOINT = Endpoint(
    name="health",
    paths=("/health/liveliness", "/health/liveness", "/health/readiness"),
    consumer=HealthConsumer,
    without_runtime=answer_without_runtime,
)
