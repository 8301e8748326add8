"""The routing of one attempt, as its spend log keeps it: why it was made there, how it failed, and which deployments
were left out for which reason.

Shape, JSON in a text: {"reason": StepReason, "wait_s": 0.5, "class": ErrorClass, "upstream_status": 429, "dropped":
[{"id", "name", "reason"}], "more": count of those that are not told}. Members without a value are absent, and a first
attempt that succeeds with nothing left out has an empty text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from gateway.pipeline.ports import Attempt
from gateway.protocol.json.types import JsonObject
from gateway.routing.filters import Dropped
from gateway.routing.walk import Step

MAX_DROPPED = 20
MAX_TEXT = 2000  # bytes
MAX_NAME = 80
MAX_REASON = 120


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A deployment that did not get the attempt. `reason` continues the sentence "The deployment …"."""

    deployment_id: str
    name: str  # provider/model
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptRouting:
    """The routing of an attempt, as its spend row has it; empty members are unknown. `wait_s`: seconds that the request
    waited before the attempt began."""

    reason: str = ""
    wait_s: float = 0.0
    error_class: str = ""
    upstream_status: int = 0
    left_out: tuple[LeftOut, ...] = ()
    more: int = 0  # left out too, and not told


def routing_text(attempt: Attempt) -> str:
    """Empty for an attempt of which there is nothing to tell."""
    step = attempt.step
    if not (attempt.number or attempt.error_class or (step is not None and step.dropped)):
        return ""
    dropped = step.dropped if step is not None else ()
    told = _entries(dropped)
    while True:
        members = _members_of(attempt, step)
        if told:
            members["dropped"] = told
        if len(dropped) > len(told):
            members["more"] = len(dropped) - len(told)
        try:
            raw = orjson.dumps(members)
        except orjson.JSONEncodeError:  # a name that is no Unicode: the row is written without
            return ""
        if len(raw) <= MAX_TEXT or not told:
            return raw.decode()
        told = told[: len(told) * 3 // 4]


def _members_of(attempt: Attempt, step: Step | None) -> JsonObject:
    members: JsonObject = {}
    if step is not None:
        members["reason"] = step.reason.value
        if step.delay_s:
            members["wait_s"] = round(step.delay_s, 3)
    if attempt.error_class:
        members["class"] = attempt.error_class
    if attempt.error_class and attempt.upstream_status:
        members["upstream_status"] = attempt.upstream_status
    return members


def _entries(dropped: Sequence[Dropped]) -> list[JsonObject]:
    return [
        {
            "id": drop.target.deployment_id[:MAX_NAME],
            "name": f"{drop.target.provider.name}/{drop.target.upstream_model}"[:MAX_NAME],
            "reason": drop.reason[:MAX_REASON],
        }
        for drop in dropped[:MAX_DROPPED]
    ]


def read_routing(text: str) -> AttemptRouting:
    """The routing in a spend log; an empty one where there is none that can be read."""
    try:
        values = json.loads(text) if text else {}
        return AttemptRouting(
            reason=str(values.get("reason", "")),
            wait_s=float(values.get("wait_s", 0)),
            error_class=str(values.get("class", "")),
            upstream_status=int(values.get("upstream_status", 0)),
            left_out=tuple(
                LeftOut(str(entry["id"]), str(entry["name"]), str(entry["reason"]))
                for entry in values.get("dropped", ())
            ),
            more=int(values.get("more", 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return AttemptRouting()
