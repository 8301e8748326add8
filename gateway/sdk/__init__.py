"""The gateway as a library: the same pipeline, without a server, a database or Django."""

from gateway.sdk.details import AttemptDetails, Details, details
from gateway.sdk.process import DIRECT_CALLS
from gateway.sdk.result_loader import load_results
from gateway.sdk.streams import AsyncStream, Stream

completion = DIRECT_CALLS.completion
acompletion = DIRECT_CALLS.acompletion
text_completion = DIRECT_CALLS.text_completion
atext_completion = DIRECT_CALLS.atext_completion
embedding = DIRECT_CALLS.embedding
aembedding = DIRECT_CALLS.aembedding
responses = DIRECT_CALLS.responses
aresponses = DIRECT_CALLS.aresponses

__all__ = [
    "AsyncStream",
    "AttemptDetails",
    "Details",
    "Stream",
    "acompletion",
    "aembedding",
    "aresponses",
    "atext_completion",
    "completion",
    "details",
    "embedding",
    "responses",
    "text_completion",
]


def __getattr__(name: str) -> type[Exception]:
    """The errors by their names: `sdk.RateLimitError`."""
    if name.endswith("Error"):
        found = load_results().errors.get(name)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
