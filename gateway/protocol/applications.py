"""Applications: which program makes a call, by its headers. The tables are the only place that knows names of clients.

A name of the table, `other` for a program that is not in it, and empty for a call without any of the headers. Headers
are the client's word: the name is for reports, never for rights.
"""

from collections.abc import Mapping
from functools import lru_cache

OTHER = "other"
USER_AGENT, TITLE, ORIGINATOR = b"user-agent", b"x-title", b"originator"
MAX_HEADER_BYTES = 256  # of a header that are looked at

#: The header X-Title, by which tools introduce themselves to OpenRouter and others, in lower case → application.
TITLES: Mapping[str, str] = {
    "aider": "aider",
    "cherry studio": "cherry-studio",
    "cline": "cline",
    "continue": "continue",
    "goose": "goose",
    "kilo code": "kilo-code",
    "librechat": "librechat",
    "opencode": "opencode",
    "open webui": "open-webui",
    "roo code": "roo-code",
    "zed": "zed",
}
#: A part of the header User-Agent, or of Codex's Originator, in lower case → application. The first one that is found
#: counts: a tool names the library that it uses too, so tools come before libraries, and these before what they use.
AGENTS: Mapping[str, str] = {
    # Coding tools
    "claude-cli": "claude-code",
    "claude-code": "claude-code",
    "claude-agent-sdk": "claude-agent-sdk",
    "codex": "codex",
    "cursor": "cursor",
    "cline": "cline",
    "roocode": "roo-code",
    "roo-code": "roo-code",
    "kilo-code": "kilo-code",
    "kilocode": "kilo-code",
    "aider": "aider",
    "geminicli": "gemini-cli",
    "gemini-cli": "gemini-cli",
    "qwencode": "qwen-code",
    "qwen-code": "qwen-code",
    "githubcopilot": "github-copilot",
    "copilot": "github-copilot",
    "opencode": "opencode",
    "openhands": "openhands",
    "windsurf": "windsurf",
    "continue/": "continue",
    "goose/": "goose",
    "crush": "crush",
    "zed/": "zed",
    "factory-cli": "factory",
    "jetbrains": "jetbrains",
    # Chat programs and workflows
    "open-webui": "open-webui",
    "openwebui": "open-webui",
    "librechat": "librechat",
    "cherrystudio": "cherry-studio",
    "dify": "dify",
    "n8n": "n8n",
    # Libraries
    "litellm": "litellm",
    "langchain": "langchain",
    "llama_index": "llamaindex",
    "llamaindex": "llamaindex",
    "pydantic-ai": "pydantic-ai",
    "tollgate": "tollgate",
    "ai-sdk/": "vercel-ai-sdk",
    "openai/python": "openai-python",
    "openai/js": "openai-js",
    "openai/go": "openai-go",
    "openai/java": "openai-java",
    "openai/ruby": "openai-ruby",
    "openai/": "openai-dotnet",
    "anthropic/python": "anthropic-python",
    "anthropicbedrock/python": "anthropic-python",
    "anthropicvertex/python": "anthropic-python",
    "anthropic/js": "anthropic-js",
    "anthropic/go": "anthropic-go",
    "anthropic/java": "anthropic-java",
    "anthropic/ruby": "anthropic-ruby",
    "google-genai-sdk": "google-genai",
    # What sends HTTP
    "curl/": "curl",
    "httpie": "httpie",
    "postman": "postman",
    "insomnia": "insomnia",
    "python-httpx": "python-httpx",
    "python-requests": "python-requests",
    "aiohttp": "python-aiohttp",
    "axios": "axios",
    "undici": "node",
    "node": "node",
    "go-http-client": "go",
    "okhttp": "okhttp",
    "mozilla/": "browser",
}
NAMES = frozenset({*TITLES.values(), *AGENTS.values(), OTHER})


def name_application(headers: Mapping[bytes, bytes]) -> str:
    """Header names are lower case."""
    agent, title, originator = headers.get(USER_AGENT, b""), headers.get(TITLE, b""), headers.get(ORIGINATOR, b"")
    return _name(agent[:MAX_HEADER_BYTES], title[:MAX_HEADER_BYTES], originator[:MAX_HEADER_BYTES])


@lru_cache(maxsize=1024)
def _name(agent: bytes, title: bytes, originator: bytes) -> str:
    if not (agent or title or originator):
        return ""
    named = TITLES.get(title.decode("latin-1").strip().lower())
    if named is not None:
        return named
    if (name := agent.decode("latin-1")) in NAMES:  # of a call that was stored, to be made later
        return name
    for text in (originator.decode("latin-1").lower(), agent.decode("latin-1").lower()):
        for part, name in AGENTS.items():
            if part in text:
                return name
    return OTHER
