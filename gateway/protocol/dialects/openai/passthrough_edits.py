"""Edits of a request whose bytes pass: changes of the members that break a rule of the server's Traits.

A request that breaks no rule has no edits, and its bytes stay as they are. The rules: docs/dialects/openai.md.
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
    #: Members that the client's body lacks.
    extra: JsonObject = field(default_factory=dict)
    #: Parameters that the server does not take.
    dropped: tuple[str, ...] = ()


def edits_of(call: Call, target: Target, traits: Traits) -> Edits:
    """Raises BadRequest where the deployment wants no parameter dropped."""
    body, capabilities = call.body, target.capabilities
    fields = {name: value for name, value in body.items() if value is not None and name not in OURS}
    draft = Draft(add_defaults(fields, target.parameters, excluded=body.keys()))
    draft_body = draft.body
    _take_our_metadata(draft_body)
    if call.operation is Operation.CHAT:
        draft_body["messages"] = _messages(draft_body["messages"], traits)
        if has_tools(draft_body) and not capabilities.parallel_tools:
            draft.drop("parallel_tool_calls")
        if traits.is_openai:
            set_thinking(draft, traits, capabilities, is_translated=False)
        set_limit(draft_body, traits, capabilities, target.unsupported_parameters)
        if capabilities.structured == "none":
            draft.drop("response_format")
    if call.operation is not Operation.EMBEDDING:
        set_sampling(draft, capabilities)
    unwanted = traits.unknown | target.unsupported_parameters
    draft.drop_all(unwanted)
    refuse_dropped(draft.dropped, capabilities)
    changes: JsonObject = {}
    for name, value in body.items():
        if name not in draft_body:
            if value is not None or name in unwanted or name in OURS:
                changes[name] = ABSENT
        elif draft_body[name] is not value:
            changes[name] = draft_body[name]
    extra = {name: value for name, value in draft_body.items() if name not in body}
    return Edits(changes, extra, tuple(dict.fromkeys(draft.dropped)))


def _take_our_metadata(draft_body: JsonObject) -> None:
    metadata = draft_body.get("metadata")
    if isinstance(metadata, dict) and not OUR_METADATA.isdisjoint(metadata):
        draft_body["metadata"] = {name: value for name, value in metadata.items() if name not in OUR_METADATA}
        if not draft_body["metadata"]:
            del draft_body["metadata"]


def _messages(messages: list[JsonObject], traits: Traits) -> list[JsonObject]:
    """The same list where no message breaks a rule."""
    foreign = {*OUR_FIELDS, *(() if traits.takes_reasoning else REASONING_FIELDS)}
    if not traits.takes_names:
        foreign.add("name")
    renamed_role = "" if traits.is_openai else "developer"
    for message in messages:
        if message["role"] == renamed_role or not foreign.isdisjoint(message):
            return [_message(one, foreign, renamed_role) for one in messages]
    return messages


def _message(message: JsonObject, foreign: set[str], renamed_role: str) -> JsonObject:
    fields = {name: value for name, value in message.items() if name not in foreign}
    if message["role"] == renamed_role:
        fields["role"] = "system"
    if message["role"] == "function" and "name" in message:  # which a function message needs
        fields["name"] = message["name"]
    return fields
