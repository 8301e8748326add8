"""Requests in OpenAI's dialect for other servers: a ChatRequest as a body, and any body by a server's Traits.

The rules and where they come from: docs/dialects/openai.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.openai.wire import OUR_METADATA, OURS, WIRE
from gateway.protocol.dialects.shared.parameters import (
    GATEWAY_PARAMETERS,
    Draft,
    add_defaults,
    refuse_dropped,
    unsupported,
)
from gateway.protocol.errors import BadRequest
from gateway.protocol.freeform import replace_custom_tools
from gateway.protocol.items import (
    Assistant,
    ChatRequest,
    File,
    Image,
    Message,
    OutputFormat,
    Part,
    System,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    User,
)
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import Target

#: Fields that only OpenAI and Azure know. Several servers refuse one or the other.
OPENAI_ONLY = frozenset(
    {
        "logit_bias",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
#: Fields of a message that no server of this dialect knows.
OUR_FIELDS = ("thinking_blocks", "provider_specific_fields")
#: Fields of a message for the gateway's clients and for some servers.
REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details")
#: Stop sequences that the gateway looks for itself, in each piece of text.
MAX_STOPS, MAX_STOP_CHARS = 64, 1024
SAMPLING = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True, slots=True)
class Traits:
    """The differences of a server of this dialect from the plain case."""

    # Requests
    is_openai: bool = False  # OpenAI's own rules: developer role, names, max_completion_tokens for reasoning models
    has_completions: bool = True  # False: completions go out as chat
    asks_usage: bool = True  # knows stream_options.include_usage
    joins_text: bool = False  # text parts become one string
    fills_content: bool = False  # refuses empty content
    inlines_images: bool = False  # takes data URLs only
    takes_cache_marks: bool = False  # knows `cache_control`
    takes_names: bool = False  # knows a message's `name`
    takes_reasoning: bool = True  # knows a message's reasoning_content
    takes_thinking: bool = False  # knows the `thinking` object
    switches_thinking: bool = False  # takes chat_template_kwargs.enable_thinking instead of reasoning_effort
    takes_tool_choice: bool = True
    forces_tools: bool = True  # obeys `required` and a named choice
    takes_new_limit: bool = False  # knows max_completion_tokens
    takes_many: bool = True  # n > 1
    streams_many: bool = True  # n > 1 in a stream
    many_need_sampling: bool = False  # n > 1 only with a temperature
    streamed_tools: re.Pattern[str] | None = None  # models that stream calls (None: all); others answer calls whole
    max_stop: int = 0  # 0: any number
    unknown: frozenset[str] = OPENAI_ONLY
    not_with_tools: frozenset[str] = frozenset()
    continues_by: tuple[
        tuple[str, bool], ...
    ] = ()  # fields without which a last assistant message is a turn of its own
    # Answers
    has_positional_ids: bool = False  # ids of calls repeat; calls may also stand in the content as text
    has_usage_by_choice: bool = False  # beside each finish reason, each a part of the sum


PLAIN = Traits()
OPENAI = Traits(is_openai=True, takes_names=True, takes_reasoning=False, unknown=frozenset(), max_stop=4)


@dataclass(slots=True)
class PreparedRequest(Draft):
    stop: tuple[str, ...] = ()  # the sequences that the gateway looks for itself


def request_body(call: Call, traits: Traits) -> JsonObject:
    """The client's request in this dialect."""
    if is_chat_path(call, traits) and (call.dialect.wire != WIRE or call.operation is not Operation.CHAT):
        request = call.dialect.chat_request(call)
        return encode(replace_custom_tools(request) if sends_functions(call, traits) else request)
    return {name: value for name, value in call.body.items() if value is not None and name not in OURS}


def sends_functions(call: Call, traits: Traits) -> bool:
    """True where custom tools of another dialect's client have to become functions."""
    return call.dialect.wire != WIRE and not traits.is_openai


def is_chat_path(call: Call, traits: Traits) -> bool:
    return call.operation is Operation.CHAT or (call.operation is Operation.COMPLETION and not traits.has_completions)


