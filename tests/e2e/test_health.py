"""The first minute: health, the start without configuration, and starts that must fail."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Launch
from tests.e2e.gateway import Gateway
from tests.fakes.raw import RawUpstreams
from tests.fakes.upstream import CREDENTIAL, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

ASK: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "你是谁? hello"}]


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/liveness"])
def test_liveness_is_public(gateway: Gateway, path: str) -> None:
    response = gateway.http.get(path)
    assert (response.status_code, response.json()) == (200, "I'm alive!")


def test_readiness_is_public_and_names_the_database(gateway: Gateway) -> None:
    response = gateway.http.get("/health/readiness")
    assert response.status_code == 200
    assert response.json().items() >= {"status": "healthy", "db": "connected"}.items()


def test_health_asks_no_upstream(gateway: Gateway, upstream: FakeUpstream, raw: RawUpstreams) -> None:
    count = len(upstream.requests)
    for path in ("/health/liveliness", "/health/readiness"):
        gateway.http.get(path)
    assert (len(upstream.requests), raw.contacts) == (count, [])


def test_the_root_leads_to_the_console(gateway: Gateway) -> None:
    root = gateway.http.get("/")
    assert root.status_code in {301, 302}
    assert root.headers["location"].startswith("/console/")
    login = gateway.http.get("/console/", follow_redirects=True)
    assert login.status_code == 200
    assert "text/html" in login.headers["content-type"]


# Without any configuration


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    gateway = Gateway(tmp_path_factory.mktemp("bare"), master=False)
    try:
        yield gateway.start()
    finally:
        gateway.close()


def press_sign_in(gateway: Gateway, link: str) -> None:
    """Presses the button of the link's page, if there is one."""
    page = gateway.http.get(link)
    for token in re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[:1]:
        gateway.http.post(link, data={"csrfmiddlewaretoken": token}, headers={"origin": gateway.url})


def is_signed_in(gateway: Gateway) -> bool:
    return "/login" not in str(gateway.http.get("/console/", follow_redirects=True).url)


def test_the_first_start_shows_the_way_in(bare: Gateway) -> None:
    [link] = set(re.findall(rf"{bare.url}(/console/login/link/\S+/)", bare.output()))
    assert bare.http.get(link).status_code == 200
    assert not is_signed_in(bare), "a preview of the link does not use it up"
    press_sign_in(bare, link)
    assert is_signed_in(bare), "the one-time link logged the admin in"
    bare.http.cookies.clear()
    press_sign_in(bare, link)
    assert not is_signed_in(bare), "it works once only"


def test_the_curl_line_of_the_first_start_works_as_it_stands(bare: Gateway) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", bare.output()).replace("\\\n", " ")
    [line] = re.findall(r"\bcurl .+", text)
    process = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30)
    assert process.returncode == 0, process.stderr
    assert "Echo: " in process.stdout.replace('"content":"Echo:"', "Echo: ")


