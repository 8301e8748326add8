"""OpenAI. Source: https://platform.openai.com/docs/api-reference (chat, completions, embeddings)."""

from gateway.protocol.dialects.openai import OpenAIUpstream

PROVIDER = OpenAIUpstream(
    name="openai", title="OpenAI", default_api_base="https://api.openai.com/v1", needs_api_key=True
)
