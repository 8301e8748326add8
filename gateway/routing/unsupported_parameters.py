"""What upstreams have taught: parameters that a deployment refuses, remembered while the process lives.

Guesses by a model's name rot; an upstream's own 400 does not. A refused parameter is left out, and the call is made
once more.
"""

import re
from collections.abc import Container
from dataclasses import replace

import orjson

from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

MAX_DEPLOYMENTS = 10_000
MAX_NAMES = 64  # of one deployment: callers choose the names of unknown fields
#: How often one call is made once more: more refusals than these mean something else is wrong.
MAX_LESSONS = 4
BEDROCK = r"(?:The model returned the following errors: )?"
#: A refusal's words → the parameter to leave out; group 1 where the words name it. Held against the beginning of a
#: message only: further on it may repeat what a caller sent, and what one caller sends must not change another's calls.
REFUSALS = tuple(
    re.compile(BEDROCK + words, re.IGNORECASE)
    for words in (
        r"`?temperature`? and `?top_p`? cannot both be specified",
        r"`(temperature|top_p|top_k)`[^.`]*deprecated",
        r"unsupported (?:parameter|value): '?`?([a-z_]{1,64})",
        # Whole names only: a member within one is the caller's mistake, not the parameter's.
        r"unknown parameter: '([a-z_]{1,64})'",
        r"unrecognized request arguments? supplied: ([a-z_]{1,64})(?:,|\s*$)",
    )
)
#: Without these a request would mean something else: their refusal is the caller's to see.
ESSENTIAL = frozenset(
    {
        "model",
        "messages",
        "input",
        "prompt",
        "instructions",
        "text",
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "response_format",
        "stream",
        "n",
        "dimensions",
        "encoding_format",
        "modalities",
        "audio",
        "suffix",
        "system",
    }
)


class UnsupportedParameters:
    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def apply(self, target: Target) -> Target:
        names = self._names.get(target.deployment_id)
        return target if names is None else _without(target, names)

    def note(self, target: Target, call: Call, fault: UpstreamFault, sent: bytes = b"") -> Target | None:
        """The target to try once more with; None where the fault teaches nothing new. `sent`: the body that was
        refused, which another dialect's client asks for in words of its own."""
        name = refused_parameter(fault)
        if (
            name is None
            or name in target.unsupported_parameters
            or name in ESSENTIAL
            or not _may_stand(name, target, call, sent)
        ):
            return None
        known = self._names.get(target.deployment_id)
        if (known is not None and len(known) < MAX_NAMES) or (known is None and len(self._names) < MAX_DEPLOYMENTS):
            self._names[target.deployment_id] = (known or frozenset()) | target.unsupported_parameters | {name}
        return _without(target, target.unsupported_parameters | {name})


def _may_stand(name: str, target: Target, call: Call, sent: bytes) -> bool:
    """Whether the request may have held the parameter: the client's, the deployment's, or the gateway's own."""
    return name in call.body or name in target.parameters or name in _members(sent)


def _members(sent: bytes) -> Container[str]:
    try:
        body = orjson.loads(sent)
    except orjson.JSONDecodeError:
        return ()
    return body if isinstance(body, dict) else ()


def _without(target: Target, names: frozenset[str]) -> Target:
    """The target that is asked without these, also where the deployment itself sets one of them."""
    refused = (names & target.parameters.keys()) - target.provider.own_parameters
    if not refused:
        return replace(target, unsupported_parameters=names)
    kept = {name: value for name, value in target.parameters.items() if name not in refused}
    return replace(target, unsupported_parameters=names, parameters=kept)


def refused_parameter(fault: UpstreamFault) -> str | None:
    if fault.status != 400:
        return None
    for pattern in REFUSALS:
        found = pattern.match(fault.message)
        if found:
            return found.group(1) if found.groups() else "top_p"
    return None
