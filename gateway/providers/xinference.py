"""XInference. Its models are named by the UID they were launched under.

Source: https://github.com/xorbitsai/inference. Its errors are FastAPI's `{"detail": "[address=…, pid=…] text"}`.
"""

import re
from collections.abc import Mapping

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated, failure, read_error
from gateway.protocol.dialects.openai.upstream_request import Traits
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

PLACE = re.compile(r"^\s*\[address=[^\]]*\]\s*")
UNKNOWN_MODEL = re.compile(r"model not found|model uid .* not found", re.IGNORECASE)


class XInference(OpenAITranslated):
    __slots__ = ()

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        error = read_error(body)
        message = PLACE.sub("", str(error.get("message") or ""))
        if status in {400, 500} and UNKNOWN_MODEL.search(message):
            status = 404
        return failure(target, status, headers, {**error, "message": message})


PROVIDER = XInference(
    name="xinference",
    title="XInference",
    default_api_base="http://127.0.0.1:9997/v1",
    traits=Traits(takes_many=False, streamed_tools=re.compile(r"qwen|glm|deepseek", re.IGNORECASE)),
    parsers=PARSERS,
    think=ThinkSplitter,
)
