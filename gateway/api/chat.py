"""POST /v1/chat/completions."""

from gateway.edge.consumer import DialectConsumer
from gateway.edge.endpoint import Endpoint
from gateway.protocol.dialects.openai.chat import DIALECT

ENDPOINT = Endpoint(
    name="chat",
    paths=("/v1/chat/completions", "/chat/completions"),
    consumer=DialectConsumer,
    options={"dialect": DIALECT},
)
