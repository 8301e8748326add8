"""The wire formats of the servers that people run themselves: OpenAI's dialect, as each of them really writes it.

Sources, read in 2026: xorbitsai/inference (api/restful_api.py, model/llm/utils.py), Ascend/MindIE-LLM
(single_req_vllm_openai_infer_interface.cpp, tool_calls_processor.py), ModelTC/LightLLM (server/api_openai.py, in three
generations), vllm-project/vllm (entrypoints/openai), ollama/ollama (openai/openai.go; its native format: wires.py).
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gateway.protocol.json.types import JsonObject
from tests.fakes.upstream import ABSENT, Answer, Behaviour, Exchange, Reply, lf_frame
from tests.fakes.wires import ERROR_TEXT, RETRY, ScriptedAnswer, Wire, pieces

CREATED = 1_790_000_000
PLACE = "[address=0.0.0.0:41021, pid=77]"
DONE = b"data: [DONE]\n\n"
INTRODUCTION = "Let me see."


def usage(prompt: int, completion: int, **details: Any) -> JsonObject:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**counts, **details}


XINFERENCE_USAGE = usage(40, 12)
MINDIE_USAGE = usage(60, 14, prompt_tokens_details={"cached_tokens": 16}, batch_size=[1, 1], queue_wait_time=[5, 5])
LIGHTLLM_USAGE = usage(50, 13)
VLLM_USAGE = usage(70, 15, prompt_tokens_details=None)
OLLAMA_V1_USAGE = usage(26, 12)


def chunk(what: ScriptedAnswer, delta: JsonObject | None, finish: str | None = None, **more: Any) -> JsonObject:
    """A piece of a stream; one without choices where there is no delta."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": CREATED, "model": what.model}
    return {**head, "choices": choices, **more}


def whole(what: ScriptedAnswer, message: JsonObject, finish: str, counted: JsonObject, **more: Any) -> JsonObject:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-7", "object": "chat.completion", "created": CREATED, "model": what.model}
    return {**head, "choices": [choice], "usage": counted, **more}


def whole_calls(what: ScriptedAnswer) -> list[JsonObject]:
    return [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": text(arguments)}}
        for i, (name, arguments) in enumerate(what.calls)
    ]


def text(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False)


def finish_of(what: ScriptedAnswer) -> str:
    return "tool_calls" if what.calls else "length" if what.is_cut else "stop"


def framed(event: JsonObject) -> bytes:
    return lf_frame(text(event).encode())


def reply(status: int, body: JsonObject) -> Reply:
    return Reply(status, text(body).encode(), headers=RETRY)


# Calls that a server leaves in the text, as families of models write them


def as_text(what: ScriptedAnswer, family: str) -> ScriptedAnswer:
    if not what.calls:
        return what
    return replace(what, words=pieces(written(what.calls, family)), calls=[])


def written(calls: list[tuple[str, JsonObject]], family: str) -> str:
    texts = [f'{{"name": "{name}", "arguments": {text(arguments)}}}' for name, arguments in calls]
    if family == "qwen25":
        return INTRODUCTION + "".join(f"\n<tool_call>\n{call}\n</tool_call>" for call in texts)
    if family == "mistral":
        return f"[TOOL_CALLS] [{', '.join(texts)}]"
    calls_of_llama = "; ".join(call.replace('"arguments"', '"parameters"', 1) for call in texts)
    # the tag is a special token, and a server that skips those leaves the bare object
    return {"llama3": "<|python_tag|>", "llama3-bare": ""}[family] + calls_of_llama


# XInference: event-source framing with pings; a call's name first, then all of its arguments at once


def crlf_event(event: JsonObject) -> bytes:
    return b"data: " + text(event).encode() + b"\r\n\r\n"


def xinference_body(what: ScriptedAnswer) -> JsonObject:
    calls = {"tool_calls": whole_calls(what)} if what.calls else {}
    return whole(what, {"content": what.text, **calls}, finish_of(what), XINFERENCE_USAGE)