def test_the_built_in_model_answers_everywhere(bare: Gateway) -> None:
    process = bare.manage("create_key")
    assert process.returncode == 0, process.stderr
    [key] = [word.strip("\"'") for word in process.stdout.split() if word.strip("\"'").startswith("sk-")]
    sdk = bare.openai(key)
    model = "tollgate-echo"
    assert model in [row.id for row in sdk.models.list()]
    assert sdk.chat.completions.create(model=model, messages=ASK).choices[0].message.content == "Echo: 你是谁? hello"
    chunks = list(sdk.chat.completions.create(model=model, messages=ASK, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Echo: 你是谁? hello"
    assert len(chunks) >= 4
    assert sdk.completions.create(model=model, prompt="hello").choices[0].text == "Echo: hello"
    assert (
        "".join(c.choices[0].text for c in sdk.completions.create(model=model, prompt="hello", stream=True))
        == "Echo: hello"
    )
    one, same, other = sdk.embeddings.create(model=model, input=["a", "a", "b"]).data
    assert one.embedding == same.embedding != other.embedding


# Starts that must fail, by name of what is wrong


def fails(gateway: Gateway) -> str:
    with pytest.raises(AssertionError, match=r"serve ended with [1-9]"):
        gateway.start(ready_within_s=30)
    return gateway.output()


def test_a_missing_environment_variable_fails_the_start_by_name(launch: Launch, upstream: FakeUpstream) -> None:
    params = {"model": "openai/m", "api_base": upstream.url, "api_key": "os.environ/NO_SUCH_VARIABLE_7"}
    config = {"model_list": [{"model_name": "m", "litellm_params": params}]}
    output = fails(launch(config, start=False))
    assert "NO_SUCH_VARIABLE_7" in output
    assert "Traceback" not in output


BROKEN_CONFIGS: dict[str, tuple[Callable[[JsonObject], Any], str]] = {
    "price as a word": (lambda params: params | {"input_cost_per_token": "cheap"}, "input_cost_per_token"),
    "negative price": (lambda params: params | {"output_cost_per_token": -1}, "output_cost_per_token"),
    "negative limit": (lambda params: params | {"rpm": -5}, "rpm"),
    "negative time": (lambda params: params | {"timeout": -5}, "timeout"),
    "weight as a word": (lambda params: params | {"weight": "heavy"}, "weight"),
    "unknown provider": (lambda params: params | {"model": "no_such_provider/m"}, "no_such_provider"),
    "no model": (lambda params: {name: value for name, value in params.items() if name != "model"}, "model"),
}


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_a_senseless_config_fails_the_start_by_name(launch: Launch, upstream: FakeUpstream, name: str) -> None:
    change, text = BROKEN_CONFIGS[name]
    params = change({"model": "openai/m", "api_base": upstream.url, "api_key": CREDENTIAL})
    output = fails(launch({"model_list": [{"model_name": "m", "litellm_params": params}]}, start=False))
    assert text in output
    assert CREDENTIAL not in output
    assert "Traceback" not in output


def test_a_bad_setting_fails_the_start_by_name(launch: Launch) -> None:
    output = fails(launch(start=False, env={"TOLLGATE_MAX_BODY_BYTES": "much"}))
    assert "TOLLGATE_MAX_BODY_BYTES" in output


def test_unknown_config_keys_are_reported_one_by_one_and_extra_ones_go_upstream(
    launch: Launch, upstream: FakeUpstream
) -> None:
    params = {
        "model": "openai/up-extra",
        "api_base": upstream.url,
        "api_key": CREDENTIAL,
        "chat_template": "qwen",
    }
    config = {
        "model_list": [{"model_name": "m", "litellm_params": params, "model_info": {"mode": "chat"}, "odd_one": 1}],
        "general_settings": {"odd_two": True},
        "litellm_settings": {"odd_three": 3},
        "odd_four": {},
    }
    gateway = launch(config)
    for name in ("odd_one", "odd_two", "odd_three", "odd_four"):
        assert name in gateway.output()
    assert gateway.call(gateway.issue_key(), model="m").status_code == 200
    assert upstream.last("up-extra").json["chat_template"] == "qwen"


def test_the_master_key_may_stand_in_the_config(launch: Launch, upstream: FakeUpstream) -> None:
    master = "sk-master-of-the-config-0123456789abcdef"
    config = {"model_list": [], "general_settings": {"master_key": "os.environ/MY_MASTER"}}
    gateway = launch(config, master=False, env={"MY_MASTER": master})
    assert gateway.http.get("/key/list", headers={"authorization": f"Bearer {master}"}).status_code == 200
    assert master not in gateway.output()


def test_loading_the_same_config_again_changes_nothing(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config)
    key = gateway.issue_key()
    first = gateway.call(key).headers["x-litellm-model-id"]
    gateway.restart()
    assert gateway.call(key).headers["x-litellm-model-id"] == first
    names = [model.id for model in gateway.openai(key).models.list()]
    assert len(names) == len(set(names))
