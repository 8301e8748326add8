"""The faults and headers of error answers in OpenAI's shape; a dialect with another shape renders its own."""

from gateway.protocol.dialects.openai.wire import error_body
from gateway.protocol.errors import GatewayFault

INTERNAL = GatewayFault(
    "The gateway failed on this request; its log has the details under the request id.",
    status=500,
    code="internal_error",
)
SHUTTING_DOWN = GatewayFault("The gateway is shutting down.", code="shutting_down")


__all__ = ["INTERNAL", "SHUTTING_DOWN", "error_body"]
