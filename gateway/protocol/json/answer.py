"""The reader of JSON from an upstream: it refuses structure bombs before it builds them."""

import orjson

from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.body import has_more_values
from gateway.protocol.json.types import Json

#: Objects and arrays: as many as 20,000 tokens with twenty log probabilities each have.
MAX_CONTAINERS = 1_000_000
#: All values: as many as an answer of 32 MiB with vectors has.
MAX_VALUES = 4_000_000


def load_answer(raw: bytes) -> Json:
    """Raises orjson.JSONDecodeError, and UpstreamFault for more values than an answer can have."""
    if has_more_values(raw, containers=MAX_CONTAINERS, values=MAX_VALUES):
        raise UpstreamFault("The upstream's answer holds too many values.", finish="upstream_broken")
    return orjson.loads(raw)
