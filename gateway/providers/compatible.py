"""Servers that speak OpenAI's dialect: one row each. A server whose behaviour needs code gets a file of its own.

`api_base` includes the version. Sources: the servers' own documentation and the types of their client packages, see
docs/providers.md, which also says which of OpenAI's own fields each of them knows.
"""

from dataclasses import replace
from functools import partial

from gateway.parsers.registry import PARSERS
from gateway.parsers.think import ThinkSplitter
from gateway.protocol.dialects.openai.upstream_answer import OpenAITranslated
from gateway.protocol.dialects.openai.upstream_request import OPENAI_ONLY, PLAIN, Traits
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough

#: A server whose bytes pass through.
server = partial(OpenAIPassthrough, parsers=PARSERS, think=ThinkSplitter)
#: The same behind an API key.
hosted = partial(server, needs_api_key=True)
#: A server whose answers are translated.
translated = partial(OpenAITranslated, parsers=PARSERS, think=ThinkSplitter)
LOCAL = Traits(unknown=OPENAI_ONLY - {"logit_bias"})
REMOTE = replace(PLAIN, takes_names=True)
#: For servers that document no such field.
NO_PARALLEL = frozenset({"parallel_tool_calls"})


def all_but(*names: str) -> frozenset[str]:
    """OpenAI's own fields but these: the ones that a server does not know."""
    return OPENAI_ONLY - {*names}


PROVIDER = (
    server(
        name="openai_compatible",
        title="Any OpenAI-compatible server",
        aliases=("custom_openai", "generic"),
        needs_api_base=True,
        traits=REMOTE,
    ),
    translated(
        name="hosted_vllm",
        title="vLLM",
        aliases=("vllm",),
        default_api_base="http://127.0.0.1:8000/v1",
        traits=replace(LOCAL, continues_by=(("continue_final_message", True), ("add_generation_prompt", False))),
    ),
    translated(
        name="sglang",
        title="SGLang",
        default_api_base="http://127.0.0.1:30000/v1",
        traits=replace(LOCAL, continues_by=(("continue_final_message", True),)),
    ),
    server(
        name="lm_studio",
        title="LM Studio",
        default_api_base="http://127.0.0.1:1234/v1",
        traits=replace(LOCAL, unknown=LOCAL.unknown | NO_PARALLEL),
    ),
    translated(name="llamacpp", title="llama.cpp", default_api_base="http://127.0.0.1:8080/v1", traits=LOCAL),
    translated(
        name="gemini_compat",
        title="Google Gemini API in OpenAI's format",
        aliases=("gemini_openai",),
        default_api_base="https://generativelanguage.googleapis.com/v1beta/openai",
        needs_api_key=True,
        traits=Traits(has_completions=False, takes_reasoning=False),  # completions go out as chat
    ),
    hosted(
        name="deepseek",
        title="DeepSeek",
        default_api_base="https://api.deepseek.com/v1",
        traits=replace(REMOTE, unknown=OPENAI_ONLY | NO_PARALLEL, max_stop=16),
    ),
    hosted(
        name="mistral",
        title="Mistral",
        default_api_base="https://api.mistral.ai/v1",
        traits=Traits(
            takes_reasoning=False, unknown=all_but("metadata", "prediction", "prompt_cache_key", "service_tier")
        ),
    ),
    hosted(
        name="groq",
        title="Groq",
        default_api_base="https://api.groq.com/openai/v1",
        traits=Traits(
            takes_new_limit=True,
            takes_reasoning=False,
            unknown=all_but("service_tier", "user") | {"logprobs", "top_logprobs"},
            max_stop=4,
        ),
    ),
    hosted(
        name="xai",
        title="xAI",
        default_api_base="https://api.x.ai/v1",
        traits=replace(
            REMOTE, takes_new_limit=True, unknown=all_but("prompt_cache_key", "service_tier", "user"), max_stop=4
        ),
    ),
    hosted(
        name="openrouter",
        title="OpenRouter",
        default_api_base="https://openrouter.ai/api/v1",
        traits=replace(REMOTE, takes_new_limit=True, unknown=frozenset({"safety_identifier", "store"}), max_stop=4),
    ),
    hosted(
        name="together_ai",
        title="Together",
        default_api_base="https://api.together.xyz/v1",
        traits=replace(REMOTE, unknown=all_but("logit_bias") | NO_PARALLEL),
    ),
    hosted(
        name="fireworks_ai",
        title="Fireworks",
        default_api_base="https://api.fireworks.ai/inference/v1",
        traits=replace(REMOTE, takes_new_limit=True, unknown=frozenset({"safety_identifier", "store", "verbosity"})),
    ),
    hosted(
        name="moonshot",
        title="Moonshot",
        default_api_base="https://api.moonshot.ai/v1",
        traits=replace(
            REMOTE,
            takes_new_limit=True,
            unknown=all_but("prompt_cache_key", "safety_identifier") | NO_PARALLEL,
            max_stop=5,
        ),
    ),
    hosted(
        name="dashscope",
        title="DashScope",
        default_api_base="https://dashscope.aliyuncs.com/compatible-mode/v1",
        traits=REMOTE,
    ),
    hosted(
        name="zai",
        title="Zhipu (Z.ai)",
        default_api_base="https://api.z.ai/api/paas/v4",
        traits=replace(REMOTE, unknown=OPENAI_ONLY | NO_PARALLEL),
    ),
)