def xinference_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    begun = {"role": "assistant", "content": ""}
    yield b": ping - 2026-08-23 02:27:33.000000+00:00\r\n\r\n" + crlf_event(chunk(what, begun))
    for word in what.words:
        yield crlf_event(chunk(what, {"content": word}))
    for index, (name, arguments) in enumerate(what.calls):
        for function in ({"arguments": "", "name": name}, {"arguments": text(arguments)}):
            call = {"index": index, "id": f"call_{index}", "type": "function", "function": function}
            yield crlf_event(chunk(what, {**begun, "tool_calls": [call]}, usage=None))
    yield crlf_event(chunk(what, {**begun, "tool_calls": []}, finish_of(what), usage=None))
    if what.asks_usage:
        yield crlf_event(chunk(what, None, usage=XINFERENCE_USAGE))
    yield b"data: [DONE]\r\n\r\n"


def xinference_error(status: int) -> Reply:
    code, message = {
        404: (400, "Model not found in the model list, uid: gone"),
        429: (429, "Rate limit reached for the model."),
    }.get(status, (status, ERROR_TEXT))
    return reply(code, {"detail": f"{PLACE} {message}"})


def xinference_refuses(request: JsonObject) -> str:
    if "logit_bias" in request:
        return "Not implemented"
    if request.get("stream") and request.get("tools") and "llama" in request["model"]:
        return "Tool calls of this family do not stream"
    return ""


# MindIE: the role in every piece, the usage beside the finish reason


def mindie_body(what: ScriptedAnswer) -> JsonObject:
    message = {"content": what.text, "tool_calls": whole_calls(what)}
    return whole(what, message, finish_of(what), MINDIE_USAGE, prefill_time=200, decode_time_arr=[56, 28])


def mindie_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    yield framed(chunk(what, {"role": "assistant", "content": ""}))
    for word in what.words:
        yield framed(chunk(what, {"role": "assistant", "content": word}))
    for index, (name, arguments) in enumerate(what.calls):
        start: JsonObject = {"index": index, "id": f"call_Jwm{index}", "type": "function", "function": {"name": name}}
        for call in (start, *({"index": index, "function": {"arguments": piece}} for piece in pieces(text(arguments)))):
            yield framed(chunk(what, {"role": "assistant", "tool_calls": [call]}))
    ended = {"role": "assistant", "content": ""}
    yield framed(chunk(what, ended, finish_of(what), full_text=what.text, usage=MINDIE_USAGE))
    yield DONE


def mindie_error(status: int) -> Reply:
    code, message, kind = {
        400: (422, ERROR_TEXT, "Input Validation Error"),
        404: (422, "Model not found", "Input Validation Error"),
        500: (424, ERROR_TEXT, "Generation Error"),
    }.get(status, (status, ERROR_TEXT, "Service Unavailable"))
    return reply(code, {"error": message, "error_type": kind})


def mindie_refuses(request: JsonObject) -> str:
    for message in request["messages"]:
        if message["role"] not in {"system", "user", "assistant", "tool"}:
            return "Request param contains role must be system, assistant, user or tool"
        if not message.get("content") and not message.get("tool_calls"):
            return "Request param content len should not be 0"
    alone = {"stop", "n", "best_of", "logprobs"} & request.keys() if request.get("tools") else set()
    if alone:
        return f"{alone} cannot go with tools"
    if request.get("stream") and request.get("tools") and "qwen3" not in request["model"]:
        return "Tool calls of this model do not stream"
    return ""


# LightLLM: the generation of 2025, then what the one of 2026 and the first one do otherwise


def lightllm_body(what: ScriptedAnswer) -> JsonObject:
    calls = [{**call, "index": index} for index, call in enumerate(whole_calls(what))]
    message = {"content": what.text, "reasoning_content": "", "tool_calls": calls or None}
    return whole(what, message, finish_of(what), LIGHTLLM_USAGE)


def lightllm_delta(**fields: Any) -> JsonObject:
    return {"role": "assistant", "content": None, "tool_calls": None, "reasoning_content": None, **fields}


