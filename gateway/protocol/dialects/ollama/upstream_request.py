"""Ollama's native wire: a ChatRequest as the body of /api/chat, a completion as that of /api/generate, the lines of
JSON of both as events, and /api/embed.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. The rules: docs/dialects/ollama.md.
"""

import re
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.protocol.attempt_context import Fetched
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.openai.embedding_answer import input_texts
from gateway.protocol.dialects.shared.call_arguments import read_arguments
from gateway.protocol.dialects.shared.parameters import refuse_dropped, unsupported
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

#: Of a model file, besides those that OpenAI's dialect has a name for.
OPTIONS = frozenset(
    """
    numa num_ctx num_batch num_gpu main_gpu low_vram f16_kv logits_all vocab_only use_mmap use_mlock num_thread
    num_keep min_p tfs_z typical_p repeat_last_n repeat_penalty mirostat mirostat_tau mirostat_eta penalize_newline
    """.split()  # noqa: SIM905 - twenty names read better without their quotes
)
#: Options with OpenAI's names: what an upstream's error may have told to leave out, and what a deployment may set for
#: what a client did not say.
SAMPLING = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
REFUSABLE = frozenset({*SAMPLING, "logprobs", "top_logprobs"})
DEFAULTED = frozenset({*SAMPLING, "max_tokens", "reasoning_effort"})
LEVELS: Mapping[str, bool | str] = {"none": False, "minimal": "low", "low": "low", "medium": "medium"}
#: Models that know levels of thinking; others can only be told whether to think.
LEVELLED = re.compile(r"gpt-oss", re.IGNORECASE)


@dataclass(slots=True)
class EncodedRequest:
    body: JsonObject
    dropped: list[str] = field(default_factory=list)


def encode_request(
    conversation: ChatRequest,
    capabilities: Capabilities,
    *,
    model: str,
    stream: bool,
    parameters: JsonMapping,
    fetched: Mapping[str, Fetched],
    unsupported_parameters: frozenset[str] = frozenset(),
) -> EncodedRequest:
    """The body of /api/chat. `parameters` are the deployment's. Raises BadRequest for what cannot be asked."""
    conversation, dropped = _apply_deployment(conversation, parameters, unsupported_parameters)
    body: JsonObject = {"model": model, "messages": _messages(conversation.messages, fetched), "stream": stream}
    tools = _tools(conversation, dropped)
    if tools:
        body["tools"] = tools
    if conversation.logprobs:
        body["logprobs"] = True
        if conversation.top_logprobs is not None:
            body["top_logprobs"] = conversation.top_logprobs
    return _with_options(EncodedRequest(body, dropped), conversation, capabilities, parameters)


def encode_completion_request(
    conversation: ChatRequest,
    capabilities: Capabilities,
    *,
    model: str,
    stream: bool,
    suffix: str,
    parameters: JsonMapping,
    unsupported_parameters: frozenset[str] = frozenset(),
) -> EncodedRequest:
    """The body of /api/generate: the prompt as it is, without the template of a chat, unless the deployment says
    otherwise; with a suffix in the model's template for filling in the middle, the only place where one is read."""
    conversation, dropped = _apply_deployment(conversation, parameters, unsupported_parameters)
    prompt = "".join(part.text for part in conversation.messages[0].parts if isinstance(part, Text))
    body: JsonObject = {"model": model, "prompt": prompt, "stream": stream}
    body |= {"suffix": suffix} if suffix else {"raw": parameters.get("raw", True)}
    dropped += ["tools"] if conversation.tools else []
    result = _with_options(EncodedRequest(body, dropped), conversation, capabilities, parameters)
    result.body.setdefault("think", False)  # or newer servers take out of the text what they hold for thoughts
    return result


def _apply_deployment(
    conversation: ChatRequest, parameters: JsonMapping, unsupported_parameters: frozenset[str]
) -> tuple[ChatRequest, list[str]]:
    """(the conversation with the deployment's parameters where the client said nothing and without what the upstream
    has refused before, the names of what is not sent)"""
    if (conversation.n or 1) > 1:
        raise unsupported("n")
    asked = {name: getattr(conversation, name) for name in sorted(unsupported_parameters & REFUSABLE)}
    refused = [name for name, value in asked.items() if value is not None and value is not False]
    changes: JsonObject = dict.fromkeys(refused)
    for name in DEFAULTED & parameters.keys() - unsupported_parameters:
        if getattr(conversation, name) in (None, ""):
            changes[name] = parameters[name]
    if "reasoning_effort" in unsupported_parameters:
        thoughts = {"reasoning_effort": conversation.reasoning_effort, "thinking": conversation.thinking}
        refused += [name for name, value in thoughts.items() if value]
        changes |= {"reasoning_effort": "", "thinking": None}
    conversation = replace(conversation, **changes)
    return conversation, refused + _dropped(conversation)


