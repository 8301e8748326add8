"""A create request of the Responses API: what is refused, what it asks for, and how the response object repeats it.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of the `openai` package 3.51.0;
the decision on every field is in docs/dialects/responses.md. The messages: responses_conversation.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.protocol import fields
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.responses.items import (
    INCLUDABLE,
    LOGPROBS,
    invalid_value,
    missing_parameter,
    read_input,
    read_optional_text,
    read_text,
)
from gateway.protocol.dialects.responses.namespaces import CLIENT_RUN, NAMESPACE, Namespaces
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest
from gateway.protocol.ids import Ids
from gateway.protocol.items import ChatRequest, OutputFormat, Tool, ToolChoice
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.types import JsonObject

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    body: Mapping[str, Any]
    raw: bytes
    model: str
    input: tuple[Item, ...]  # this request's own items, ids assigned
    instructions: str
    previous_response_id: str
    conversation_id: str
    store: bool
    background: bool
    stream: bool
    include: frozenset[str]
    metadata: Mapping[str, str]
    echo: JsonObject  # the response object's members that repeat the request: {"id", "object", "created_at", **echo}
    ignored_fields: tuple[str, ...]  # fields that no translated upstream is told
    truncates_automatically: bool
    end_user: str
    tags: tuple[str, ...]
    spend_metadata: Mapping[str, Any]
    ids: Ids  # what the input's ids were made by, and the answer's will be


# What is refused for every upstream


def _choice_of(*values: str) -> fields.Check:
    def check(value: Any) -> str | None:
        return None if type(value) is str and value in values else f"it must be one of {', '.join(values)}"

    return check


def _conversation(value: Any) -> str | None:
    given = value.get("id") if type(value) is dict else value
    return "it must be an id, or an object with one" if fields.nonempty_text(given) else None


CHECKS: Mapping[str, fields.Check] = {
    "model": fields.nonempty_text,
    "instructions": fields.text,
    "previous_response_id": fields.nonempty_text,
    "conversation": _conversation,
    "store": fields.boolean,
    "background": fields.boolean,
    "stream": fields.boolean,
    "stream_options": fields.mapping,
    "max_output_tokens": fields.integer(1),
    "max_tool_calls": fields.integer(1),
    "parallel_tool_calls": fields.boolean,
    "temperature": fields.number(0, 2),
    "top_p": fields.number(0, 1),
    "top_logprobs": fields.integer(0, 20),
    "presence_penalty": fields.number(-2, 2),
    "frequency_penalty": fields.number(-2, 2),
    "text": fields.mapping,
    "reasoning": fields.mapping,
    "truncation": _choice_of("disabled", "auto"),
    "service_tier": fields.nonempty_text,
    "prompt_cache_key": fields.text,
    "prompt_cache_retention": fields.text,
    "prompt_cache_options": fields.mapping,
    "safety_identifier": fields.text,
    "user": fields.text,
    "prompt": fields.mapping,
    "context_management": fields.list_of(fields.mapping),
    "moderation": fields.mapping,
    "access_programs": fields.mapping,
    "image": fields.mapping,
}
#: Looked at below, each part on its own.
CHECKED_BELOW = frozenset({"input", "include", "metadata", "tools", "tool_choice"})
KNOWN = CHECKED_BELOW.union(CHECKS)
#: What only OpenAI's own servers can do: without these the answer would not be what was asked for.
NATIVE_ONLY = ("prompt", "context_management", "moderation", "access_programs", "image")
#: Members of `reasoning` that no other format has; without them the answer means the same.
UNCARRIED_REASONING = ("context", "mode")
#: What `reasoning.summary` may ask for: more or less of it makes no difference to what an upstream thought.
SUMMARIES = frozenset({"auto", "concise", "detailed"})
#: Fields of OpenAI's chat format that have no member in a ChatRequest.
CHAT_FIELDS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
#: Data of the caller's own below which any name is allowed, beyond openai.CALLER_DATA.
CALLER_DATA = frozenset({"text", "instructions"})


def decode(
    raw: bytes, hints: Hints, ids: Ids, *, needs_model: bool = True, needs_input: bool = True
) -> ResponsesRequest:
    """Raises BadRequest naming the `param`. What only some upstreams can do: `refuse_hosted`."""
    body = parse_object(raw)
    fields.check_fields(body, CHECKS, ("model",) if needs_model else ())
    openai_wire.refuse_redirection({name: value for name, value in body.items() if name not in CALLER_DATA})
    include = _include(body.get("include"))
    metadata = read_metadata(body.get("metadata"))
    _check_text(body.get("text") or {})
    _check_reasoning(body.get("reasoning") or {})
    tools = _check_tools(body.get("tools"))
    _check_tool_choice(body.get("tool_choice"), tools)
    _check_together(body)
    conversation = body.get("conversation")
    items = read_input(body.get("input"), ids)
    has_context = any(body.get(name) is not None for name in ("previous_response_id", "conversation", "prompt"))
    if needs_input and not items and not has_context:
        raise missing_parameter("input")
    # `metadata` is the client's own here, so tags and spend metadata have their own fields
    ours = {name: body.get(name) for name in ("tags", "litellm_metadata")}
    end_user, tags, spend_metadata = openai_wire.read_caller_data(
        {**ours, "user": body.get("user") or body.get("safety_identifier")}, hints
    )
    return ResponsesRequest(
        body=body,
        raw=raw,
        model=body.get("model") or "",
        input=items,
        instructions=body.get("instructions") or "",
        previous_response_id=body.get("previous_response_id") or "",
        conversation_id=(conversation.get("id") if type(conversation) is dict else conversation) or "",
        store=body.get("store") is not False,
        background=body.get("background") is True,
        stream=body.get("stream") is True,
        include=include,
        metadata=metadata,
        echo=_echo(body, tools, metadata),
        ignored_fields=_ignored(body),
        truncates_automatically=body.get("truncation") == "auto",
        end_user=end_user,
        tags=tags,
        spend_metadata=spend_metadata,
        ids=ids,
    )


def _check_together(body: JsonObject) -> None:
    if body.get("previous_response_id") is not None and body.get("conversation") is not None:
        raise BadRequest(
            "'previous_response_id' and 'conversation' cannot be used together: send one of them.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if body.get("background") and body.get("store") is False:
        raise invalid_value(
            "background", "a background response is kept until it is fetched, so 'store' must not be false"
        )
    options = body.get("stream_options")
    if options is not None:
        if not body.get("stream"):
            raise invalid_value("stream_options", "it goes with 'stream' only")
        if type(options.get("include_obfuscation")) not in {bool, type(None)}:
            raise invalid_value("stream_options.include_obfuscation", "it must be true or false")


def _include(given: Any) -> frozenset[str]:
    if given is None:
        return frozenset()
    if type(given) is not list:
        raise invalid_value("include", "it must be an array of strings")
    for index, name in enumerate(given):
        if type(name) is not str or name not in INCLUDABLE:
            raise invalid_value(f"include[{index}]", f"it must be one of {', '.join(sorted(INCLUDABLE))}")
    return frozenset(given)


def read_metadata(given: Any) -> dict[str, str]:
    """Raises BadRequest naming what is not metadata, whoever's it is."""
    if given is None:
        return {}
    if type(given) is not dict:
        raise invalid_value("metadata", "it must be an object of strings")
    if len(given) > MAX_METADATA:
        raise invalid_value("metadata", f"it holds {len(given)} pairs, and {MAX_METADATA} are the most")
    for name, value in given.items():
        if len(name) > MAX_METADATA_KEY or "\0" in name:
            raise invalid_value("metadata", f"a key must have {MAX_METADATA_KEY} characters at most, none of them NUL")
        problem = fields.text(value)
        if problem:
            raise invalid_value(f"metadata.{name}", problem)
        if len(value) > MAX_METADATA_VALUE:
            raise invalid_value(f"metadata.{name}", f"it has more than {MAX_METADATA_VALUE} characters")
    return given


