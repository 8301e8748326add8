"""OpenAI's chat request ⇄ ChatRequest. Source: https://platform.openai.com/docs/api-reference/chat/create.

Extension fields: `cache_control` on parts, messages and tools, `thinking_blocks` on assistant messages (LiteLLM's
names), `reasoning_content` beside or instead of them, `extra_content.google.thought_signature` on tool calls (Google's
own form).
"""

from gateway.protocol.dialects.openai.wire import OURS
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import (
    UNSET_OPTIONS,
    Assistant,
    Audio,
    Cache,
    ChatRequest,
    File,
    Image,
    Message,
    OutputFormat,
    Part,
    Reasoning,
    System,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    User,
)
from gateway.protocol.json.types import Json, JsonMapping

#: Fields that ChatRequest has members for, or that no provider needs.
CARRIED = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice", "functions", "function_call"),
        *("parallel_tool_calls", "response_format", "max_completion_tokens", "safety_identifier", "cache_control"),
        *UNSET_OPTIONS,
        *OURS,
        "metadata",
    }
)


def read_chat_request(body: JsonMapping) -> ChatRequest:
    """Reads a body whose fields are of the right types (fields.py). Raises BadRequest naming what cannot be read."""
    return ChatRequest(
        messages=tuple(_message(item, index) for index, item in enumerate(body["messages"])),
        tools=_tools(body),
        tool_choice=_tool_choice(body.get("tool_choice") or body.get("function_call")),
        parallel_tools=body.get("parallel_tool_calls"),
        output=_output(body.get("response_format")),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=_stop(body.get("stop")),
        seed=body.get("seed"),
        presence_penalty=body.get("presence_penalty"),
        frequency_penalty=body.get("frequency_penalty"),
        n=body.get("n"),
        logprobs=body.get("logprobs"),
        top_logprobs=body.get("top_logprobs"),
        logit_bias=body.get("logit_bias"),
        reasoning_effort=body.get("reasoning_effort") or "",
        thinking=body.get("thinking") if isinstance(body.get("thinking"), dict) else None,
        service_tier=body.get("service_tier") or "",
        user=body.get("user") or body.get("safety_identifier") or "",
        cache=_cache(body.get("cache_control")),
        others={name: value for name, value in body.items() if name not in CARRIED and value is not None},
    )


def _stop(value: Json) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _cache(value: Json) -> Cache | None:
    return Cache(ttl=str(value.get("ttl") or "")) if isinstance(value, dict) else None


def _message(item: JsonMapping, index: int) -> Message:
    role = item["role"]
    param = f"messages.{index}"
    parts = _parts(item.get("content"), f"{param}.content", _cache(item.get("cache_control")))
    if role in {"system", "developer"}:
        return System(parts)
    if role == "user":
        return User(parts, name=str(item.get("name") or ""))
    if role == "assistant":
        return Assistant(
            parts=parts,
            tool_calls=_tool_calls(item, param),
            reasoning=_reasoning(item),
            refusal=str(item.get("refusal") or ""),
        )
    if role in {"tool", "function"}:
        call_id = item.get("tool_call_id") or item.get("name")
        if not isinstance(call_id, str):
            raise BadRequest(f"'{param}.tool_call_id' is missing.", param=f"{param}.tool_call_id")
        return ToolResult(call_id, parts)
    raise BadRequest(f"Invalid value for '{param}.role': {role[:40]!r} is no role.", param=f"{param}.role")


def _parts(content: Json, param: str, last_cache: Cache | None) -> tuple[Part, ...]:
    """`last_cache` is the message's own mark, which applies after its last part."""
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content, cache=last_cache),)
    parts = [_part(part, f"{param}.{index}") for index, part in enumerate(content)]
    if last_cache is not None and parts and parts[-1].cache is None:
        parts[-1] = _part({**content[-1], "cache_control": {"ttl": last_cache.ttl}}, param)
    return tuple(parts)


def _part(part: JsonMapping, param: str) -> Part:
    kind = part.get("type")
    cache = _cache(part.get("cache_control"))
    if kind in {"text", "input_text", "output_text"}:
        return Text(_text(part.get("text"), f"{param}.text"), cache=cache)
    if kind == "refusal":
        return Text(_text(part.get("refusal"), f"{param}.refusal"), cache=cache)
    if kind == "image_url":
        image = part.get("image_url")
        image = image if isinstance(image, dict) else {"url": image}
        url = _text(image.get("url"), f"{param}.image_url.url")
        media_type, data = split_data_url(url)
        detail = str(image.get("detail") or "")
        return Image(url="" if data else url, data=data, media_type=media_type, detail=detail, cache=cache)
    if kind == "file":
        file = part.get("file")
        if not isinstance(file, dict):
            raise BadRequest(f"'{param}.file' must be an object.", param=f"{param}.file")
        content = str(file.get("file_data") or "")
        is_address = content.startswith(("http://", "https://"))
        media_type, data = split_data_url(content)
        return File(
            filename=str(file.get("filename") or ""),
            media_type=media_type or str(file.get("format") or ""),
            data=data or ("" if is_address else content),
            url=content if is_address else "",
            file_id=str(file.get("file_id") or ""),
            cache=cache,
        )
    if kind == "input_audio":
        audio = part.get("input_audio")
        if not isinstance(audio, dict):
            raise BadRequest(f"'{param}.input_audio' must be an object.", param=f"{param}.input_audio")
        return Audio(str(audio.get("format") or ""), _text(audio.get("data"), f"{param}.input_audio.data"), cache=cache)
    raise BadRequest(f"Invalid value for '{param}.type': {str(kind)[:40]!r} is no kind of part.", param=f"{param}.type")