def _with_options(
    result: EncodedRequest, conversation: ChatRequest, capabilities: Capabilities, parameters: JsonMapping
) -> EncodedRequest:
    """With what a chat and a completion are both told."""
    body, dropped = result.body, result.dropped
    think = _think(conversation, capabilities, body["model"])
    if think is not None:
        body["think"] = think
    if conversation.output and capabilities.structured == "none":
        dropped.append("response_format")
    elif conversation.output:
        is_schema = conversation.output.kind == "json_schema" and conversation.output.schema
        body["format"] = conversation.output.schema if is_schema else "json"
    options = {name: value for name, value in parameters.items() if name in OPTIONS}
    options |= {name: value for name, value in conversation.others.items() if name in OPTIONS}
    options |= _options(conversation, capabilities, dropped)
    for name, value in parameters.items():
        if name not in OPTIONS | DEFAULTED | {"tool_call_parser", "raw"}:
            body.setdefault(name, value)
    if options:
        body["options"] = {**body.get("options", {}), **options}
    refuse_dropped(dropped, capabilities)
    return result


def _dropped(conversation: ChatRequest) -> list[str]:
    given = {
        "logit_bias": conversation.logit_bias,
        "top_logprobs": conversation.top_logprobs and not conversation.logprobs,
        "parallel_tool_calls": conversation.parallel_tools is False,
        "service_tier": conversation.service_tier,
        "user": conversation.user,
    }
    unknown = (name for name in conversation.others if name not in OPTIONS)
    return [name for name, value in given.items() if value] + sorted(unknown)


def _options(conversation: ChatRequest, capabilities: Capabilities, dropped: list[str]) -> JsonObject:
    limit = conversation.max_tokens
    if limit and capabilities.max_output_tokens:
        limit = min(limit, capabilities.max_output_tokens)
    sampling = {
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "top_k": conversation.top_k,
        "presence_penalty": conversation.presence_penalty,
        "frequency_penalty": conversation.frequency_penalty,
    }
    without: tuple[str, ...] = ()
    if capabilities.sampling == "none":
        without = tuple(sampling)
    elif capabilities.sampling == "one_of" and conversation.temperature is not None:
        without = ("top_p",)
    dropped += [name for name in without if sampling.pop(name) is not None]
    stop = list(conversation.stop) or None
    options = {**sampling, "num_predict": limit, "stop": stop, "seed": conversation.seed}
    return {name: value for name, value in options.items() if value is not None}


def _think(conversation: ChatRequest, capabilities: Capabilities, model: str) -> bool | str | None:
    """An explicit object wins over the effort."""
    if conversation.thinking is not None:
        return conversation.thinking.get("type") != "disabled"
    effort = conversation.reasoning_effort
    if not effort:
        return None
    level = LEVELS.get(effort, "high")
    is_levelled = capabilities.thinking == "level" or LEVELLED.search(model)
    return level if is_levelled else bool(level)


def _tools(conversation: ChatRequest, dropped: list[str]) -> list[JsonObject]:
    """The server forces no call; what can be held to is which tools there are."""
    choice = conversation.tool_choice
    tools = conversation.tools
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
    described = {"description": tool.description} if tool.description else {}
    schema = tool.schema if tool.schema is not None else {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": schema}}


def _messages(messages: tuple[Message, ...], fetched: Mapping[str, Fetched]) -> list[JsonObject]:
    made = []
    known: dict[str, str] = {}  # {a call's id: the name of its tool}
    waiting: defaultdict[str, deque[str]] = defaultdict(deque)  # of the turn, whose calls of one id are in their order
    before: Message | None = None
    for message in messages:
        shown = _message(message, fetched)
        if isinstance(message, Assistant):
            if not isinstance(before, Assistant):
                waiting.clear()
            for call in message.tool_calls:
                waiting[call.id].append(call.name)
                known[call.id] = call.name
        elif isinstance(message, ToolResult):
            names, call_id = waiting[message.tool_call_id], message.tool_call_id
            shown["tool_name"] = names.popleft() if names else known.get(call_id, call_id)
        made.append(shown)
        before = message
    return made


def _message(message: Message, fetched: Mapping[str, Fetched]) -> JsonObject:
    parts = system_texts(message) if isinstance(message, System) else message.parts
    text = "\n".join(part.text for part in parts if isinstance(part, Text))
    images = [_image(part, fetched) for part in parts if not isinstance(part, Text)]
    shown: JsonObject = {"role": _role(message), "content": text}
    if images:
        shown["images"] = images
    if isinstance(message, Assistant):
        thinking = "".join(block.text for block in message.reasoning)
        if thinking:
            shown["thinking"] = thinking
        if message.refusal and not text:
            shown["content"] = message.refusal
        if message.tool_calls:
            shown["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return shown


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
    found = fetched.get(part.url)
    if found is None:
        raise BadRequest("The image could not be fetched for this model.", param="messages")
    return found.data


def _tool_call(call: ToolCall) -> JsonObject:
    arguments = read_arguments(call) if call.arguments else {}
    if not isinstance(arguments, dict):  # cut, or not of this wire: what was written is kept
        arguments = {"input": call.arguments if arguments is None else arguments}
    return {"function": {"name": call.name, "arguments": arguments}}


def encode_embedding_request(asked: JsonMapping, *, model: str, parameters: JsonMapping) -> EncodedRequest:
    """The body of /api/embed, of a body in OpenAI's dialect."""
    body: JsonObject = {"model": model, "input": list(input_texts(asked))}
    if asked.get("dimensions"):
        body["dimensions"] = asked["dimensions"]
    options = {name: value for name, value in parameters.items() if name in OPTIONS}
    for name in ("keep_alive", "truncate"):
        if name in parameters:
            body[name] = parameters[name]
    if options:
        body["options"] = options
    return EncodedRequest(body, ["user"] if asked.get("user") else [])
