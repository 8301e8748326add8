"""ChatRequest → the body of Ollama's /api/chat, a completion → that of /api/generate, embeddings → that of /api/embed.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. The rules: docs/dialects/ollama.md.
"""

import re
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.openai.embedding_answer import input_texts
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.parameters import (
    SettledRequest,
    add_defaults,
    refuse_dropped,
    settle_request,
    unsupported,
)
from gateway.protocol.dialects.shared.system_text import system_texts
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import (
    Assistant,
    ChatRequest,
    Image,
    Message,
    Part,
    System,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    User,
)
from gateway.protocol.json.types import JsonMapping, JsonObject

#: Options of a model file that OpenAI's dialect has no name for.
OPTIONS = frozenset(
    {"numa", "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all"}
    | {"vocab_only", "use_mmap", "use_mlock", "num_thread", "num_keep", "min_p", "tfs_z", "typical_p"}
    | {"repeat_last_n", "repeat_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"}
)
#: Parameters of a deployment that are no members of a body.
GATEWAY_ONLY = frozenset({"tool_call_parser", "raw"})
THINKING_LEVELS: Mapping[str, bool | str] = {"none": False, "minimal": "low", "low": "low", "medium": "medium"}
#: Models that know levels of thinking; for any other it is on or off.
LEVELLED = re.compile(r"gpt-oss", re.IGNORECASE)


@dataclass(slots=True)
class EncodedRequest:
    body: JsonObject
    dropped: list[str] = field(default_factory=list)


def encode_request(
    request: ChatRequest,
    capabilities: Capabilities,
    *,
    model: str,
    stream: bool,
    parameters: JsonMapping,
    fetched: Mapping[str, Fetched],
    unsupported_parameters: frozenset[str] = frozenset(),
) -> EncodedRequest:
    """The body of /api/chat. `parameters` are the deployment's. Raises BadRequest for what the server cannot do."""
    settled, dropped = _settle(request, parameters, unsupported_parameters)
    request = settled.request
    body: JsonObject = {"model": model, "messages": _messages(request.messages, fetched), "stream": stream}
    tools = _tools(request, dropped)
    if tools:
        body["tools"] = tools
    if request.logprobs:
        body["logprobs"] = True
        if request.top_logprobs is not None:
            body["top_logprobs"] = request.top_logprobs
    return _add_options(EncodedRequest(body, dropped), settled, capabilities)


def encode_completion_request(
    request: ChatRequest,
    capabilities: Capabilities,
    *,
    model: str,
    stream: bool,
    suffix: str,
    parameters: JsonMapping,
    unsupported_parameters: frozenset[str] = frozenset(),
) -> EncodedRequest:
    """The body of /api/generate.

    The server continues the prompt as it is, without its chat template, unless the deployment sets `raw` to false. It
    reads a suffix only through the model's template for filling in the middle, so a request with one is not raw.
    """
    settled, dropped = _settle(request, parameters, unsupported_parameters)
    request = settled.request
    prompt = "".join(part.text for part in request.messages[0].parts if isinstance(part, Text))
    body: JsonObject = {"model": model, "prompt": prompt, "stream": stream}
    body |= {"suffix": suffix} if suffix else {"raw": parameters.get("raw", True)}
    dropped += ["tools"] if request.tools else []
    encoded = _add_options(EncodedRequest(body, dropped), settled, capabilities)
    encoded.body.setdefault("think", False)  # newer servers otherwise cut what looks like thoughts out of the text
    return encoded


def _settle(
    request: ChatRequest, parameters: JsonMapping, unsupported_parameters: frozenset[str]
) -> tuple[SettledRequest, list[str]]:
    """(the request with the deployment's parameters, the names of the parameters that are not sent)."""
    if "reasoning_effort" in unsupported_parameters:
        unsupported_parameters |= {"thinking"}
    settled = settle_request(request, parameters, unsupported_parameters)
    if (settled.request.n or 1) > 1:
        raise unsupported("n")
    return settled, [*settled.dropped, *_unknown_fields(settled.request)]


def _add_options(encoded: EncodedRequest, settled: SettledRequest, capabilities: Capabilities) -> EncodedRequest:
    """Adds what /api/chat and /api/generate have in common."""
    request, parameters = settled.request, settled.other_parameters
    body, dropped = encoded.body, encoded.dropped
    think = _think(request, capabilities, body["model"])
    if think is not None:
        body["think"] = think
    if request.output and capabilities.structured == "none":
        dropped.append("response_format")
    elif request.output:
        is_schema = request.output.kind == "json_schema" and request.output.schema
        body["format"] = request.output.schema if is_schema else "json"
    options = {name: value for name, value in parameters.items() if name in OPTIONS}
    options |= {name: value for name, value in request.others.items() if name in OPTIONS}
    options |= _options(request, capabilities, dropped)
    encoded.body = body = add_defaults(body, parameters, excluded=OPTIONS | GATEWAY_ONLY)
    if options:
        body["options"] = {**body.get("options", {}), **options}
    refuse_dropped(dropped, capabilities)
    return encoded


def _unknown_fields(request: ChatRequest) -> list[str]:
    """The fields of the request that this API has no place for."""
    fields = {
        "logit_bias": request.logit_bias,
        "top_logprobs": request.top_logprobs and not request.logprobs,
        "parallel_tool_calls": request.parallel_tools is False,
        "service_tier": request.service_tier,
        "user": request.user,
    }
    others = (name for name in request.others if name not in OPTIONS)
    return [name for name, value in fields.items() if value] + sorted(others)