def needs_whole_answer(body: JsonMapping, target: Target, traits: Traits) -> bool:
    """True where the answer to a stream has to come whole, because the server cannot stream this model's calls."""
    if traits.streamed_tools is None or not (body.get("tools") or body.get("functions")):
        return False
    return not target.capabilities.tool_call_parser and not traits.streamed_tools.search(target.upstream_model)


def prepare(call: Call, target: Target, context: AttemptContext, traits: Traits) -> PreparedRequest:
    """The body of a request. Raises BadRequest for a request that the server cannot serve."""
    fields = request_body(call, traits)
    defaults = add_defaults(fields, target.parameters, excluded=GATEWAY_PARAMETERS)
    prepared = PreparedRequest(defaults | {"model": target.upstream_model})
    body = prepared.body
    for name in ("stream", "stream_options"):
        body.pop(name, None)
    if call.stream and not needs_whole_answer(fields, target, traits):
        body["stream"] = True
        if traits.asks_usage and "stream_options" not in target.unsupported_parameters:
            body["stream_options"] = {**(fields.get("stream_options") or {}), "include_usage": True}
    if "metadata" in body and not OUR_METADATA.isdisjoint(body["metadata"]):
        metadata = {name: value for name, value in body.pop("metadata").items() if name not in OUR_METADATA}
        body |= {"metadata": metadata} if metadata else {}
    if is_chat_path(call, traits):
        if call.operation is Operation.COMPLETION:
            prepared.dropped += call.dialect.unsupported_fields(call)
        body["messages"] = [_message(item, traits, context) for item in body["messages"]]
        _set_tools(prepared, traits, target.capabilities)
        is_translated = call.dialect.wire != WIRE
        set_thinking(prepared, traits, target.capabilities, is_translated=is_translated)
        set_limit(body, traits, target.capabilities, target.unsupported_parameters)
        if traits.is_openai and is_translated:
            prepared.drop("top_k")  # which it refuses, and its own clients would not send
        if target.capabilities.structured == "none":
            prepared.drop("response_format")
        if call.is_continued:
            body |= dict(traits.continues_by)
    if call.operation is not Operation.EMBEDDING:
        set_sampling(prepared, target.capabilities)
        _set_stop(prepared, traits, target.unsupported_parameters)
        _check_many(prepared.body, call, traits)
    prepared.drop_all(traits.unknown | target.unsupported_parameters)
    refuse_dropped(prepared.dropped, target.capabilities)
    return prepared


# The rules, one by one


def _message(client_message: JsonObject, traits: Traits, context: AttemptContext) -> JsonObject:
    message = dict(client_message)
    for name in OUR_FIELDS:
        message.pop(name, None)
    if not traits.takes_reasoning:
        for name in REASONING_FIELDS:
            message.pop(name, None)
    if not traits.takes_cache_marks:
        message.pop("cache_control", None)
    if not traits.is_openai:
        if message["role"] == "developer":
            message["role"] = "system"
        elif message["role"] == "function":
            message["role"] = "tool"
            message.setdefault("tool_call_id", message.get("name"))
        if not traits.takes_names:
            message.pop("name", None)
        if isinstance(message.get("function_call"), dict) and not message.get("tool_calls"):
            function = message.pop("function_call")
            message["tool_calls"] = [{"id": function.get("name"), "type": "function", "function": function}]
    if isinstance(message.get("content"), list):
        message["content"] = _content(message["content"], traits, context)
    if traits.fills_content and not message.get("content") and not message.get("tool_calls"):
        message["content"] = " "
    return message


def _content(parts: list[JsonObject], traits: Traits, context: AttemptContext) -> str | list[JsonObject]:
    result = [_part(part, traits, context) for part in parts]
    if not traits.joins_text:
        return result
    joined: list[JsonObject] = []
    for part in result:
        is_text = part.get("type") == "text" and isinstance(part.get("text"), str)
        if is_text and joined and joined[-1].get("type") == "text":
            joined[-1] = {"type": "text", "text": f"{joined[-1]['text']}\n{part['text']}"}
        else:
            joined.append(part)
    if not joined or (len(joined) == 1 and joined[0].get("type") == "text"):
        return str(joined[0]["text"]) if joined else ""
    return joined


