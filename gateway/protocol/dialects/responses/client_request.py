"""A create request of the Responses API: its checks, its settings, and the response members that repeat it.

Source: https://platform.openai.com/docs/api-reference/responses/create and the types of the `openai` package 3.51.0;
the decision on every field is in docs/dialects/responses.md. conversation.py makes the messages.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.protocol import fields
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.openai import wire as openai_wire
from gateway.protocol.dialects.responses.hosted_tools import is_hosted
from gateway.protocol.dialects.responses.items import (
    INCLUDABLE,
    LOGPROBS,
    invalid_value,
    missing_parameter,
    read_input,
    read_nonempty_text,
    read_optional_text,
    read_text,
    unsupported_parameter,
)
from gateway.protocol.dialects.responses.namespaces import CLIENT_RUN, NAMESPACE, Namespaces
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest
from gateway.protocol.ids import Ids
from gateway.protocol.input_estimate import estimate_settings
from gateway.protocol.items import ChatRequest, OutputFormat, Tool, ToolChoice
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.routing_options import CHECKS as ROUTING_CHECKS

MAX_METADATA, MAX_METADATA_KEY = openai_wire.MAX_METADATA, openai_wire.MAX_METADATA_KEY
MAX_METADATA_VALUE = openai_wire.MAX_METADATA_VALUE


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    body: JsonMapping
    raw: bytes
    model: str
    input: tuple[Item, ...]  # this request's own items, with their ids
    instructions: str
    previous_response_id: str
    conversation_id: str
    store: bool
    background: bool
    stream: bool
    include: frozenset[str]
    metadata: Mapping[str, str]
    echo: JsonObject  # the response object's members that repeat the request: {"id", "object", "created_at", **echo}
    ignored_fields: tuple[str, ...]  # fields that no translated upstream gets
    truncates_automatically: bool
    end_user: str
    tags: tuple[str, ...]
    spend_metadata: JsonMapping
    application: str
    settings_estimate: int  # tokens of the tools and formats
    ids: Ids  # made the input's ids, and will make those of the answer


# Checks for every upstream


def _one_of(*values: str) -> fields.Check:
    def check(value: Json) -> str | None:
        return None if type(value) is str and value in values else f"it must be one of {', '.join(values)}"

    return check


def _conversation(value: Json) -> str | None:
    return "it must be an id, or an object with one" if fields.nonempty_text(_conversation_id(value)) else None


def _conversation_id(value: Json) -> Json:
    return value.get("id") if type(value) is dict else value


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
    "truncation": _one_of("disabled", "auto"),
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
#: Fields with a check of their own further below.
CHECKED_BELOW = frozenset({"input", "include", "metadata", "tools", "tool_choice"})
KNOWN_FIELDS = CHECKED_BELOW.union(CHECKS)
ALL_CHECKS: Mapping[str, fields.Check] = {**CHECKS, **ROUTING_CHECKS}
#: Fields that only an upstream of this format can honour, and that change the answer.
NATIVE_ONLY = ("prompt", "context_management", "moderation", "access_programs", "image")
#: Members of `reasoning` that no other format has and that do not change the answer.
IGNORED_REASONING = ("context", "mode")
#: Values of `reasoning.summary`. Each gives the whole reasoning of the upstream.
SUMMARIES = frozenset({"auto", "concise", "detailed"})
#: Fields of OpenAI's chat format that have no member in a ChatRequest.
CHAT_FIELDS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
#: Fields with the caller's own data, in which every name is allowed, beside those of openai.wire.
CALLER_DATA = frozenset({"text", "instructions"})


def decode(
    raw: bytes, hints: Hints, ids: Ids, *, needs_model: bool = True, needs_input: bool = True
) -> ResponsesRequest:
    """Raises BadRequest naming the `param`. `refuse_native_only` checks what only some upstreams support."""
    body = parse_object(raw)
    fields.check_fields(body, ALL_CHECKS, ("model",) if needs_model else ())
    openai_wire.refuse_redirection({name: value for name, value in body.items() if name not in CALLER_DATA})
    include = _read_include(body.get("include"))
    metadata = read_metadata(body.get("metadata"))
    _check_text(body.get("text") or {})
    _check_reasoning(body.get("reasoning") or {})
    tools = _check_tools(body.get("tools"))
    _check_tool_choice(body.get("tool_choice"), tools)
    _check_combinations(body)
    items = read_input(body.get("input"), ids)
    has_context = any(body.get(name) is not None for name in ("previous_response_id", "conversation", "prompt"))
    if needs_input and not items and not has_context:
        raise missing_parameter("input")
    # `metadata` belongs to the response here, so the spend log reads fields of its own
    spend_fields = {name: body.get(name) for name in ("tags", "litellm_metadata")}
    end_user, tags, spend_metadata = openai_wire.read_caller_data(
        {**spend_fields, "user": openai_wire.find_end_user(body)}, hints
    )
    return ResponsesRequest(
        body=body,
        raw=raw,
        model=body.get("model") or "",
        input=items,
        instructions=body.get("instructions") or "",
        previous_response_id=body.get("previous_response_id") or "",
        conversation_id=_conversation_id(body.get("conversation")) or "",
        store=body.get("store") is not False,
        background=body.get("background") is True,
        stream=body.get("stream") is True,
        include=include,
        metadata=metadata,
        echo=_build_echo(body, tools, metadata),
        ignored_fields=_ignored_fields(body),
        truncates_automatically=body.get("truncation") == "auto",
        end_user=end_user,
        tags=tags,
        spend_metadata=spend_metadata,
        application=hints.application,
        settings_estimate=estimate_settings(body),
        ids=ids,
    )


def _check_combinations(body: JsonObject) -> None:
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


def _read_include(names: Json) -> frozenset[str]:
    if names is None:
        return frozenset()
    if type(names) is not list:
        raise invalid_value("include", "it must be an array of strings")
    for index, name in enumerate(names):
        if type(name) is not str or name not in INCLUDABLE:
            raise invalid_value(f"include[{index}]", f"it must be one of {', '.join(sorted(INCLUDABLE))}")
    return frozenset(names)


def read_metadata(metadata: Json) -> dict[str, str]:
    """The metadata of a response or of a conversation. Raises BadRequest naming the wrong member."""
    if metadata is None:
        return {}
    if type(metadata) is not dict:
        raise invalid_value("metadata", "it must be an object of strings")
    if len(metadata) > MAX_METADATA:
        raise invalid_value("metadata", f"it holds {len(metadata)} pairs, and {MAX_METADATA} are the most")
    for name, value in metadata.items():
        if len(name) > MAX_METADATA_KEY or "\0" in name:
            raise invalid_value("metadata", f"a key must have {MAX_METADATA_KEY} characters at most, none of them NUL")
        problem = fields.text(value)
        if problem:
            raise invalid_value(f"metadata.{name}", problem)
        if len(value) > MAX_METADATA_VALUE:
            raise invalid_value(f"metadata.{name}", f"it has more than {MAX_METADATA_VALUE} characters")
    return metadata


def _check_text(text: JsonObject) -> None:
    read_optional_text(text, "verbosity", "text")
    output_format = text.get("format")
    if output_format is None:
        return
    if type(output_format) is not dict:
        raise invalid_value("text.format", "it must be an object")
    kind = read_text(output_format, "type", "text.format")
    if kind not in {"text", "json_object", "json_schema"}:
        raise invalid_value("text.format.type", "it must be one of text, json_object, json_schema")
    if kind != "json_schema":
        return
    read_nonempty_text(output_format, "name", "text.format")
    if output_format.get("schema") is None:
        raise missing_parameter("text.format.schema")
    if type(output_format["schema"]) is not dict:
        raise invalid_value("text.format.schema", "it must be an object")
    read_optional_text(output_format, "description", "text.format")
    _check_optional_boolean(output_format, "strict", "text.format")


def _check_optional_boolean(holder: JsonObject, name: str, param: str) -> None:
    if type(holder.get(name)) not in {bool, type(None)}:
        raise invalid_value(f"{param}.{name}", "it must be true or false")


def _check_reasoning(reasoning: JsonObject) -> None:
    for name in ("effort", "summary", "generate_summary", *IGNORED_REASONING):
        read_optional_text(reasoning, name, "reasoning")


def wants_reasoning_summary(request: ResponsesRequest) -> bool:
    return _summary_setting(request.body.get("reasoning") or {}) in SUMMARIES


def _summary_setting(reasoning: JsonObject) -> Json:
    return reasoning.get("summary") or reasoning.get("generate_summary")


# Tools


def _check_tools(tools: Json) -> list[JsonObject]:
    if tools is None:
        return []
    if type(tools) is not list:
        raise invalid_value("tools", "it must be an array")
    for index, tool in enumerate(tools):
        _check_tool(tool, f"tools[{index}]")
    return tools


def _check_tool(tool: Json, param: str, *, is_inner: bool = False) -> None:
    if type(tool) is not dict:
        raise invalid_value(param, "it must be an object")
    kind = read_text(tool, "type", param)
    if kind not in CLIENT_RUN and (kind != NAMESPACE or is_inner):
        return
    read_nonempty_text(tool, "name", param)
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
        _check_optional_boolean(tool, "strict", param)
        return
    input_format = tool.get("format")
    if input_format is None:
        return
    if type(input_format) is not dict:
        raise invalid_value(f"{param}.format", "it must be an object")
    if read_text(input_format, "type", f"{param}.format") == "grammar":
        read_text(input_format, "definition", f"{param}.format")
        read_text(input_format, "syntax", f"{param}.format")


def _check_tool_choice(choice: Json, tools: list[JsonObject]) -> None:
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
        _check_named_tool(choice, tools, "tool_choice")
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
                _check_named_tool(tool, tools, at)


def _check_named_tool(choice: JsonObject, tools: list[JsonObject], param: str) -> None:
    """Raises BadRequest for a tool that `tools` lacks. With a hosted tool in `tools` every name passes: the server may
    discover further tools."""
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


# Checks for upstreams that do not speak this format


def refuse_native_only(request: ResponsesRequest, *, drops_hosted: bool = False) -> None:
    """Raises BadRequest naming a field, tool or item that only an upstream of this format supports. With
    `drops_hosted` the caller leaves hosted tools out."""
    body = request.body
    for name in NATIVE_ONLY:
        if body.get(name):
            raise unsupported_parameter(name, f"'{name}' is not supported by this model.")
    _refuse_native_tools(body.get("tools") or (), body.get("tool_choice"), drops_hosted=drops_hosted)
    for index, item in enumerate(request.input):
        if item["type"] in SERVER_COMMANDS:
            kind = item["type"]
            message = f"Items of the type '{kind}' are not supported by this model."
            raise unsupported_parameter(f"input[{index}].type", message)


def _refuse_native_tools(tools: Iterable[JsonObject], choice: Json, *, drops_hosted: bool) -> None:
    """A choice that leaves the model nothing but hosted tools is refused in any case."""
    remaining = 0
    for index, tool in enumerate(tools):
        for param, single in _flatten_tool(tool, f"tools[{index}]"):
            if single["type"] in CLIENT_RUN:
                remaining += 1
            elif not (drops_hosted and is_hosted(single["type"])):
                _refuse_tool(single["type"], f"{param}.type")
    if choice == "required" and not remaining:
        raise BadRequest("The model has none of the tools.", param="tool_choice", code="unsupported_tool")
    if type(choice) is not dict:
        return
    if choice["type"] not in {*CLIENT_RUN, "allowed_tools"}:
        _refuse_tool(choice["type"], "tool_choice.type")
    if choice["type"] == "allowed_tools":
        places = [(f"tool_choice.tools[{index}].type", tool["type"]) for index, tool in enumerate(choice["tools"])]
        foreign = [place for place in places if place[1] not in {*CLIENT_RUN, NAMESPACE}]
        for param, kind in foreign:
            if not (drops_hosted and is_hosted(kind)) or len(foreign) == len(places):
                _refuse_tool(kind, param)


def _flatten_tool(tool: JsonObject, param: str) -> Iterator[tuple[str, JsonObject]]:
    """(place in the request, tool): the tool itself, or the tools of its namespace."""
    if tool["type"] != NAMESPACE:
        yield param, tool
        return
    for index, inner in enumerate(tool["tools"]):
        yield f"{param}.tools[{index}]", inner


#: Input items that are commands to the server, not part of the conversation.
SERVER_COMMANDS = frozenset({"compaction_trigger", "configuration_update"})


def _refuse_tool(kind: str, param: str) -> None:
    message = f"The tool type {kind[:40]!r} is not supported by this model."
    raise BadRequest(message, param=param, code="unsupported_tool")


def _ignored_fields(body: JsonObject) -> tuple[str, ...]:
    known = KNOWN_FIELDS | openai_wire.OURS
    unknown = [name for name, value in body.items() if name not in known and value is not None]
    reasoning = body.get("reasoning") or {}
    return (*unknown, *(f"reasoning.{name}" for name in IGNORED_REASONING if reasoning.get(name) is not None))


# The request for an upstream of another format


def build_settings(request: ResponsesRequest, namespaces: Namespaces | None = None) -> ChatRequest:
    """The ChatRequest without its messages. `namespaces`: the namespaces of the request."""
    body = request.body
    tools = body.get("tools") or ()
    namespaces = Namespaces(tools) if namespaces is None else namespaces
    text = body.get("text") or {}
    user, identifier = body.get("user") or "", body.get("safety_identifier") or ""
    others = {name: body.get(name) for name in CHAT_FIELDS} | {"verbosity": text.get("verbosity")}
    if user and user != identifier:  # else it is the `user` of the ChatRequest
        others["safety_identifier"] = identifier
    top_logprobs = body.get("top_logprobs") or None
    return ChatRequest(
        messages=(),
        tools=tuple(_convert_tools(tools, namespaces)),
        tool_choice=_convert_tool_choice(body.get("tool_choice"), namespaces),
        parallel_tools=body.get("parallel_tool_calls"),
        output=_convert_format(text.get("format")),
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


def _convert_tools(tools: Iterable[JsonObject], namespaces: Namespaces) -> Iterator[Tool]:
    """The description of a namespace precedes the description of its first tool."""
    for tool in tools:
        if tool["type"] in CLIENT_RUN:
            yield _convert_tool(tool, tool["name"], tool.get("description") or "")
        elif tool["type"] == NAMESPACE:
            introduction = tool.get("description") or ""
            for inner in tool["tools"]:
                if inner["type"] in CLIENT_RUN:
                    name = namespaces.upstream_name(tool["name"], inner["name"])
                    yield _convert_tool(inner, name, _join_texts(introduction, inner.get("description") or ""))
                    introduction = ""


def _convert_tool(tool: JsonObject, name: str, description: str) -> Tool:
    if tool["type"] == "function":
        return Tool(name, description, schema=tool.get("parameters"), strict=tool.get("strict"))
    return Tool(name, _join_texts(description, _describe_grammar(tool.get("format") or {})), kind="custom")


def _describe_grammar(input_format: JsonObject) -> str:
    """No other format has a field for the grammar of a custom tool, so the description carries it."""
    if input_format.get("type") != "grammar":
        return ""
    return f"The input must match this {input_format['syntax']} grammar:\n{input_format['definition']}"


def _join_texts(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))


def _convert_tool_choice(choice: Json, namespaces: Namespaces) -> ToolChoice | None:
    if choice is None or type(choice) is str:
        return ToolChoice(choice) if choice else None
    if choice["type"] == "allowed_tools":
        tools = [tool for tool in choice["tools"] if tool["type"] in {*CLIENT_RUN, NAMESPACE}]
        allowed = dict.fromkeys(name for tool in tools for name in namespaces.names_for_choice(tool))
        return ToolChoice(choice["mode"], allowed=tuple(allowed))
    if choice["type"] not in CLIENT_RUN:
        return None
    names = namespaces.names_for_choice(choice)
    return ToolChoice("named", name=names[0]) if len(names) == 1 else ToolChoice("required", allowed=names)


def _convert_format(output_format: JsonObject | None) -> OutputFormat | None:
    if output_format is None or output_format["type"] == "text":
        return None
    if output_format["type"] == "json_object":
        return OutputFormat("json_object")
    schema = output_format["schema"]
    if output_format.get("description") and "description" not in schema:
        schema = {**schema, "description": output_format["description"]}
    return OutputFormat("json_schema", name=output_format["name"], schema=schema, strict=output_format.get("strict"))


# The response object

#: {service tier of a request: the tier that its response names}
TIERS = {"auto": "default", "fast": "priority"}
#: Members of hosted tools that the gateway neither stores nor shows.
TOOL_SECRETS = frozenset({"authorization", "headers", "domain_secrets"})


def _build_echo(body: JsonObject, tools: list[JsonObject], metadata: dict[str, str]) -> JsonObject:
    """The members that repeat the request, in the order of OpenAI's object. It has a value for every member that the
    Open Responses schema requires."""
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
        "reasoning": _echo_reasoning(body.get("reasoning") or {}),
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": TIERS.get(tier, tier),
        "store": body.get("store") is not False,
        "temperature": _number_or(body.get("temperature"), 1.0),
        "top_p": _number_or(body.get("top_p"), 1.0),
        "presence_penalty": _number_or(body.get("presence_penalty"), 0.0),
        "frequency_penalty": _number_or(body.get("frequency_penalty"), 0.0),
        "text": _echo_text(body.get("text") or {}),
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_echo_tool(tool) for tool in tools],
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": body.get("truncation") or "disabled",
        "user": body.get("user"),
        "metadata": metadata,
    }
    if body.get("conversation") is not None:
        echo["conversation"] = {"id": _conversation_id(body["conversation"])}
    for name in ("prompt", "prompt_cache_retention"):
        if body.get(name) is not None:
            echo[name] = body[name]
    return echo


def _number_or(value: float | None, default: float) -> float:
    return default if value is None else value


def _echo_reasoning(reasoning: JsonObject) -> JsonObject:
    echo = {"effort": reasoning.get("effort"), "summary": _summary_setting(reasoning)}
    return echo | {name: reasoning[name] for name in IGNORED_REASONING if reasoning.get(name) is not None}


def _echo_text(text: JsonObject) -> JsonObject:
    output_format = text.get("format") or {"type": "text"}
    if output_format["type"] == "json_schema":
        output_format = {
            "type": "json_schema",
            "name": output_format["name"],
            "description": output_format.get("description"),
            "schema": output_format["schema"],
            "strict": output_format.get("strict") is True,
        }
    else:
        output_format = {"type": output_format["type"]}
    verbosity = text.get("verbosity")
    return {"format": output_format} if verbosity is None else {"format": output_format, "verbosity": verbosity}


def _echo_tool(tool: JsonObject) -> JsonObject:
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
        inner_tools = [inner if inner["type"] in CLIENT_RUN else _strip_secrets(inner) for inner in tool["tools"]]
        return {**tool, "tools": inner_tools}
    return _strip_secrets(tool)


FUNCTION_MEMBERS = frozenset({"type", "name", "description", "parameters", "strict"})


def _strip_secrets(tool: JsonObject) -> JsonObject:
    return {name: _strip_nested(member) for name, member in tool.items() if name not in TOOL_SECRETS}


def _strip_nested(value: Json) -> Json:
    if type(value) is dict:
        return _strip_secrets(value)
    return [_strip_nested(member) for member in value] if type(value) is list else value
