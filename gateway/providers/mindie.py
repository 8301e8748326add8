"""MindIE.

Source: https://gitee.com/ascend/MindIE-LLM (single_req_vllm_openai_infer_interface.cpp, function_call.md). Its errors
are `{"error": "<text>", "error_type": …}` with 422 for what is invalid and 424 for what failed behind it.
"""

import re
from collections.abc import Mapping

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.call import Operation
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated, failure, read_error
from gateway.protocol.dialects.openai.upstream_request import Traits
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.provider import Target

UNKNOWN_MODEL = re.compile(r"model not found", re.IGNORECASE)


class MindIE(OpenAITranslated):
    __slots__ = ()

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        error = read_error(body)
        if status == 422 and UNKNOWN_MODEL.search(str(error.get("message"))):
            status = 404
        elif status == 424:
            status = 502
        return failure(target, status, headers, error)


PROVIDER = MindIE(
    name="mindie",
    title="MindIE",
    default_api_base="http://127.0.0.1:1025/v1",
    operations=frozenset({Operation.CHAT, Operation.COMPLETION}),
    traits=Traits(
        asks_usage=False,  # it always reports it
        joins_text=True,
        fills_content=True,
        switches_thinking=True,
        forces_tools=False,
        many_need_sampling=True,
        streamed_tools=re.compile(r"qwen-?3|deepseek-r1", re.IGNORECASE),
        not_with_tools=frozenset(
            {
                "best_of",
                "include_stop_str_in_output",
                "logprobs",
                "n",
                "stop",
                "top_logprobs",
                "use_beam_search",
            }
        ),
        has_usage_by_choice=True,
    ),
    parsers=PARSERS,
    think=ThinkSplitter,
)
