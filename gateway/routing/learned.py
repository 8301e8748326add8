"""What upstreams have taught: parameters that a deployment refuses, remembered while the process lives.

Guesses by a model's name rot; an upstream's own 400 does not. A refused parameter is left out, and the call is made
once more.
"""

import re
from dataclasses import replace

from gateway.protocol.call import Call
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

MAX_DEPLOYMENTS = 10_000
#: A refusal's words → the parameter to leave out; group 1 where the words name it.
REFUSALS = (
    re.compile(r"temperature and top_p cannot both be specified", re.IGNORECASE),
    re.compile(r"`(temperature|top_p|top_k)`[^.]*deprecated", re.IGNORECASE),
    re.compile(r"unsupported (?:parameter|value): '?`?([a-z_]+)", re.IGNORECASE),
)
#: Without these a request would mean something else: their refusal is the caller's to see.
ESSENTIAL = frozenset(
    {
        "model",
        "messages",
        "input",
        "prompt",
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


class Learned:
    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def apply(self, target: Target) -> Target:
        names = self._names.get(target.deployment_id)
        return target if names is None else replace(target, learned=names)

    def note(self, target: Target, call: Call, fault: UpstreamFault) -> Target | None:
        """The target to try once more with; None where the fault teaches nothing new."""
        name = refused_parameter(fault)
        if name is None or name in target.learned or name not in call.body or name in ESSENTIAL:
            return None
        known = self._names.get(target.deployment_id)
        if known is not None or len(self._names) < MAX_DEPLOYMENTS:
            self._names[target.deployment_id] = (known or frozenset()) | target.learned | {name}
        return replace(target, learned=target.learned | {name})


def refused_parameter(fault: UpstreamFault) -> str | None:
    if fault.status != 400:
        return None
    for pattern in REFUSALS:
        found = pattern.search(fault.message)
        if found:
            return found.group(1) if found.groups() else "top_p"
    return None