def split_data_url(url: str) -> tuple[str, str]:
    """(media type in lower case, base64 data) of a data URL; two empty texts for any other."""
    if url[:5].lower() != "data:":
        return "", ""
    head, _, data = url[5:].partition(",")
    return head.partition(";")[0].strip().lower(), data


def _text(value: Json, param: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"Invalid value for '{param}': it must be a string.", param=param)
    return value


def _tool_calls(item: JsonMapping, param: str) -> tuple[ToolCall, ...]:
    items = item.get("tool_calls")
    if not items and isinstance(item.get("function_call"), dict):  # the form before tools
        function = item["function_call"]
        items = [{"id": function.get("name"), "function": function}]
    if not isinstance(items, list):
        return ()
    calls = []
    for index, call in enumerate(items):
        at = f"{param}.tool_calls.{index}"
        if not isinstance(call, dict):
            raise BadRequest(f"'{at}' must be an object.", param=at)
        kind = "custom" if call.get("type") == "custom" else "function"
        body = call.get(kind)
        if not isinstance(body, dict):
            raise BadRequest(f"'{at}.{kind}' must be an object.", param=f"{at}.{kind}")
        arguments = body.get("input" if kind == "custom" else "arguments")
        calls.append(
            ToolCall(
                id=str(call.get("id") or ""),
                name=_text(body.get("name"), f"{at}.{kind}.name"),
                arguments=arguments if isinstance(arguments, str) else "",
                kind=kind,
                signature=_signature(call),
            )
        )
    return tuple(calls)


def _signature(call: JsonMapping) -> str:
    google = call.get("extra_content")
    google = google.get("google") if isinstance(google, dict) else None
    fields = call.get("provider_specific_fields")
    for holder in (google, fields):
        if isinstance(holder, dict) and isinstance(holder.get("thought_signature"), str):
            signature: str = holder["thought_signature"]
            return signature
    return ""


def _reasoning(item: JsonMapping) -> tuple[Reasoning, ...]:
    """Signed blocks where the client sends them back, else the text alone, for providers that take thoughts without a
    signature."""
    blocks = item.get("thinking_blocks")
    if not isinstance(blocks, list) or not blocks:
        values = (item.get(name) for name in ("reasoning_content", "reasoning"))
        text = next((value for value in values if isinstance(value, str) and value), "")
        return (Reasoning(text),) if text else ()
    return tuple(
        Reasoning(
            text=str(block.get("thinking") or ""),
            signature=str(block.get("signature") or ""),
            redacted=str(block.get("data") or ""),
        )
        for block in blocks
        if isinstance(block, dict)
    )


def _tools(body: JsonMapping) -> tuple[Tool, ...]:
    items = body.get("tools") or [{"type": "function", "function": item} for item in body.get("functions") or ()]
    tools = []
    for index, tool in enumerate(items):
        kind = tool.get("type")
        if kind not in {"function", "custom"}:
            raise BadRequest(
                f"The tool type {str(kind)[:40]!r} is not supported by this model.",
                param=f"tools.{index}.type",
                code="unsupported_parameter",
            )
        function = tool.get(kind)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(f"'tools.{index}.{kind}.name' is missing.", param=f"tools.{index}.{kind}.name")
        schema = function.get("parameters")
        if schema is not None and not isinstance(schema, dict):
            at = f"tools.{index}.function.parameters"
            raise BadRequest(f"'{at}' must be an object.", param=at)
        tools.append(
            Tool(
                name=function["name"],
                description=str(function.get("description") or ""),
                schema=schema,
                strict=function.get("strict"),
                cache=_cache(tool.get("cache_control") or function.get("cache_control")),
                kind=kind,
            )
        )
    return tuple(tools)


def _tool_choice(value: Json) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in {"auto", "none", "required"}:
            raise BadRequest("Invalid value for 'tool_choice'.", param="tool_choice", code="invalid_value")
        return ToolChoice(value)
    if value.get("type") == "allowed_tools":
        allowed = value.get("allowed_tools") or {}
        tools = [tool for tool in allowed.get("tools") or () if isinstance(tool, dict)]
        names = tuple(str((tool.get("function") or tool).get("name")) for tool in tools)
        return ToolChoice("required" if allowed.get("mode") == "required" else "auto", allowed=names)
    named = value.get("function") or value.get("custom") or value
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise BadRequest("'tool_choice.function.name' is missing.", param="tool_choice.function.name")
    return ToolChoice("named", name=named["name"])


def _output(value: Json) -> OutputFormat | None:
    if value is None or value.get("type") == "text":
        return None
    if value.get("type") == "json_object":
        return OutputFormat("json_object")
    schema = value.get("json_schema")
    if value.get("type") != "json_schema" or not isinstance(schema, dict):
        raise BadRequest("Invalid value for 'response_format'.", param="response_format", code="invalid_value")
    return OutputFormat(
        "json_schema",
        name=str(schema.get("name") or ""),
        schema=schema.get("schema") if isinstance(schema.get("schema"), dict) else {},
        strict=schema.get("strict"),
    )