def lightllm_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    """Every field is written, nulls too; the id is repeated; there is no [DONE]."""
    for word in what.words:
        yield framed(chunk(what, lightllm_delta(content=word), usage=None))
    for index, (name, arguments) in enumerate(what.calls):
        functions = [{"name": name, "arguments": ""}]
        functions += [{"name": None, "arguments": piece} for piece in pieces(text(arguments))]
        for function in functions:
            call = {"id": f"call_{index}", "index": index, "type": "function", "function": function}
            yield framed(chunk(what, lightllm_delta(tool_calls=[call]), usage=None))
    yield framed(chunk(what, lightllm_delta(role=None), finish_of(what), usage=None))
    if what.asks_usage:
        yield framed(chunk(what, None, usage=LIGHTLLM_USAGE))


def lightllm_error(status: int) -> Reply:
    if status == 500:
        return Reply(500, f"Internal Server Error {ERROR_TEXT}".encode(), "text/plain")
    return reply(status, {"detail": "Not Found"} if status == 404 else {"message": ERROR_TEXT})


def lightllm_refuses(request: JsonObject) -> str:
    if request.get("logit_bias") is not None:
        return "The logit_bias parameter is not currently supported"
    if request.get("function_call", "none") != "none":
        return "The function call feature is not supported"
    return ""


async def lightllm_completion(exchange: Exchange) -> None:
    """Completions do have a [DONE] in a stream, and the usage behind it."""
    late = {"id": "cmpl-7", "object": "text_completion", "created": CREATED, "choices": [], "usage": LIGHTLLM_USAGE}
    if exchange.streams and (exchange.json.get("stream_options") or {}).get("include_usage"):
        await Answer(usage=ABSENT, trailing=framed({**late, "model": exchange.json["model"]}))(exchange)
    else:
        await Answer(usage=LIGHTLLM_USAGE)(exchange)


def new_lightllm_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    """The role once, no nulls, the usage asked for or not, and [DONE]."""
    yield framed(chunk(what, {"role": "assistant", "content": ""}))
    for word in what.words:
        yield framed(chunk(what, {"content": word}))
    for index, (name, arguments) in enumerate(what.calls):
        start = {"id": f"call_{index}", "index": index, "type": "function", "function": {"name": name, "arguments": ""}}
        for call in (start, *({"index": index, "function": {"arguments": piece}} for piece in pieces(text(arguments)))):
            yield framed(chunk(what, {"tool_calls": [call]}))
    yield framed(chunk(what, {}, finish_of(what)))
    yield framed(chunk(what, None, usage=LIGHTLLM_USAGE))
    yield DONE


def first_lightllm_body(what: ScriptedAnswer) -> JsonObject:
    """The calls are found and stay in the text all the same; an id is a position."""
    calls = [{**call, "id": str(index)} for index, call in enumerate(whole_calls(what))]
    if not calls:
        return whole(what, {"content": what.text}, "stop", LIGHTLLM_USAGE)
    message = {"content": written(what.calls, "qwen25"), "tool_calls": calls}
    return whole(what, message, "function_call", LIGHTLLM_USAGE)


def first_lightllm_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    """No index, a finish reason in each piece of a call, an empty one in each piece of text; no usage, no [DONE]."""
    for word in what.words or [INTRODUCTION]:
        yield framed(chunk(what, {"role": None, "content": word, "tool_calls": None}, ""))
    for index, (name, arguments) in enumerate(what.calls):
        functions = [{"name": name, "arguments": ""}]
        functions += [{"name": "", "arguments": piece} for piece in pieces(text(arguments))]
        for function in functions:
            call = {"id": str(index), "type": "function", "function": function}
            yield framed(chunk(what, {"role": "assistant", "tool_calls": [call]}, "function_call"))
    if not what.calls:
        yield framed(chunk(what, {"role": None, "content": ""}, "stop"))


# vLLM: fields of its own beside the usual ones, an empty list of calls in a whole text answer


