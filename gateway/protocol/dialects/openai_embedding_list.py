"""Vectors of any provider → OpenAI's embedding list.

Source: https://platform.openai.com/docs/api-reference/embeddings/create. `encoding_format: base64` is the vector as
little-endian float32, which is what OpenAI's own client asks for when the caller says nothing.
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.protocol.errors import BadRequest, UpstreamFault


def input_texts(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs of a request for a provider that knows no token arrays. Raises BadRequest where one was given."""
    given = body["input"]
    inputs = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) for text in inputs):
        raise BadRequest(
            "This model takes its input as text, not as arrays of tokens.",
            param="input",
            code="unsupported_parameter",
        )
    return inputs


def embedding_list(
    vectors: Sequence[Any], *, model: str, prompt_tokens: int, encoding_format: str | None = None
) -> bytes:
    """`model` is the public name. Raises UpstreamFault for what is no vector of numbers."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": usage})


def _encoded(vector: Any, encoding_format: str | None) -> list[float] | str:
    if not isinstance(vector, list) or not all(type(number) in {int, float} for number in vector):
        raise UpstreamFault("The upstream's answer holds an embedding that is no list of numbers.", is_retryable=True)
    if encoding_format != "base64":
        return vector
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error):
        raise UpstreamFault("The upstream's answer holds an embedding out of range.", is_retryable=True) from None
