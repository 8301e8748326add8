"""The gateway as a library: the same pipeline, without a server, a database or Django."""

from gateway.sdk.details import AttemptDetails, Details, details
from gateway.sdk.process import DIRECT_CALLS, configure
from gateway.sdk.result_loader import load_results
from gateway.sdk.router import Router
from gateway.sdk.streams import AsyncStream, Stream

completion = DIRECT_CALLS.completion
acompletion = DIRECT_CALLS.acompletion
text_completion = DIRECT_CALLS.text_completion
atext_completion = DIRECT_CALLS.atext_completion
embedding = DIRECT_CALLS.embedding
aembedding = DIRECT_CALLS.aembedding
responses = DIRECT_CALLS.responses
aresponses = DIRECT_CALLS.aresponses
get_responses = DIRECT_CALLS.get_responses
aget_responses = DIRECT_CALLS.aget_responses
delete_responses = DIRECT_CALLS.delete_responses
adelete_responses = DIRECT_CALLS.adelete_responses
cancel_responses = DIRECT_CALLS.cancel_responses
acancel_responses = DIRECT_CALLS.acancel_responses
list_input_items = DIRECT_CALLS.list_input_items
alist_input_items = DIRECT_CALLS.alist_input_items

__all__ = [
    "AsyncStream",
    "AttemptDetails",
    "Details",
    "Router",
    "Stream",
    "acancel_responses",
    "acompletion",
    "adelete_responses",
    "aembedding",
    "aget_responses",
    "alist_input_items",
    "aresponses",
    "atext_completion",
    "cancel_responses",
    "completion",
    "configure",
    "delete_responses",
    "details",
    "embedding",
    "get_responses",
    "list_input_items",
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
