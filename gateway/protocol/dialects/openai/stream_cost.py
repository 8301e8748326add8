"""The cost of an answer in the last usage of its stream, as LiteLLM's `usage.cost`."""

import orjson

from gateway.protocol.answer import AnswerCost
from gateway.protocol.call import Call, Operation
from gateway.protocol.dialects.openai.client_answer import usage_object
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.json.types import JsonObject

_DATA, _END = b"data: ", b"\n\n"


def add_cost(call: Call, ending: bytes, cost: AnswerCost) -> bytes:
    """`ending`: the last frames of a complete stream. Where none of them tells the usage, a chunk with it is added."""
    if not ending.endswith(DONE):
        return ending
    frames = ending[: -len(DONE)]
    start = frames.rfind(_END, 0, -len(_END)) + len(_END) if _END in frames[: -len(_END)] else 0
    chunk: JsonObject | None = None
    if frames[start:].startswith(_DATA):
        chunk = orjson.loads(frames[start + len(_DATA) :])
    if chunk is None or chunk.get("choices") or not isinstance(chunk.get("usage"), dict):
        start = len(frames)
        chunk = {
            "id": cost.answer_id,
            "object": "chat.completion.chunk" if call.operation is Operation.CHAT else "text_completion",
            "created": cost.created_s,
            "model": call.model,
            "choices": [],
            "usage": usage_object(cost.usage),
        }
    usage = {**chunk["usage"], "cost": orjson.Fragment(cost.usd)}
    return frames[:start] + _DATA + orjson.dumps({**chunk, "usage": usage}) + _END + DONE
