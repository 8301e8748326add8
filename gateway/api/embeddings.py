"""POST /v1/embeddings."""

from gateway.edge.consumer import DialectConsumer
from gateway.edge.endpoint import Endpoint
from gateway.protocol.dialects.openai.embeddings import DIALECT

ENDPOINT = Endpoint(
    name="embeddings",
    paths=("/v1/embeddings", "/embeddings"),
    consumer=DialectConsumer,
    options={"dialect": DIALECT},
)