def _options(request: ChatRequest, capabilities: Capabilities, dropped: list[str]) -> JsonObject:
    limit = request.max_tokens
    if limit and capabilities.max_output_tokens:
        limit = min(limit, capabilities.max_output_tokens)
    sampling = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    excluded: tuple[str, ...] = ()
    if capabilities.sampling == "none":
        excluded = tuple(sampling)
    elif capabilities.sampling == "one_of" and request.temperature is not None:
        excluded = ("top_p",)
    dropped += [name for name in excluded if sampling.pop(name) is not None]
    stop = list(request.stop) or None
    options = {**sampling, "num_predict": limit, "stop": stop, "seed": request.seed}
    return {name: value for name, value in options.items() if value is not None}


def _think(request: ChatRequest, capabilities: Capabilities, model: str) -> bool | str | None:
    """An explicit `thinking` object wins over the effort."""
    if request.thinking is not None:
        return request.thinking.get("type") != "disabled"
    effort = request.reasoning_effort
    if not effort:
        return None
    level = THINKING_LEVELS.get(effort, "high")
    is_levelled = capabilities.thinking == "level" or LEVELLED.search(model)
    return level if is_levelled else bool(level)


def _tools(request: ChatRequest, dropped: list[str]) -> list[JsonObject]:
    """The tools of the request. The server cannot force a call: a forced choice only limits which tools it sees."""
    choice = request.tool_choice
    tools = request.tools
    if not tools or choice is None or choice.mode == "auto":
        names = choice.allowed if choice else ()
    elif choice.mode == "none":
        return []
    else:
        dropped.append("tool_choice")
        names = (choice.name,) if choice.mode == "named" else choice.allowed
    allowed = frozenset(names)
    chosen = tuple(tool for tool in tools if tool.name in allowed)
    return [_tool(tool) for tool in chosen or tools]


def _tool(tool: Tool) -> JsonObject:
    description = {"description": tool.description} if tool.description else {}
    schema = tool.schema if tool.schema is not None else {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": tool.name, **description, "parameters": schema}}


def _messages(messages: tuple[Message, ...], fetched: Mapping[str, Fetched]) -> list[JsonObject]:
    """The messages, each tool result with the name of the tool that it answers."""
    encoded = []
    tool_names: dict[str, str] = {}  # by the ids of their calls
    #: The tools of the current turn's unanswered calls, by id: calls of one id are answered in their order.
    unanswered: defaultdict[str, deque[str]] = defaultdict(deque)
    previous: Message | None = None
    for message in messages:
        item = _message(message, fetched)
        if isinstance(message, Assistant):
            if not isinstance(previous, Assistant):
                unanswered.clear()
            for call in message.tool_calls:
                unanswered[call.id].append(call.name)
                tool_names[call.id] = call.name
        elif isinstance(message, ToolResult):
            names, call_id = unanswered[message.tool_call_id], message.tool_call_id
            item["tool_name"] = names.popleft() if names else tool_names.get(call_id, call_id)
        encoded.append(item)
        previous = message
    return encoded


def _message(message: Message, fetched: Mapping[str, Fetched]) -> JsonObject:
    parts = system_texts(message) if isinstance(message, System) else message.parts
    text = "\n".join(part.text for part in parts if isinstance(part, Text))
    images = [_image(part, fetched) for part in parts if not isinstance(part, Text)]
    item: JsonObject = {"role": _role(message), "content": text}
    if images:
        item["images"] = images
    if isinstance(message, Assistant):
        thinking = "".join(block.text for block in message.reasoning)
        if thinking:
            item["thinking"] = thinking
        if message.refusal and not text:
            item["content"] = message.refusal
        if message.tool_calls:
            item["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return item


def _role(message: Message) -> str:
    if isinstance(message, System):
        return "system"
    if isinstance(message, User):
        return "user"
    return "assistant" if isinstance(message, Assistant) else "tool"


def _image(part: Part, fetched: Mapping[str, Fetched]) -> str:
    if not isinstance(part, Image):
        raise unsupported("messages", "hold a file or audio, which is not supported by this model")
    if part.data:
        return part.data
    medium = fetched.get(part.url)
    if medium is None:
        raise BadRequest("The image could not be fetched for this model.", param="messages")
    return medium.data


def _tool_call(call: ToolCall) -> JsonObject:
    arguments = read_arguments(call) if call.arguments else {}
    if not isinstance(arguments, dict):  # cut off or no object: the text is sent as it is
        arguments = {"input": call.arguments if arguments is None else arguments}
    return {"function": {"name": call.name, "arguments": arguments}}


def encode_embedding_request(body: JsonMapping, *, model: str, parameters: JsonMapping) -> EncodedRequest:
    """The body of /api/embed for `body`, a request of OpenAI's dialect. An input that is too long is an error, as it
    is there; Ollama's default cuts it silently."""
    encoded: JsonObject = {"model": model, "input": list(input_texts(body)), "truncate": False}
    if body.get("dimensions"):
        encoded["dimensions"] = body["dimensions"]
    options = {name: value for name, value in parameters.items() if name in OPTIONS}
    for name in ("keep_alive", "truncate"):
        if name in parameters:
            encoded[name] = parameters[name]
    if options:
        encoded["options"] = options
    return EncodedRequest(encoded, ["user"] if body.get("user") else [])
