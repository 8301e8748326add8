"""Completions as chat, for a provider that has no completions."""

from dataclasses import replace

from gateway.protocol.call import Call, Operation
from gateway.protocol.items import ChatRequest


def to_chat_request(call: Call) -> ChatRequest:
    """The chat request of a call. The fields of a completion that a chat has no place for go to `others`: a provider
    reports those as dropped, or refuses them where its deployment is strict."""
    request = call.dialect.chat_request(call)
    if call.operation is not Operation.COMPLETION:
        return request
    return replace(request, others={**request.others, **dict.fromkeys(call.dialect.unsupported_fields(call), True)})
