"""The application of a call is known by headers as clients send them, and hostile ones are `other`."""

import pytest

from gateway.protocol.applications import AGENTS, NAMES, OTHER, name_application


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({b"user-agent": b"claude-cli/2.0.14 (external, cli)", b"x-app": b"cli"}, "claude-code"),
        ({b"user-agent": b"codex_cli_rs/0.46.0 (Ubuntu 24.4.0; x86_64) xterm"}, "codex"),
        ({b"user-agent": b"reqwest", b"originator": b"codex_vscode"}, "codex"),
        ({b"user-agent": b"OpenAI/JS 5.12.2", b"x-title": b"Cline"}, "cline"),
        ({b"user-agent": b"litellm/1.81.0", b"x-title": b"Aider"}, "aider"),
        ({b"user-agent": b"RooCode/3.28.1"}, "roo-code"),
        ({b"user-agent": b"opencode/0.15 ai-sdk/openai-compatible/1.0.22 runtime/bun/1.3.0"}, "opencode"),
        ({b"user-agent": b"ai-sdk/openai/2.0.1 ai-sdk/provider-utils/3.0.0 runtime/node.js/22"}, "vercel-ai-sdk"),
        ({b"user-agent": b"OpenAI/Python 1.109.1"}, "openai-python"),
        ({b"user-agent": b"AsyncOpenAI/Python 3.51.0"}, "openai-python"),
        ({b"user-agent": b"OpenAI/Go 2.7.0"}, "openai-go"),
        ({b"user-agent": b"OpenAI/2.5.0 (.NET 9.0.0; Microsoft Windows 10)"}, "openai-dotnet"),
        ({b"user-agent": b"AsyncAnthropic/Python 0.69.0"}, "anthropic-python"),
        ({b"user-agent": b"langchainjs-openai/1.0.0 (node/v22)"}, "langchain"),
        ({b"user-agent": b"Python/3.12 aiohttp/3.12.15"}, "python-aiohttp"),
        ({b"user-agent": b"curl/8.5.0"}, "curl"),
        ({b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64)"}, "browser"),
        ({b"user-agent": b'=HYPERLINK("http://evil")'}, OTHER),
        ({b"user-agent": b"\xff\xfe\x00" * 5000}, OTHER),
        ({b"user-agent": b"x" * 300 + b"curl/8"}, OTHER),
        ({b"x-title": b"My own tool"}, OTHER),
        ({b"user-agent": b""}, ""),
        ({}, ""),
    ],
)
def test_an_application_is_known_by_its_headers(headers: dict[bytes, bytes], name: str) -> None:
    assert name_application(headers) == name


def test_the_name_of_a_stored_call_is_its_name_again() -> None:
    assert all(name_application({b"user-agent": name.encode()}) == name for name in NAMES)


def test_every_name_fits_the_column_and_every_pattern_can_be_found() -> None:
    assert all(0 < len(name) <= 40 and name == name.lower() for name in NAMES)
    assert all(part == part.lower() for part in AGENTS)
    parts = list(AGENTS)
    hidden = [
        later
        for place, later in enumerate(parts)
        if any(one in later and AGENTS[one] != AGENTS[later] for one in parts[:place])
    ]
    assert hidden == []
