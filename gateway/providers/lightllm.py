"""LightLLM, with and without `--tool_call_parser`, old builds and new ones.

Source: https://github.com/ModelTC/LightLLM (lightllm/server/api_openai.py, api_models.py, function_call_parser.py).
Its errors are `{"message": …}`; whatever it does not catch is a 500 in plain text.
"""

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.call import Operation
from gateway.protocol.dialects.openai_normal import NormalUpstream
from gateway.protocol.dialects.openai_normal_request import Traits

PROVIDER = NormalUpstream(
    name="lightllm",
    title="LightLLM",
    default_api_base="http://127.0.0.1:8088/v1",
    operations=frozenset({Operation.CHAT, Operation.COMPLETION}),
    traits=Traits(
        joins_text=True,
        switches_thinking=True,
        forces_tools=False,
        streams_many=False,
        has_positional_ids=True,
    ),
    parsers=PARSERS,
    think=ThinkSplitter,
)