def _part(part: JsonObject, traits: Traits, context: AttemptContext) -> JsonObject:
    if "cache_control" in part and not traits.takes_cache_marks:
        part = {name: value for name, value in part.items() if name != "cache_control"}
    if traits.inlines_images and part.get("type") == "image_url":
        url = image_url(part)
        if url.startswith(("http://", "https://")):
            medium = context.fetched.get(url)
            if medium is None:
                raise BadRequest("The image could not be fetched for this model.", param="messages")
            part = {"type": "image_url", "image_url": {"url": f"data:{medium.media_type};base64,{medium.data}"}}
    return part


def image_url(part: JsonMapping) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) else ""


def _set_tools(draft: Draft, traits: Traits, capabilities: Capabilities) -> None:
    body = draft.body
    if not traits.is_openai:
        _replace_functions(body)
        if not traits.takes_cache_marks:
            for index, tool in enumerate(body.get("tools") or ()):
                if "cache_control" in tool:
                    tools = body["tools"] = list(body["tools"])
                    tools[index] = {name: value for name, value in tool.items() if name != "cache_control"}
    choice = body.get("tool_choice")
    if not has_tools(body):
        return
    if not capabilities.parallel_tools:
        draft.drop("parallel_tool_calls")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools" and not traits.is_openai:
        allowed = choice.get("allowed_tools") or {}
        _keep_tools(body, {_tool_name(tool) for tool in allowed.get("tools") or ()})
        choice = body["tool_choice"] = "required" if allowed.get("mode") == "required" else "auto"
    if not traits.takes_tool_choice:
        body.pop("tool_choice", None)
        if choice == "none":
            del body["tools"]
        elif isinstance(choice, dict):
            _keep_tools(body, {_tool_name(choice)})
    if choice not in (None, "none", "auto") and not (traits.takes_tool_choice and traits.forces_tools):
        draft.dropped.append("tool_choice")
    many = body.get("n")
    if "tools" in body:
        if "n" in traits.not_with_tools and many and many > 1:
            raise unsupported("n", "cannot go with tools at this model")
        for name in sorted(traits.not_with_tools - {"stop"}):
            draft.drop(name)


def has_tools(body: JsonObject) -> bool:
    """True where the body has tools. Removes the fields that belong to tools where it has none."""
    if body.get("tools"):
        return True
    body.pop("tools", None)
    body.pop("parallel_tool_calls", None)
    if body.get("tool_choice") in ("none", "auto"):
        del body["tool_choice"]
    return False


def _replace_functions(body: JsonObject) -> None:
    """Replaces `functions` and `function_call`, the form before tools."""
    functions, choice = body.pop("functions", None), body.pop("function_call", None)
    if functions and not body.get("tools"):
        body["tools"] = [{"type": "function", "function": function} for function in functions]
    if choice and "tool_choice" not in body:
        body["tool_choice"] = {"type": "function", "function": choice} if isinstance(choice, dict) else choice


def _tool_name(tool: Json) -> str:
    function = tool.get("function") or tool.get("custom") or tool if isinstance(tool, dict) else {}
    return str(function.get("name")) if isinstance(function, dict) else ""


def _keep_tools(body: JsonObject, names: set[str]) -> None:
    body["tools"] = [tool for tool in body["tools"] if _tool_name(tool) in names] or body["tools"]


def tool_names(body: JsonMapping) -> frozenset[str]:
    tools = body.get("tools") or body.get("functions")
    return frozenset(_tool_name(tool) for tool in tools) if isinstance(tools, list) else frozenset()


def set_thinking(draft: Draft, traits: Traits, capabilities: Capabilities, *, is_translated: bool) -> None:
    """`is_translated`: the client speaks another dialect, whose `thinking` came as an effort, too."""
    body = draft.body
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and not traits.takes_thinking:
        del body["thinking"]
        if not traits.is_openai or capabilities.reasoning_model:
            body["reasoning_effort"] = _effort_of(thinking) or body.get("reasoning_effort") or "medium"
        else:
            draft.dropped.append("thinking")
            if is_translated:
                body.pop("reasoning_effort", None)
    if traits.switches_thinking and "reasoning_effort" in body:
        is_on = body.pop("reasoning_effort") != "none"
        body["chat_template_kwargs"] = {"enable_thinking": is_on, **(body.get("chat_template_kwargs") or {})}


