"""What has to change in a request whose bytes pass: the members that break a rule of the server's Traits.

A request that breaks none has no edits, and its bytes stay as they are. The rules: docs/dialects/openai.md.
"""

from dataclasses import dataclass, field

from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.upstream_request import (
    OUR_FIELDS,
    REASONING_FIELDS,
    Traits,
    has_tools,
    set_limit,
    set_sampling,
    set_thinking,
)
from gateway.protocol.dialects.openai.wire import OUR_METADATA, OURS
from gateway.protocol.dialects.shared.parameters import Draft, add_defaults, refuse_dropped
from gateway.protocol.json.body import ABSENT
from gateway.protocol.json.types import JsonObject
from gateway.protocol.provider import Target


@dataclass(frozen=True, slots=True)
class Edits:
    #: Members of the client's body with their new values, ABSENT for those that go.
    changes: JsonObject = field(default_factory=dict)
    #: Members that the client's body has not.
    extra: JsonObject = field(default_factory=dict)
    #: Parameters that the server cannot be told.
    dropped: tuple[str, ...] = ()


def edits_of(call: Call, target: Target, traits: Traits) -> Edits:
    """Raises BadRequest where the deployment wants no parameter dropped."""
    body, capabilities = call.body, target.capabilities
    fields = {name: value for name, value in body.items() if value is not None and name not in OURS}
    draft = Draft(add_defaults(fields, target.parameters, excluded=body.keys()))
    asked = draft.body
    _take_our_metadata(asked)
    if call.operation is Operation.CHAT:
        asked["messages"] = _messages(asked["messages"], traits)
        if has_tools(asked) and not capabilities.parallel_tools:
            draft.drop("parallel_tool_calls")
        if traits.is_openai:
            set_thinking(draft, traits, capabilities, is_translated=False)
        set_limit(asked, traits, capabilities, target.unsupported_parameters)
        if capabilities.structured == "none":
            draft.drop("response_format")
    if call.operation is not Operation.EMBEDDING:
        set_sampling(draft, capabilities)
    unwanted = traits.unknown | target.unsupported_parameters
    draft.drop_all(unwanted)
    refuse_dropped(draft.dropped, capabilities)
    changes: JsonObject = {}
    for name, value in body.items():
        if name not in asked:
            if value is not None or name in unwanted or name in OURS:
                changes[name] = ABSENT
        elif asked[name] is not value:
            changes[name] = asked[name]
    extra = {name: value for name, value in asked.items() if name not in body}
    return Edits(changes, extra, tuple(dict.fromkeys(draft.dropped)))


def _take_our_metadata(asked: JsonObject) -> None:
    metadata = asked.get("metadata")
    if isinstance(metadata, dict) and not OUR_METADATA.isdisjoint(metadata):
        asked["metadata"] = {name: value for name, value in metadata.items() if name not in OUR_METADATA}
        if not asked["metadata"]:
            del asked["metadata"]


def _messages(messages: list[JsonObject], traits: Traits) -> list[JsonObject]:
    """The same list where no message breaks a rule."""
    foreign = {*OUR_FIELDS, *(() if traits.takes_reasoning else REASONING_FIELDS)}
    if not traits.takes_names:
        foreign.add("name")
    renamed = "" if traits.is_openai else "developer"
    for message in messages:
        if message["role"] == renamed or not foreign.isdisjoint(message):
            return [_message(one, foreign, renamed) for one in messages]
    return messages


def _message(message: JsonObject, foreign: set[str], renamed: str) -> JsonObject:
    kept = {name: value for name, value in message.items() if name not in foreign}
    if message["role"] == renamed:
        kept["role"] = "system"
    if message["role"] == "function" and "name" in message:  # which it cannot do without
        kept["name"] = message["name"]
    return kept
