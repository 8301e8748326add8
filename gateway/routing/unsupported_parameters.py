"""UnsupportedParameters: the parameters that a deployment refuses, learned from its 400s and kept in memory.

The gateway leaves a refused parameter out, and makes the call once more. Rules by the names of models grow old; an
upstream's own answer does not.
"""

import re
from collections.abc import Container
from dataclasses import replace

import orjson

from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

MAX_DEPLOYMENTS = 10_000
MAX_NAMES = 64  # for one deployment: callers choose the names of unknown fields
#: The most retries of one call: after more refusals than these, something else is wrong.
MAX_LESSONS = 4
BEDROCK = r"(?:The model returned the following errors: )?"
#: The texts of refusals; group 1 is the parameter to leave out, where the text names it. They are compared with the
#: beginning of a message only: further on, a message may repeat text of a caller, and what one caller sends must not
#: change another's calls.
REFUSALS = tuple(
    re.compile(BEDROCK + words, re.IGNORECASE)
    for words in (
        r"`?temperature`? and `?top_p`? cannot both be specified",
        r"`(temperature|top_p|top_k)`[^.`]*deprecated",
        r"unsupported (?:parameter|value): '?`?([a-z_]{1,64})",
        # Whole names only: a wrong member inside a parameter is the caller's mistake.
        r"unknown parameter: '([a-z_]{1,64})'",
        r"unrecognized request arguments? supplied: ([a-z_]{1,64})(?:,|\s*$)",
    )
)
#: Without one of these a request would mean something else, so the caller sees its refusal.
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

    def note(self, target: Target, call: Call, fault: UpstreamFault, body: bytes = b"") -> Target | None:
        """The target of a retry; None where the fault names no new parameter. `body` is the one that was refused: its
        names may differ from those of the client's dialect."""
        name = refused_parameter(fault)
        if (
            name is None
            or name in target.unsupported_parameters
            or name in ESSENTIAL
            or not _may_contain(name, target, call, body)
        ):
            return None
        names = self._names.get(target.deployment_id)
        if (names is not None and len(names) < MAX_NAMES) or (names is None and len(self._names) < MAX_DEPLOYMENTS):
            self._names[target.deployment_id] = (names or frozenset()) | target.unsupported_parameters | {name}
        return _without(target, target.unsupported_parameters | {name})


def _may_contain(name: str, target: Target, call: Call, body: bytes) -> bool:
    """The refused request may have had the parameter: from the client, the deployment or the gateway."""
    return name in call.body or name in target.parameters or name in _members(body)


def _members(text: bytes) -> Container[str]:
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        return ()
    return body if isinstance(body, dict) else ()


def _without(target: Target, names: frozenset[str]) -> Target:
    """The target without these parameters, even those that the deployment itself sets."""
    refused = (names & target.parameters.keys()) - target.provider.own_parameters
    if not refused:
        return replace(target, unsupported_parameters=names)
    parameters = {name: value for name, value in target.parameters.items() if name not in refused}
    return replace(target, unsupported_parameters=names, parameters=parameters)


def refused_parameter(fault: UpstreamFault) -> str | None:
    """The parameter that a 400 refuses; None for any other fault."""
    if fault.status != 400:
        return None
    for pattern in REFUSALS:
        match = pattern.match(fault.message)
        if match:
            return match.group(1) if match.groups() else "top_p"
    return None