def _effort_of(thinking: JsonMapping) -> str:
    """The effort for a budget by the table of docs/dialects/openai.md: below 2048 low, below 4096 medium, else high."""
    if thinking.get("type") == "disabled":
        return "none"
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        return ""
    return "low" if budget < 2048 else "medium" if budget < 4096 else "high"


LIMITS = ("max_completion_tokens", "max_tokens")  # the newer name first


def set_limit(
    body: JsonObject, traits: Traits, capabilities: Capabilities, unsupported_parameters: frozenset[str]
) -> None:
    """Keeps the limit under that of its two names which the server knows and has not refused."""
    newer, older = (body.get(name) for name in LIMITS)
    limit = newer or older
    if type(limit) is not int:
        return
    for name in LIMITS:
        body.pop(name, None)
    if capabilities.max_output_tokens:
        limit = min(limit, capabilities.max_output_tokens)
    takes_new = traits.is_openai or traits.takes_new_limit
    is_newer = takes_new and (bool(newer) or (traits.is_openai and capabilities.reasoning_model))
    names = LIMITS if is_newer else LIMITS[::-1]
    body[next((name for name in names if name not in unsupported_parameters), names[0])] = limit


def set_sampling(draft: Draft, capabilities: Capabilities) -> None:
    if capabilities.sampling == "none":
        for name in SAMPLING:
            draft.drop(name)
    elif capabilities.sampling == "one_of" and "temperature" in draft.body:
        draft.drop("top_p")


def _set_stop(prepared: PreparedRequest, traits: Traits, unsupported_parameters: frozenset[str]) -> None:
    upstream_stops, prepared.stop = split_stop(prepared.body, traits, unsupported_parameters)
    if prepared.stop:
        del prepared.body["stop"]
        if upstream_stops:
            prepared.body["stop"] = list(upstream_stops)