def _check_text(text: JsonObject) -> None:
    read_optional_text(text, "verbosity", "text")
    form = text.get("format")
    if form is None:
        return
    if type(form) is not dict:
        raise invalid_value("text.format", "it must be an object")
    kind = read_text(form, "type", "text.format")
    if kind not in {"text", "json_object", "json_schema"}:
        raise invalid_value("text.format.type", "it must be one of text, json_object, json_schema")
    if kind != "json_schema":
        return
    if not read_text(form, "name", "text.format"):
        raise invalid_value("text.format.name", "it must not be empty")
    if form.get("schema") is None:
        raise missing_parameter("text.format.schema")
    if type(form["schema"]) is not dict:
        raise invalid_value("text.format.schema", "it must be an object")
    read_optional_text(form, "description", "text.format")
    _optional_boolean(form, "strict", "text.format")


def _optional_boolean(holder: JsonObject, name: str, param: str) -> None:
    if type(holder.get(name)) not in {bool, type(None)}:
        raise invalid_value(f"{param}.{name}", "it must be true or false")


def _check_reasoning(reasoning: JsonObject) -> None:
    for name in ("effort", "summary", "generate_summary", *UNCARRIED_REASONING):
        read_optional_text(reasoning, name, "reasoning")


def wants_reasoning_summary(request: ResponsesRequest) -> bool:
    """Whether reasoning is to be told as a summary."""
    reasoning = request.body.get("reasoning") or {}
    return (reasoning.get("summary") or reasoning.get("generate_summary")) in SUMMARIES