def vllm_body(what: ScriptedAnswer) -> JsonObject:
    message = {"content": what.text or None, "refusal": None, "tool_calls": whole_calls(what), "reasoning": None}
    return whole(what, message, finish_of(what), VLLM_USAGE, prompt_logprobs=None, kv_transfer_params=None)


def vllm_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    yield framed(chunk(what, {"role": "assistant", "content": ""}, prompt_token_ids=None))
    for word in what.words:
        yield framed(chunk(what, {"content": word, "tool_calls": []}))
    for index, (name, arguments) in enumerate(what.calls):
        start = {"id": f"chatcmpl-tool-{index}", "type": "function", "index": index, "function": {"name": name}}
        for call in (start, *({"index": index, "function": {"arguments": piece}} for piece in pieces(text(arguments)))):
            yield framed(chunk(what, {"tool_calls": [call]}))
    yield framed(chunk(what, {"content": ""}, finish_of(what)))
    if what.asks_usage:
        yield framed(chunk(what, None, usage=VLLM_USAGE))
    yield DONE


def vllm_error(status: int) -> Reply:
    error = {"message": ERROR_TEXT, "type": "BadRequestError", "param": None, "code": status}
    return reply(status, {"error": error})


# Ollama's OpenAI-compatible door: the role in every piece, a call whole in one of them


def ollama_v1_frames(what: ScriptedAnswer) -> Iterator[bytes]:
    begun = {"role": "assistant", "content": ""}
    for word in what.words:
        yield framed(chunk(what, {**begun, "content": word}, system_fingerprint="fp_ollama"))
    for index, call in enumerate(whole_calls(what)):
        yield framed(chunk(what, {**begun, "tool_calls": [{**call, "index": index}]}))
    yield framed(chunk(what, begun, finish_of(what)))
    if what.asks_usage:
        yield framed(chunk(what, None, usage=OLLAMA_V1_USAGE))
    yield DONE


def ollama_v1_body(what: ScriptedAnswer) -> JsonObject:
    calls = {"tool_calls": [{**call, "index": index} for index, call in enumerate(whole_calls(what))]}
    return whole(what, {"content": what.text, **(calls if what.calls else {})}, finish_of(what), OLLAMA_V1_USAGE)


def ollama_v1_error(status: int) -> Reply:
    return reply(status, {"error": {"message": ERROR_TEXT, "type": "api_error", "param": None, "code": None}})


EVENTS = "text/event-stream"
LIGHTLLM = Wire(lightllm_body, lightllm_frames, lightllm_error, EVENTS, refuses=lightllm_refuses)
SELF_HOSTED = {
    "xinference": Wire(
        xinference_body,
        xinference_frames,
        xinference_error,
        EVENTS,
        crlf_event({"error": f"{PLACE} {ERROR_TEXT}"}),
        xinference_refuses,
    ),
    "mindie": Wire(
        mindie_body,
        mindie_frames,
        mindie_error,
        EVENTS,
        framed({"error": ERROR_TEXT, "error_type": "Generation Error"}),
        mindie_refuses,
    ),
    "lightllm": LIGHTLLM,
    "lightllm-2026": replace(LIGHTLLM, frames=new_lightllm_frames),
    "lightllm-first": replace(LIGHTLLM, body=first_lightllm_body, frames=first_lightllm_frames),
    "vllm": Wire(
        vllm_body,
        vllm_frames,
        vllm_error,
        EVENTS,
        framed({"error": {"message": ERROR_TEXT, "type": "InternalServerError", "param": None, "code": 500}}),
    ),
    "ollama-v1": Wire(ollama_v1_body, ollama_v1_frames, ollama_v1_error, EVENTS),
}
COMPLETIONS: dict[str, Behaviour] = {
    "xinference": Answer(usage=XINFERENCE_USAGE),
    "mindie": Answer(usage=MINDIE_USAGE),
    "lightllm": lightllm_completion,
    "vllm": Answer(usage=VLLM_USAGE),
    "ollama-v1": Answer(usage=OLLAMA_V1_USAGE),
}
