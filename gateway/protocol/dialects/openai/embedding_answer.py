"""Vectors of any provider → OpenAI's embedding list.

Source: https://platform.openai.com/docs/api-reference/embeddings/create. `encoding_format: base64` is the vector as
little-endian float32, the default of OpenAI's own client. A list of more texts than a provider takes at once becomes
several calls, whose answers this module joins.
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import replace

import orjson

from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.call import Call
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.input_estimate import estimate_content
from gateway.protocol.json.types import Json, JsonMapping
from gateway.protocol.usage import Usage


def input_texts(body: JsonMapping) -> tuple[str, ...]:
    """The inputs of a request for a provider that knows no token arrays. Raises BadRequest for one."""
    value = body["input"]
    inputs = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in inputs):
        raise BadRequest(
            "This model takes its input as text, not as arrays of tokens.",
            param="input",
            code="unsupported_parameter",
        )
    return inputs


def split_texts(call: Call, size: int) -> tuple[Call, ...]:
    """Calls of at most `size` texts each; none where the call holds no more. Raises BadRequest for token arrays."""
    value = call.body["input"]
    if isinstance(value, str) or len(value) <= size:
        return ()
    texts = input_texts(call.body)
    parts = [list(texts[at : at + size]) for at in range(0, len(texts), size)]
    return tuple(
        replace(call, body={**call.body, "input": part}, input_estimate=estimate_content(part)) for part in parts
    )


def join_lists(call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
    """The lists that answer the parts of a call, in their order, as one. Usage is their sum, or unknown where that of
    one part is."""
    lists = [orjson.loads(body) for body, _ in answers]
    data = [item for answer in lists for item in answer["data"]]
    tokens = sum(answer["usage"]["prompt_tokens"] for answer in lists)
    body = {
        "object": "list",
        "data": [{**item, "index": index} for index, item in enumerate(data)],
        "model": call.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    metadata = AnswerMetadata(upstream_id=answers[0][1].upstream_id)
    if all(part.usage is not None for _, part in answers):
        metadata.usage, metadata.raw_usage = Usage(input_tokens=tokens), {"prompt_tokens": tokens}
    return orjson.dumps(body), metadata


def encode_embeddings(
    vectors: Sequence[Json], *, model: str, prompt_tokens: int, encoding_format: str | None = None
) -> bytes:
    """`model` is the public name. Raises UpstreamFault for anything but vectors of numbers."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _encoded(vector: Json, encoding_format: str | None) -> list[float] | str:
    if not isinstance(vector, list) or not all(type(number) in {int, float} for number in vector):
        raise UpstreamFault("The upstream's answer holds an embedding that is no list of numbers.", is_retryable=True)
    if encoding_format != "base64":
        return vector
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error):
        raise UpstreamFault("The upstream's answer holds an embedding out of range.", is_retryable=True) from None