def split_stop(
    body: JsonMapping, traits: Traits, unsupported_parameters: frozenset[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the sequences for the server, the sequences that the gateway looks for)."""
    value = body.get("stop")
    stops = (value,) if isinstance(value, str) else tuple(value or ())
    if "stop" in unsupported_parameters or (
        "stop" in traits.not_with_tools and (body.get("tools") or body.get("functions"))
    ):
        return (), _check_cut(stops)
    if traits.max_stop and len(stops) > traits.max_stop:
        return stops[: traits.max_stop], _check_cut(stops[traits.max_stop :])
    return stops, ()


def _check_cut(stops: tuple[str, ...]) -> tuple[str, ...]:
    """The sequences that the gateway looks for in each piece of text. Raises BadRequest for more than it can."""
    if len(stops) > MAX_STOPS or max(map(len, stops), default=0) > MAX_STOP_CHARS:
        raise unsupported("stop", f"takes at most {MAX_STOPS} sequences of {MAX_STOP_CHARS} characters at this model")
    return tuple(stop for stop in stops if stop)


def _check_many(body: JsonObject, call: Call, traits: Traits) -> None:
    if (body.get("n") or 1) <= 1:
        return
    if not traits.takes_many:
        raise unsupported("n")
    if call.stream and not traits.streams_many:
        raise unsupported("n", "cannot be streamed by this model")
    if traits.many_need_sampling and body.get("temperature") == 0:
        raise unsupported("n", "needs a temperature above 0 at this model")


# A ChatRequest as a body


def encode(request: ChatRequest) -> JsonObject:
    """The request in OpenAI's own form. The rules above then adapt `thinking`, cache marks and reasoning."""
    choice = request.tool_choice
    body: JsonObject = {
        **request.others,
        "messages": _messages(request.messages),
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _choice(choice, request.tools) if choice and request.tools else None,
        "parallel_tool_calls": request.parallel_tools,
        "response_format": _output(request.output) if request.output else None,
        **request.options(),
        "stop": list(request.stop) or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _messages(messages: Iterable[Message]) -> list[JsonObject]:
    """A tool's answer holds text only: its images follow in a message of the user, after the step's last answer."""
    encoded: list[JsonObject] = []
    images: list[JsonObject] = []
    for message in messages:
        if isinstance(message, ToolResult):
            text = "\n".join(part.text for part in message.parts if isinstance(part, Text))
            encoded.append({"role": "tool", "tool_call_id": message.tool_call_id, "content": text})
            images += [_encoded_part(part) for part in message.parts if not isinstance(part, Text)]
            continue
        if images:
            encoded.append({"role": "user", "content": images})
            images = []
        encoded.append(_encoded_message(message))
    if images:
        encoded.append({"role": "user", "content": images})
    return encoded


def _encoded_message(message: System | User | Assistant) -> JsonObject:
    content = _encoded_content(message.parts)
    if isinstance(message, System):
        return {"role": "system", "content": content or ""}
    if isinstance(message, User):
        return {"role": "user", "content": content or "", **({"name": message.name} if message.name else {})}
    result: JsonObject = {"role": "assistant", "content": content}
    reasoning = "".join(block.text for block in message.reasoning)
    if reasoning:
        result["reasoning_content"] = reasoning
    if message.refusal:
        result["refusal"] = message.refusal
    if message.tool_calls:
        result["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return result


def _encoded_content(parts: Sequence[Part]) -> str | list[JsonObject] | None:
    if len(parts) == 1 and isinstance(parts[0], Text) and parts[0].cache is None:
        return parts[0].text
    return [_encoded_part(part) for part in parts] or None


def _encoded_part(part: Part) -> JsonObject:
    if isinstance(part, Text):
        result: JsonObject = {"type": "text", "text": part.text}
    elif isinstance(part, Image):
        image = {"url": part.url or f"data:{part.media_type};base64,{part.data}"}
        result = {"type": "image_url", "image_url": image | ({"detail": part.detail} if part.detail else {})}
    elif isinstance(part, File):
        if part.url:
            raise unsupported("messages", "hold a file by its address, which is not supported by this model")
        file = {"filename": part.filename, "file_id": part.file_id}
        file["file_data"] = f"data:{part.media_type};base64,{part.data}" if part.data and part.media_type else part.data
        result = {"type": "file", "file": {name: value for name, value in file.items() if value}}
    else:
        result = {"type": "input_audio", "input_audio": {"format": part.format, "data": part.data}}
    if part.cache:
        result["cache_control"] = {"type": "ephemeral"} | ({"ttl": part.cache.ttl} if part.cache.ttl else {})
    return result


def _tool_call(call: ToolCall) -> JsonObject:
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    result: JsonObject = {"id": call.id, "type": "function", "function": function}
    if call.signature:
        result["extra_content"] = {"google": {"thought_signature": call.signature}}
    return result


def _tool(tool: Tool) -> JsonObject:
    described: JsonObject = {"name": tool.name}
    if tool.description:
        described["description"] = tool.description
    if tool.kind == "custom":
        return {"type": "custom", "custom": described}
    if tool.schema is not None:
        described["parameters"] = tool.schema
    if tool.strict is not None:
        described["strict"] = tool.strict
    return {"type": "function", "function": described}


def _choice(choice: ToolChoice, tools: Iterable[Tool]) -> str | JsonObject:
    kinds = {tool.name: tool.kind for tool in tools}

    def named(name: str) -> JsonObject:
        kind = kinds.get(name, "function")
        return {"type": kind, kind: {"name": name}}

    if choice.mode == "named":
        return named(choice.name)
    if not choice.allowed:
        return choice.mode
    allowed = [named(name) for name in choice.allowed]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": allowed}}


def _output(output: OutputFormat) -> JsonObject:
    if output.kind == "json_object":
        return {"type": "json_object"}
    schema: JsonObject = {"name": output.name or "answer", "schema": output.schema}
    if output.strict is not None:
        schema["strict"] = output.strict
    return {"type": "json_schema", "json_schema": schema}
