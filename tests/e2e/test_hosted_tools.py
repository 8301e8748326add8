"""Codex offers web search and other hosted tools by default: a deployment may leave them out, and says so."""

from typing import Any

import httpx
import pytest

from tests.e2e.gateway import Gateway, eventually
from tests.fakes.upstream import CREDENTIAL, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

CODEX: dict[str, Any] = {
    "instructions": "You are Codex",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is the weather?"}]},
    ],
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "prompt_cache_key": "01a1f8bb-565c-7283-9d19-3a94aad777d9",
    "client_metadata": {"x-codex-installation-id": "c6760b53"},
    "tools": [
        {"type": "function", "name": "get_weather", "strict": False, "parameters": {"type": "object"}},
        {"type": "custom", "name": "apply_patch", "description": "d"},
        {"type": "web_search", "external_web_access": False},
        {"type": "image_generation", "output_format": "png"},
        {"type": "tool_search", "execution": "client", "description": "d", "parameters": {"type": "object"}},
        {"type": "namespace", "name": "mcp__burp__", "description": "d", "tools": []},
    ],
}


def add_model(gateway: Gateway, name: str, upstream: FakeUpstream, **params: Any) -> httpx.Response:
    params = {"model": f"hosted_vllm/up-{name}", "api_base": upstream.url, "api_key": CREDENTIAL, **params}
    return gateway.admin.post("/model/new", json={"model_name": name, "litellm_params": params})


def ask(gateway: Gateway, key: str, model: str, **body: Any) -> httpx.Response:
    return gateway.call(key, "/v1/responses", **{**CODEX, "model": model, **body})


def wait_model(gateway: Gateway, key: str, name: str) -> None:
    def is_served() -> bool:
        return name in gateway.http.get("/v1/models", headers={"api-key": key}).text

    eventually(is_served, within_s=5, what=f"{name} is served")


def test_codex_works_where_the_deployment_leaves_hosted_tools_out(
    gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    assert add_model(gateway, "codex-drop", upstream, hosted_tools="drop").status_code == 200
    wait_model(gateway, key, "codex-drop")
    answer = ask(gateway, key, "codex-drop")
    assert answer.status_code == 200, answer.text
    assert "event: response.completed" in answer.text
    dropped = answer.headers["x-tollgate-dropped-params"].split(",")
    assert {"tools.web_search", "tools.image_generation", "tools.tool_search"} <= set(dropped)
    sent = upstream.last("up-codex-drop").json
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["get_weather", "apply_patch"]
    assert "hosted_tools" not in sent
    queued = ask(gateway, key, "codex-drop", stream=False, store=True, background=True)
    assert queued.status_code == 200, queued.text


def test_without_the_policy_it_is_refused(gateway: Gateway, key: str) -> None:
    refused = ask(gateway, key, "chat")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "tools[2].type"


def test_a_wrong_policy_is_not_stored(gateway: Gateway, upstream: FakeUpstream) -> None:
    refused = add_model(gateway, "codex-wrong", upstream, hosted_tools="ignore")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "litellm_params.hosted_tools"
