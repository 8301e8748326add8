"""UnsupportedParameters: the parameters that a deployment refuses, learned from its 400s and kept in memory.

The gateway leaves a refused parameter out, and makes the call once more. Rules by the names of models grow old; an
upstream's own answer does not. A refused *value* is left out of this one call only: what one caller sends must not
change another's calls.
"""

import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import orjson

from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

MAX_SUBJECTS = 10_000
MAX_NAMES = 64  # for one deployment: callers choose the names of unknown fields
#: The most retries of one call: after more refusals than these, something else is wrong.
MAX_LESSONS = 4
BEDROCK = r"(?:The model returned the following errors: )?"
#: How long a refusal is remembered: upstreams learn new parameters, and servers are replaced behind their address.
REMEMBERED_S = 3600.0
#: The texts that refuse a parameter; group 1 is its name. They are compared with the beginning of a message only:
#: further on, a message may repeat text of a caller.
REFUSED_PARAMETERS = tuple(
    re.compile(BEDROCK + words, re.IGNORECASE)
    for words in (
        r"`(temperature|top_p|top_k)`[^.`]*deprecated",
        r"unsupported parameter: '?`?([a-z_]{1,64})",
        # Whole names only: a wrong member inside a parameter is the caller's mistake.
        r"unknown parameter: '([a-z_]{1,64})'",
        r"unrecognized request arguments? supplied: ([a-z_]{1,64})(?:,|\s*$)",
    )
)
#: The texts that refuse what a parameter holds in this call, alone or beside another one.
REFUSED_VALUES = tuple(
    re.compile(BEDROCK + words, re.IGNORECASE)
    for words in (
        r"`?temperature`? and `?(top_p)`? cannot both be specified",
        r"unsupported value: '?`?([a-z_]{1,64})",
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


@dataclass(frozen=True, slots=True)
class Refusal:
    """The parameter that a 400 refuses; `is_value`: only the value that it has in this call."""

    name: str
    is_value: bool = False


#: A deployment as it stands: one that is changed to another model or address has refused nothing yet.
Subject = tuple[str, str, str]


class UnsupportedParameters:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._expiries: dict[Subject, dict[str, float]] = {}

    def apply(self, target: Target) -> Target:
        names = self._remembered(_subject(target))
        return _without(target, frozenset(names)) if names else target

    def note(self, target: Target, call: Call, fault: UpstreamFault, body: bytes = b"") -> Target | None:
        """The target of a retry; None where the fault names no new parameter. `body` is the one that was refused: its
        names may differ from those of the client's dialect."""
        refusal = find_refusal(fault)
        if (
            refusal is None
            or refusal.name in target.unsupported_parameters
            or refusal.name in ESSENTIAL
            or not _may_contain(refusal.name, target, call, body)
        ):
            return None
        if not refusal.is_value:
            self._remember(_subject(target), refusal.name)
        return _without(target, target.unsupported_parameters | {refusal.name})

    def _remembered(self, subject: Subject) -> dict[str, float]:
        expiries = self._expiries.get(subject)
        if not expiries:
            return {}
        now = self._now()
        if any(expiry <= now for expiry in expiries.values()):
            expiries = {name: expiry for name, expiry in expiries.items() if expiry > now}
            if expiries:
                self._expiries[subject] = expiries
            else:
                del self._expiries[subject]
        return expiries

    def _remember(self, subject: Subject, name: str) -> None:
        expiries = self._remembered(subject)
        if len(expiries) >= MAX_NAMES:
            return
        if not expiries and len(self._expiries) >= MAX_SUBJECTS:  # callers choose the models behind a wildcard
            del self._expiries[next(iter(self._expiries))]
        self._expiries[subject] = {**expiries, name: self._now() + REMEMBERED_S}


def _subject(target: Target) -> Subject:
    return target.deployment_id, target.upstream_model, target.api_base


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


def find_refusal(fault: UpstreamFault) -> Refusal | None:
    """The refusal that a 400 tells; None for any other fault."""
    if fault.status != 400:
        return None
    for is_value, patterns in ((False, REFUSED_PARAMETERS), (True, REFUSED_VALUES)):
        for pattern in patterns:
            match = pattern.match(fault.message)
            if match:
                return Refusal(match.group(1).lower(), is_value)
    return None
