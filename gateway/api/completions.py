"""POST /v1/completions."""

from gateway.edge.consumer import DialectConsumer
from gateway.edge.endpoint import Endpoint
from gateway.protocol.dialects.openai.completions import DIALECT

ENDPOINT = Endpoint(
    name="completions",
    paths=("/v1/completions", "/completions"),
    consumer=DialectConsumer,
    options={"dialect": DIALECT},
)
