"""Router: LiteLLM's constructor and methods over model groups of several deployments."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from gateway import sdk
from tests.fakes.upstream import CREDENTIAL, Answer, FakeUpstream
from tests.fakes.wire_server import FakeWires

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai_at(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> FakeUpstream:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.requests.clear()
    return upstream


def item(group: str, model: str, **params: Any) -> dict[str, Any]:
    return {"model_name": group, "litellm_params": {"model": f"openai/{model}", **params}, "model_info": {"id": model}}


def ask(router: sdk.Router, model: str = "group", **options: Any) -> ChatCompletion:
    answer = router.completion(model, HELLO, **options)
    assert isinstance(answer, ChatCompletion)
    return answer


def test_calls_are_shared_among_the_deployments_of_a_group(openai_at: FakeUpstream) -> None:
    with sdk.Router([item("group", "up-a"), item("group", "up-b")]) as router:
        answered = {sdk.details(ask(router)).deployment for _ in range(40)}
    assert answered == {"up-a", "up-b"}


def test_the_documented_router_of_azure_keeps_a_session(wires: FakeWires) -> None:
    params = {"model": "azure/gpt-4-turbo", "api_key": "k", "api_version": "2024-06-01"}
    router = sdk.Router(
        model_list=[
            {"model_name": "azure-gpt4-turbo", "litellm_params": {**params, "api_base": f"{wires.root}"}},
            {"model_name": "azure-gpt4-turbo", "litellm_params": {**params, "api_base": f"{wires.root}/"}},
        ],
        optional_pre_call_checks=["responses_api_deployment_check"],
    )

    async def story() -> list[Response]:
        async with router:
            first = await router.aresponses(model="azure-gpt4-turbo", input="Hello, who are you?", truncation="auto")
            assert isinstance(first, Response)
            answers = [first]
            for _ in range(5):
                following = await router.aresponses(
                    model="azure-gpt4-turbo",
                    input="Tell me more about yourself",
                    truncation="auto",
                    previous_response_id=answers[-1].id,
                )
                assert isinstance(following, Response)
                answers.append(following)
            return answers

    answers = asyncio.run(story())
    assert len({sdk.details(answer).deployment for answer in answers}) == 1
    assert len(wires.last_request("gpt-4-turbo").json["messages"]) == 11


def test_a_session_goes_on_where_its_deployment_is_gone(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-a"), item("group", "up-b")])
    first = router.responses("My name is Ada.", "group")
    router.delete_deployment(sdk.details(first).deployment)
    second = router.responses("Who am I?", "group", previous_response_id=first.id)  # type: ignore[union-attr]
    assert sdk.details(second).deployment != sdk.details(first).deployment
    assert "Ada" in str(openai_at.requests[-1].json["messages"])
    assert sdk.get_responses(second.id).previous_response_id == first.id  # type: ignore[union-attr]


def test_a_background_response_of_a_router_is_known_to_the_whole_process(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-long", Answer(text="word " * 400, gap_s=0.05)):
        response = sdk.Router([item("group", "up-long")]).responses("hello", "group", background=True)
        assert isinstance(response, Response)
        assert sdk.get_responses(response.id).status == "in_progress"
        assert sdk.cancel_responses(response.id).status == "cancelled"


def test_another_deployment_and_then_a_fallback_answer(openai_at: FakeUpstream) -> None:
    bad, worse = item("group", "up-500", order=1), item("group", "up-503", order=2)
    router = sdk.Router([bad, worse, item("other", "up-fine")], fallbacks=[{"group": ["other"]}], num_retries=2)
    assert [one.deployment for one in sdk.details(ask(router)).attempts] == ["up-500", "up-503", "up-fine"]


def test_a_context_overflow_has_its_own_fallbacks(openai_at: FakeUpstream) -> None:
    router = sdk.Router(
        [item("group", "up-overflow"), item("long", "up-long")], context_window_fallbacks=[{"group": ["long"]}]
    )
    assert sdk.details(ask(router)).deployment == "up-long"


def test_a_deployment_that_fails_again_and_again_is_left_out(openai_at: FakeUpstream) -> None:
    router = sdk.Router(
        [item("group", "up-500", order=1), item("group", "up-b", order=2)], allowed_fails=1, cooldown_time=60
    )
    for _ in range(12):
        ask(router)
    assert 0 < len(openai_at.of("up-500")) < 8
    assert len(openai_at.of("up-b")) == 12


def test_an_alias_stands_for_its_group(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-a")], model_group_alias={"alias": "group"})
    assert sdk.details(ask(router, "alias")).deployment == "up-a"
    assert router.get_model_names() == ["group", "alias"]


def test_a_wildcard_serves_and_prices_every_model(openai_at: FakeUpstream) -> None:
    router = sdk.Router([{"model_name": "any/*", "litellm_params": {"model": "openai/*"}}])
    priced, unpriced = ask(router, "any/gpt-4o-mini"), ask(router, "any/up-unheard")
    assert openai_at.requests[0].model == "gpt-4o-mini"
    cost = sdk.details(priced).cost
    assert cost is not None
    assert cost > 0
    assert sdk.details(unpriced).cost is None


def test_the_limits_of_a_deployment_are_kept(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-limited", rpm=2)], num_retries=0)
    for _ in range(2):
        ask(router)
    with pytest.raises(openai.RateLimitError):
        ask(router)
    assert len(openai_at.of("up-limited")) == 2


def test_an_unknown_model_is_not_found(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(sdk.Router([item("group", "up-a")]), "elsewhere")


def test_a_call_cannot_name_another_upstream(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-a")])
    with pytest.raises(TypeError, match="api_base"):
        ask(router, api_base="http://elsewhere.test")


def test_headers_and_fields_of_one_call_reach_the_upstream(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-a")])
    ask(router, extra_headers={"X-Trace": "7"}, extra_body={"guided_choice": ["a"]})
    sent = openai_at.last("up-a")
    assert (sent.headers["x-trace"], sent.json["guided_choice"]) == ("7", ["a"])
    ask(router)
    assert "x-trace" not in openai_at.last("up-a").headers
    with pytest.raises(openai.BadRequestError):
        ask(router, extra_headers={"X-Bad": "a\r\nX-More: b"})


def test_deployments_come_and_go_while_threads_call(openai_at: FakeUpstream) -> None:
    router = sdk.Router([item("group", "up-a")])
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                ask(router)
        except openai.APIError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        added = router.add_deployment(item("group", f"up-{number}"))
        assert router.delete_deployment(added) is not None
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [row["model_info"] for row in router.get_model_list()] == [{"id": "up-a"}]
    assert router.delete_deployment("up-gone") is None


def test_a_deployment_is_not_added_twice() -> None:
    router = sdk.Router([item("group", "up-a", api_key="k")])
    with pytest.raises(ValueError, match="up-a"):
        router.add_deployment(item("group", "up-a", api_key="k"))
    plain = {"model_name": "group", "litellm_params": {"model": "mock/x"}}
    assert router.add_deployment(plain) != router.add_deployment(plain)


def test_the_list_of_models_shows_no_credential() -> None:
    headers = {"Authorization": "Bearer secret-two", "X-Plain": "shown"}
    router = sdk.Router([item("group", "up-a", api_key="secret-one", extra_headers=headers, rpm=7)])
    shown = str(router.get_model_list("group"))
    assert "secret" not in shown
    assert "'rpm': 7" in shown
    assert router.get_model_list("elsewhere") == []


@pytest.mark.parametrize(
    ("model_list", "settings", "words"),
    [
        ([{"model_name": "x"}], {}, "litellm_params"),
        ([{"model_name": "x", "litellm_params": {"model": "nobody/y"}}], {}, "nobody"),
        ([item("a", "b", api_key="k"), item("x", "y")], {}, r"model_list\[1\].litellm_params.api_key.*OPENAI_API_KEY"),
        ([item("x", "y", api_key="k", max_budget=1)], {}, "max_budget"),
        ([], {"num_retries": -1}, "num_retries"),
        ([], {"routing_strategy": "by-mood"}, "routing_strategy"),
        (["text"], {}, "mapping"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(model_list: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        sdk.Router(model_list, **settings)
    assert "secret" not in str(caught.value)


def test_an_unknown_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'num_retrys'"):
        sdk.Router([], num_retrys=1)  # type: ignore[call-arg]


def test_a_setting_without_effect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sdk.Router([], cache_responses=True)
    assert "cache_responses" in caplog.text


CONFIG = """
model_list:
  - model_name: group
    litellm_params: {model: openai/up-500, order: 1}
    model_info: {id: first}
  - model_name: group
    litellm_params: {model: openai/up-fine, api_base: os.environ/WHERE, api_key: os.environ/KEY, order: 2}
    model_info: {id: second}
router_settings:
  num_retries: 1
  model_group_alias: {alias: group}
"""


def test_a_router_is_read_from_a_config(
    openai_at: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", openai_at.url)
    monkeypatch.setenv("KEY", CREDENTIAL)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("openai/up-500", f"openai/up-500, api_key: k, api_base: '{openai_at.url}'"))
    router = sdk.Router.from_config(path)
    assert [one.deployment for one in sdk.details(ask(router, "alias")).attempts] == ["first", "second"]
    path.write_text("model_list: [{model_name: x}]")
    with pytest.raises(ValueError, match=r"model_list\[0\]"):
        sdk.Router.from_config(path)


def test_a_closed_router_leaves_no_connection_open(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-a", Answer()):
        router = sdk.Router([item("group", "up-a")])
        ask(router)
        router.close()
        router.close()
        assert sdk.details(ask(router)).deployment == "up-a"
        router.close()