# Tools


def _check_tools(given: Any) -> list[JsonObject]:
    if given is None:
        return []
    if type(given) is not list:
        raise invalid_value("tools", "it must be an array")
    for index, tool in enumerate(given):
        _check_tool(tool, f"tools[{index}]")
    return given


def _check_tool(tool: Any, param: str, *, is_inner: bool = False) -> None:
    if type(tool) is not dict:
        raise invalid_value(param, "it must be an object")
    kind = read_text(tool, "type", param)
    if kind not in CLIENT_RUN and (kind != NAMESPACE or is_inner):
        return
    if not read_text(tool, "name", param):
        raise invalid_value(f"{param}.name", "it must not be empty")
    read_optional_text(tool, "description", param)
    if kind == NAMESPACE:
        if type(tool.get("tools")) is not list:
            raise invalid_value(f"{param}.tools", "it must be an array")
        for index, inner in enumerate(tool["tools"]):
            _check_tool(inner, f"{param}.tools[{index}]", is_inner=True)
        return
    if kind == "function":
        if type(tool.get("parameters")) not in {dict, type(None)}:
            raise invalid_value(f"{param}.parameters", "it must be an object")
        _optional_boolean(tool, "strict", param)
        return
    form = tool.get("format")
    if form is None:
        return
    if type(form) is not dict:
        raise invalid_value(f"{param}.format", "it must be an object")
    if read_text(form, "type", f"{param}.format") == "grammar":
        read_text(form, "definition", f"{param}.format")
        read_text(form, "syntax", f"{param}.format")


def _check_tool_choice(choice: Any, tools: list[JsonObject]) -> None:
    if choice is None:
        return
    if type(choice) is str:
        if choice not in {"auto", "none", "required"}:
            raise invalid_value("tool_choice", "it must be one of auto, none, required, or an object")
        if choice == "required" and not any(tool["type"] != NAMESPACE or tool["tools"] for tool in tools):
            raise invalid_value("tool_choice", "it requires a tool, and 'tools' has none")
        return
    if type(choice) is not dict:
        raise invalid_value("tool_choice", "it must be a string or an object")
    kind = read_text(choice, "type", "tool_choice")
    if kind in CLIENT_RUN:
        _check_named(choice, tools, "tool_choice")
    elif kind == "allowed_tools":
        if choice.get("mode") not in ("auto", "required"):
            raise invalid_value("tool_choice.mode", "it must be one of auto, required")
        allowed = choice.get("tools")
        if type(allowed) is not list or not allowed:
            raise invalid_value("tool_choice.tools", "it must be an array of tools")
        for index, tool in enumerate(allowed):
            at = f"tool_choice.tools[{index}]"
            if type(tool) is not dict:
                raise invalid_value(at, "it must be an object")
            if read_text(tool, "type", at) in {*CLIENT_RUN, NAMESPACE}:
                _check_named(tool, tools, at)


def _check_named(choice: JsonObject, tools: list[JsonObject], param: str) -> None:
    """Tools that are found while the model works can be named before they are known."""
    name = read_text(choice, "name", param)
    namespace = read_optional_text(choice, "namespace", param)
    if any(tool["type"] not in {*CLIENT_RUN, NAMESPACE} for tool in tools):
        return
    if choice["type"] == NAMESPACE:
        names = {tool["name"] for tool in tools if tool["type"] == NAMESPACE and tool["tools"]}
    else:
        names = {tool["name"] for tool in tools if tool["type"] in CLIENT_RUN and not namespace}
        for tool in tools:
            if tool["type"] == NAMESPACE and namespace in (None, "", tool["name"]):
                names |= {inner["name"] for inner in tool["tools"] if inner["type"] in CLIENT_RUN}
    if name not in names:
        raise invalid_value(f"{param}.name", f"'tools' has no tool of the name {name[:64]!r}")


# What is refused for upstreams that do not speak this format


