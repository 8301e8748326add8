"""OpenAI. Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings)."""

from gateway.protocol.dialects.openai.upstream_request import OPENAI
from gateway.providers.bases.openai_passthrough import OpenAIPassthrough

PROVIDER = OpenAIPassthrough(
    name="openai",
    title="OpenAI",
    default_api_base="https://api.openai.com/v1",
    needs_api_key=True,
    traits=OPENAI,
)
