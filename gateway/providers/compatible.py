"""Servers that speak OpenAI's dialect: one row each. A server whose behaviour needs code gets a file of its own.

`api_base` includes `/v1`. Sources: the servers' own documentation, see docs/providers.md.
"""

from gateway.protocol.call import Operation
from gateway.protocol.dialects.openai import OpenAIUpstream

TEXT = frozenset({Operation.CHAT, Operation.COMPLETION})
PROVIDER = (
    OpenAIUpstream(
        name="openai_compatible", title="Any OpenAI-compatible server", aliases=("custom_openai", "generic")
    ),
    OpenAIUpstream(
        name="ollama", title="Ollama", aliases=("ollama_chat",), default_api_base="http://127.0.0.1:11434/v1"
    ),
    OpenAIUpstream(name="xinference", title="XInference", default_api_base="http://127.0.0.1:9997/v1"),
    # MindIE always reports usage and documents no stream_options
    OpenAIUpstream(
        name="mindie",
        title="MindIE",
        default_api_base="http://127.0.0.1:1025/v1",
        operations=TEXT,
        asks_stream_usage=False,
    ),
    OpenAIUpstream(name="lightllm", title="LightLLM", default_api_base="http://127.0.0.1:8088/v1", operations=TEXT),
    OpenAIUpstream(name="hosted_vllm", title="vLLM", aliases=("vllm",), default_api_base="http://127.0.0.1:8000/v1"),
    OpenAIUpstream(name="sglang", title="SGLang", default_api_base="http://127.0.0.1:30000/v1"),
    OpenAIUpstream(name="lm_studio", title="LM Studio", default_api_base="http://127.0.0.1:1234/v1"),
)