def refuse_native_only(request: ResponsesRequest) -> None:
    """Raises BadRequest naming what only an upstream of this same format can do. Called for every other one."""
    body = request.body
    for name in NATIVE_ONLY:
        if body.get(name):
            raise _unsupported(name, f"'{name}' is not supported by this model.")
    for index, tool in enumerate(body.get("tools") or ()):
        for param, one in _one_by_one(tool, f"tools[{index}]"):
            if one["type"] not in CLIENT_RUN:
                _refuse_tool(one["type"], f"{param}.type")
    choice = body.get("tool_choice")
    if type(choice) is dict:
        if choice["type"] not in {*CLIENT_RUN, "allowed_tools"}:
            _refuse_tool(choice["type"], "tool_choice.type")
        if choice["type"] == "allowed_tools":
            for index, tool in enumerate(choice["tools"]):
                if tool["type"] not in {*CLIENT_RUN, NAMESPACE}:
                    _refuse_tool(tool["type"], f"tool_choice.tools[{index}].type")
    for index, item in enumerate(request.input):
        if item["type"] in SERVER_COMMANDS:
            kind = item["type"]
            raise _unsupported(f"input[{index}].type", f"Items of the type '{kind}' are not supported by this model.")


def _one_by_one(tool: JsonObject, param: str) -> Iterator[tuple[str, JsonObject]]:
    if tool["type"] != NAMESPACE:
        yield param, tool
        return
    for index, inner in enumerate(tool["tools"]):
        yield f"{param}.tools[{index}]", inner


#: Input items that are orders to the server and no part of what was said: to leave one out would disobey it.
SERVER_COMMANDS = frozenset({"compaction_trigger", "configuration_update"})


def _unsupported(param: str, message: str) -> BadRequest:
    return BadRequest(message, param=param, code="unsupported_parameter")


def _refuse_tool(kind: str, param: str) -> None:
    message = f"The tool type {kind[:40]!r} is not supported by this model."
    raise BadRequest(message, param=param, code="unsupported_tool")


def _ignored(body: JsonObject) -> tuple[str, ...]:
    unknown = [name for name in body if name not in KNOWN and name not in openai_wire.OURS and body[name] is not None]
    reasoning = body.get("reasoning") or {}
    return (*unknown, *(f"reasoning.{name}" for name in UNCARRIED_REASONING if reasoning.get(name) is not None))


# The request for an upstream of another format


