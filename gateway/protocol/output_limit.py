"""The limit of a call's output, under the names of all dialects. Pure."""

from dataclasses import replace

from gateway.protocol.call import Call
from gateway.protocol.json.body import add_members, replace_member
from gateway.protocol.json.large_body import body_of
from gateway.protocol.json.types import JsonMapping, JsonObject

NAMES = ("max_completion_tokens", "max_output_tokens", "max_tokens")
#: Wire format → the name for a request that has none of them.
NAME_BY_WIRE = {"responses": "max_output_tokens"}


def read_output_limit(fields: JsonMapping) -> int | None:
    """The largest limit, because dialects differ in which one they take."""
    limits = [value for name in NAMES if type(value := fields.get(name)) is int]
    return max([0, *limits]) if limits else None


def lower_output(call: Call, limit: int) -> Call:
    """The call with an output of at most `limit` tokens for each answer. Only the limit changes in its bytes."""
    body, raw = call.body, call.raw
    changes: JsonObject = {name: min(value, limit) for name in NAMES if type(value := body.get(name)) is int}
    if not changes:
        changes[NAME_BY_WIRE.get(call.dialect.wire, "max_tokens")] = limit
    for name, value in changes.items():
        raw = replace_member(raw, name, value, body) if name in body else add_members(raw, {name: value})
    lowered = replace(call, body=body_of(raw, {**body, **changes}), raw=raw)
    call.release_body()  # both would stay in memory
    return lowered
