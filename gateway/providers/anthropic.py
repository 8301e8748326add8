"""Anthropic. Source: https://platform.claude.com/docs/en/api. `api_base` is the bare host, as in Anthropic's SDKs."""

from gateway.providers.bases.anthropic_messages import AnthropicUpstream

PROVIDER = AnthropicUpstream(
    name="anthropic",
    title="Anthropic",
    default_api_base="https://api.anthropic.com",
    needs_api_base=False,
    needs_api_key=True,
)