def build_settings(request: ResponsesRequest, namespaces: Namespaces | None = None) -> ChatRequest:
    """Everything but the messages. `namespaces`: those of the request."""
    body = request.body
    tools = body.get("tools") or ()
    namespaces = Namespaces(tools) if namespaces is None else namespaces
    text = body.get("text") or {}
    user, identifier = body.get("user") or "", body.get("safety_identifier") or ""
    others = {name: body.get(name) for name in CHAT_FIELDS} | {"verbosity": text.get("verbosity")}
    if user and user != identifier:  # else it is told as the user
        others["safety_identifier"] = identifier
    top_logprobs = body.get("top_logprobs") or None
    return ChatRequest(
        messages=(),
        tools=tuple(_tools(tools, namespaces)),
        tool_choice=_tool_choice(body.get("tool_choice"), namespaces),
        parallel_tools=body.get("parallel_tool_calls"),
        output=_output(text.get("format")),
        max_tokens=body.get("max_output_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        presence_penalty=body.get("presence_penalty"),
        frequency_penalty=body.get("frequency_penalty"),
        logprobs=True if top_logprobs or LOGPROBS in request.include else None,
        top_logprobs=top_logprobs,
        reasoning_effort=(body.get("reasoning") or {}).get("effort") or "",
        service_tier=body.get("service_tier") or "",
        user=user or identifier,
        others={name: value for name, value in others.items() if value},
    )


def _tools(tools: Iterable[JsonObject], namespaces: Namespaces) -> Iterator[Tool]:
    """What a namespace says of itself is said once, before its first tool's own description."""
    for tool in tools:
        if tool["type"] in CLIENT_RUN:
            yield _tool(tool, tool["name"], tool.get("description") or "")
        elif tool["type"] == NAMESPACE:
            said = tool.get("description") or ""
            for inner in tool["tools"]:
                if inner["type"] in CLIENT_RUN:
                    texts = [said, inner.get("description") or ""]
                    yield _tool(
                        inner, namespaces.upstream_name(tool["name"], inner["name"]), "\n\n".join(filter(None, texts))
                    )
                    said = ""


def _tool(tool: JsonObject, name: str, description: str) -> Tool:
    if tool["type"] == "function":
        return Tool(name, description, schema=tool.get("parameters"), strict=tool.get("strict"))
    return Tool(name, _with_grammar(description, tool.get("format") or {}), kind="custom")


def _with_grammar(description: str, form: JsonObject) -> str:
    """No other format has a place for the grammar of a free text, so the model is told it."""
    if form.get("type") != "grammar":
        return description
    grammar = f"The input must match this {form['syntax']} grammar:\n{form['definition']}"
    return f"{description}\n\n{grammar}" if description else grammar


def _tool_choice(choice: Any, namespaces: Namespaces) -> ToolChoice | None:
    if choice is None or type(choice) is str:
        return ToolChoice(choice) if choice else None
    if choice["type"] == "allowed_tools":
        tools = [tool for tool in choice["tools"] if tool["type"] in {*CLIENT_RUN, NAMESPACE}]
        names = dict.fromkeys(name for tool in tools for name in namespaces.names_for_choice(tool))
        return ToolChoice(choice["mode"], allowed=tuple(names))
    if choice["type"] not in CLIENT_RUN:
        return None
    chosen = namespaces.names_for_choice(choice)
    return ToolChoice("named", name=chosen[0]) if len(chosen) == 1 else ToolChoice("required", allowed=chosen)


def _output(form: JsonObject | None) -> OutputFormat | None:
    if form is None or form["type"] == "text":
        return None
    if form["type"] == "json_object":
        return OutputFormat("json_object")
    schema = form["schema"]
    if form.get("description") and "description" not in schema:
        schema = {**schema, "description": form["description"]}
    return OutputFormat("json_schema", name=form["name"], schema=schema, strict=form.get("strict"))


# The response object

#: `fast` is another name.
TIERS = {"auto": "default", "fast": "priority"}
#: What a tool's description may hold that must not be stored or shown again.
TOOL_SECRETS = frozenset({"authorization", "headers", "domain_secrets"})


def _echo(body: JsonObject, tools: list[JsonObject], metadata: dict[str, str]) -> JsonObject:
    """With a value for everything that the Open Responses schema requires; the order is that of OpenAI's object."""
    conversation = body.get("conversation")
    tier = body.get("service_tier") or "auto"
    echo: JsonObject = {
        "background": body.get("background") is True,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "model": body.get("model") or "",
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": _reasoning_echo(body.get("reasoning") or {}),
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": TIERS.get(tier, tier),
        "store": body.get("store") is not False,
        "temperature": _number(body.get("temperature"), 1.0),
        "top_p": _number(body.get("top_p"), 1.0),
        "presence_penalty": _number(body.get("presence_penalty"), 0.0),
        "frequency_penalty": _number(body.get("frequency_penalty"), 0.0),
        "text": _text_echo(body.get("text") or {}),
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_tool_echo(tool) for tool in tools],
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": body.get("truncation") or "disabled",
        "user": body.get("user"),
        "metadata": metadata,
    }
    if conversation is not None:
        echo["conversation"] = {"id": conversation["id"] if type(conversation) is dict else conversation}
    for name in ("prompt", "prompt_cache_retention"):
        if body.get(name) is not None:
            echo[name] = body[name]
    return echo


def _number(value: Any, default: float) -> Any:
    return default if value is None else value


def _reasoning_echo(reasoning: JsonObject) -> JsonObject:
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    known = {"effort": reasoning.get("effort"), "summary": summary}
    return known | {name: reasoning[name] for name in UNCARRIED_REASONING if reasoning.get(name) is not None}


def _text_echo(text: JsonObject) -> JsonObject:
    form = text.get("format") or {"type": "text"}
    if form["type"] == "json_schema":
        form = {
            "type": "json_schema",
            "name": form["name"],
            "description": form.get("description"),
            "schema": form["schema"],
            "strict": form.get("strict") is True,
        }
    else:
        form = {"type": form["type"]}
    verbosity = text.get("verbosity")
    return {"format": form} if verbosity is None else {"format": form, "verbosity": verbosity}


def _tool_echo(tool: JsonObject) -> JsonObject:
    if tool["type"] == "function":
        return {
            "type": "function",
            "name": tool["name"],
            "description": tool.get("description"),
            "parameters": tool.get("parameters"),
            "strict": tool.get("strict"),
            **{name: member for name, member in tool.items() if name not in FUNCTION_MEMBERS},
        }
    if tool["type"] == "custom":
        return tool
    if tool["type"] == NAMESPACE:
        return {**tool, "tools": [one if one["type"] in CLIENT_RUN else _without_secrets(one) for one in tool["tools"]]}
    kept: JsonObject = _without_secrets(tool)
    return kept


FUNCTION_MEMBERS = frozenset({"type", "name", "description", "parameters", "strict"})


def _without_secrets(value: Any) -> Any:
    if type(value) is dict:
        return {name: _without_secrets(member) for name, member in value.items() if name not in TOOL_SECRETS}
    return [_without_secrets(member) for member in value] if type(value) is list else value
