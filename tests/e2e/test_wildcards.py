"""Wildcards, abilities and tags as clients see them: which upstream model answers, and what stands in the spend log."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import ENVIRONMENT, PRICES
from tests.e2e.gateway import Gateway
from tests.fakes.upstream import CREDENTIAL, FAULTS, FakeUpstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ASK: list[Any] = [{"role": "user", "content": "Say hello."}]
IMAGE: list[Any] = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}
]


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, backend: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    def at(name: str, model: str, info: Any = None, **params: Any) -> dict[str, Any]:
        given = {"model": f"openai/{model}", "api_base": upstream.url, "api_key": CREDENTIAL, **params}
        return {"model_name": name, "litellm_params": given, "model_info": info or {}}

    config = {
        "model_list": [
            at("wild/*", "wild-*"),
            at("wild/paid-*", "wild-paid-*", **PRICES),
            at("wild/paid-exact", "wild-exact"),
            at("mixed", "mixed-blind", {"supports_vision": False}, order=1),
            at("mixed", "mixed-seeing", order=2),
            at("tagged", "tagged-free", tags=["free"]),
            at("tagged", "tagged-eu", tags=["eu"]),
        ],
        "router_settings": {
            "enable_tag_filtering": True,
            "model_group_alias": {"nickname": "wild/aliased"},
            "fallbacks": [{"wild/*": ["wild/paid-spare"]}],
        },
    }
    home = tmp_path_factory.mktemp(f"wildcards-{backend.name}")
    running = Gateway(home, config=config, env={**ENVIRONMENT, **backend.environment()})
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture(autouse=True)
def unasked(upstream: FakeUpstream) -> None:
    upstream.requests.clear()


def test_a_pattern_answers_under_the_name_that_was_asked_for(gateway: Gateway, upstream: FakeUpstream) -> None:
    key = gateway.issue_key(models=["wild/*"])
    answer = gateway.call(key, model="wild/one", messages=ASK)
    assert (answer.status_code, answer.json()["model"]) == (200, "wild/one")
    assert len(upstream.of("wild-one")) == 1
    (row,) = gateway.wait_rows(1, api_key=key)
    assert (row["model_group"], row["model"]) == ("wild/one", "openai/wild-one")


def test_the_most_specific_pattern_serves_and_its_price_holds_for_all_of_it(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    key = gateway.issue_key(models=["wild/paid-two", "wild/paid-exact"])
    for name in ("wild/paid-two", "wild/paid-exact"):
        assert gateway.call(key, model=name, messages=ASK).status_code == 200
    assert (len(upstream.of("wild-paid-two")), len(upstream.of("wild-exact"))) == (1, 1)
    rows = {row["model_group"]: row for row in gateway.wait_priced(2, api_key=key)}
    assert float(rows["wild/paid-two"]["spend"]) > 0
    assert {model.id for model in gateway.openai(key).models.list()} == {"wild/paid-two", "wild/paid-exact"}


def test_a_key_reaches_no_other_name_through_a_pattern(gateway: Gateway, upstream: FakeUpstream) -> None:
    key = gateway.issue_key(models=["one", "wild/one", "nickname"])
    assert gateway.call(key, model="wild/secret", messages=ASK).status_code == 403
    assert upstream.of("wild-secret") == []
    assert gateway.call(key, model="nickname", messages=ASK).status_code == 200
    assert len(upstream.of("wild-aliased")) == 1


@pytest.mark.parametrize(
    "name", ["wild/../one", "wild/%2e%2e", "wild/a?b", "wild/*", "wild/a b", "wild/" + "y" * 10_240]
)
def test_a_hostile_name_is_a_model_that_does_not_exist(gateway: Gateway, upstream: FakeUpstream, name: str) -> None:
    key = gateway.issue_key()
    for path, body in (("/v1/chat/completions", {"messages": ASK}), ("/v1/responses", {"input": "hello"})):
        answer = gateway.call(key, path, model=name, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert gateway.spend_rows(api_key=key) == []
    assert not upstream.requests


def test_the_fallback_of_a_pattern_needs_the_keys_access(gateway: Gateway, upstream: FakeUpstream) -> None:
    with upstream.script("wild-down", FAULTS["503"]):
        narrow = gateway.issue_key(models=["wild/down"])
        assert gateway.call(narrow, model="wild/down", messages=ASK).status_code == 503
        wide = gateway.issue_key(models=["wild/*"])
        assert gateway.call(wide, model="wild/down", messages=ASK).status_code == 200
    assert len(upstream.of("wild-paid-spare")) == 1


def test_an_image_goes_to_the_deployment_that_takes_it(gateway: Gateway, upstream: FakeUpstream) -> None:
    key = gateway.issue_key()
    for messages in (IMAGE, ASK):
        assert gateway.call(key, model="mixed", messages=messages).status_code == 200
    assert (len(upstream.of("mixed-seeing")), len(upstream.of("mixed-blind"))) == (1, 1)


def test_the_tags_of_a_key_bind_and_those_of_a_request_choose(gateway: Gateway, upstream: FakeUpstream) -> None:
    bound, free = gateway.issue_key(tags=["eu"]), gateway.issue_key()
    for _ in range(4):
        assert gateway.call(bound, model="tagged", messages=ASK, metadata={"tags": ["free"]}).status_code == 200
        assert gateway.call(free, model="tagged", messages=ASK, metadata={"tags": ["free"]}).status_code == 200
    assert (len(upstream.of("tagged-eu")), len(upstream.of("tagged-free"))) == (4, 4)
    refused = gateway.call(free, model="tagged", messages=ASK, metadata={"tags": ["unknown"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
