"""Counting a request's tokens by its upstream, which costs nothing and therefore has no row."""

import asyncio

import orjson

from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.services import Services
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target
from gateway.protocol.usage import MAX_TOKENS

TIMEOUT_S = 5.0  # then the client gets an estimate


async def count_upstream(call: Call, target: Target, services: Services) -> int | None:
    """The upstream's own count of the input; None where it counts nothing, or does not answer with a number in time."""
    provider = target.provider
    if provider.wire(target) != call.dialect.wire:
        return None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            kind = provider.token(target)
            token = await services.tokens.get(kind, target) if kind else ""
            context = AttemptContext(services.new_id(), services.now(), token=token)
            request = await read_sized(len(call.raw), provider.count_request, call, target, context)
            if request is None:
                return None
            answer = await services.client.send(request)
            try:
                if answer.status != 200:
                    return None
                raw = await answer.read()
                answer_body = await read_sized(len(raw), orjson.loads, raw)
            finally:
                answer.close()
    except (UpstreamFault, TimeoutError, orjson.JSONDecodeError):
        return None
    count = answer_body.get("input_tokens") if isinstance(answer_body, dict) else None
    return count if type(count) is int and 0 <= count <= MAX_TOKENS else None
