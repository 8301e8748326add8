"""Servers that speak OpenAI's dialect: one row each. A server whose behaviour needs code gets a file of its own.

`api_base` includes the version. Sources: the servers' own documentation, see docs/providers.md.
"""

from functools import partial

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.dialects.openai_normal import NormalUpstream
from gateway.protocol.dialects.openai_normal_request import OPENAI_ONLY, Traits
from gateway.protocol.dialects.openai_server import OpenAIServer

#: Whose bytes pass through.
server = partial(OpenAIServer, parsers=PARSERS, think=ThinkSplitter)
#: Whose answers are mended on the way.
mended = partial(NormalUpstream, parsers=PARSERS, think=ThinkSplitter)
LOCAL = Traits(unknown=OPENAI_ONLY - {"logit_bias"})

PROVIDER = (
    server(
        name="openai_compatible",
        title="Any OpenAI-compatible server",
        aliases=("custom_openai", "generic"),
        needs_api_base=True,
    ),
    mended(
        name="hosted_vllm",
        title="vLLM",
        aliases=("vllm",),
        default_api_base="http://127.0.0.1:8000/v1",
        traits=LOCAL,
    ),
    mended(name="sglang", title="SGLang", default_api_base="http://127.0.0.1:30000/v1", traits=LOCAL),
    server(name="lm_studio", title="LM Studio", default_api_base="http://127.0.0.1:1234/v1"),
    mended(name="llamacpp", title="llama.cpp", default_api_base="http://127.0.0.1:8080/v1", traits=LOCAL),
    server(name="deepseek", title="DeepSeek", default_api_base="https://api.deepseek.com/v1", needs_api_key=True),
    server(name="mistral", title="Mistral", default_api_base="https://api.mistral.ai/v1", needs_api_key=True),
    server(name="groq", title="Groq", default_api_base="https://api.groq.com/openai/v1", needs_api_key=True),
    server(name="xai", title="xAI", default_api_base="https://api.x.ai/v1", needs_api_key=True),
    server(name="openrouter", title="OpenRouter", default_api_base="https://openrouter.ai/api/v1", needs_api_key=True),
    server(name="together_ai", title="Together", default_api_base="https://api.together.xyz/v1", needs_api_key=True),
    server(
        name="fireworks_ai",
        title="Fireworks",
        default_api_base="https://api.fireworks.ai/inference/v1",
        needs_api_key=True,
    ),
    server(name="moonshot", title="Moonshot", default_api_base="https://api.moonshot.ai/v1", needs_api_key=True),
    server(
        name="dashscope",
        title="DashScope",
        default_api_base="https://dashscope.aliyuncs.com/compatible-mode/v1",
        needs_api_key=True,
    ),
    server(name="zai", title="Zhipu (Z.ai)", default_api_base="https://api.z.ai/api/paas/v4", needs_api_key=True),
)
