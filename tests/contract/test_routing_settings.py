"""/api/routing-settings: one set of routing settings, who may change it, and what is refused."""

from typing import Any

import pytest

from gateway.models import RouterSettings
from gateway.protocol.json.types import JsonObject
from gateway.routing.setting_list import SETTINGS
from gateway.stores.catalog import load_snapshot
from gateway.stores.router_settings import save_router_settings
from tenants.models import AuditEntry
from tenants.revision import current_revision
from tests.contract.management import Api, People
from tests.contract.own_api import ask, problem, send

pytestmark = pytest.mark.django_db

PATH = "routing-settings"


def stored() -> Any:
    return RouterSettings.objects.get(id=1).values


def test_a_new_installation_has_defaults_alone(api: Api) -> None:
    answer = ask(api, "GET", PATH)
    assert {answer[name] for name in SETTINGS} == {None}
    assert (answer["defaults"]["num_retries"], answer["defaults"]["cooldown_time"]) == (2, 5.0)
    assert (answer["warnings"], answer["source"], answer["updated_at"]) == ([], "console", None)


def test_a_change_names_what_it_changes_and_null_is_the_default(api: Api) -> None:
    ask(api, "PATCH", PATH, {"num_retries": 1, "routing_strategy": "sticky", "timeout": 2.5})
    answer = ask(api, "PATCH", PATH, {"num_retries": None, "enable_tag_filtering": True})
    assert stored() == {"routing_strategy": "sticky", "timeout": 2.5, "enable_tag_filtering": True}
    assert (answer["num_retries"], answer["timeout"]) == (None, 2.5)
    assert answer["updated_at"] is not None
    routing = load_snapshot().routing
    assert (routing.strategy.name, routing.has_tags, routing.retry_policy.retries) == ("sticky", True, 2)
    ask(api, "PUT", PATH, {"num_retries": 4})
    assert stored() == {"num_retries": 4}
    assert load_snapshot().routing.retry_policy.retries == 4
    ask(api, "PUT", PATH, {})
    assert stored() == {}


EVERYTHING: JsonObject = {
    "routing_strategy": "latency-based-routing",
    "model_group_routing_strategy": {"chat": "sticky"},
    "routing_strategy_args": {"ttl": 60, "lowest_latency_buffer": 0.25},
    "fallbacks": [{"chat": ["spare"]}],
    "default_fallbacks": ["spare"],
    "context_window_fallbacks": {"chat": ["large"]},
    "content_policy_fallbacks": [{"chat": "spare"}],
    "max_fallbacks": 3,
    "num_retries": 1,
    "retry_policy": {"TimeoutErrorRetries": 0, "RateLimitErrorRetries": 3},
    "model_group_retry_policy": {"chat": {"DefaultRetries": 1}},
    "cooldown_time": 12.5,
    "allowed_fails": 4,
    "allowed_fails_policy": {"InternalServerErrorAllowedFails": 9},
    "disable_cooldowns": False,
    "connect_timeout": 1.5,
    "timeout": 30,
    "stream_timeout": 5,
    "stream_idle_timeout": 20,
    "max_stream_duration": 600,
    "model_group_timeouts": {"chat": {"timeout": 7.5}},
    "hedging": {"chat": {"after": "p90"}, "*": {"after": 2.5}},
    "recover": {"chat": "continue", "*": "error"},
    "model_group_alias": {"nickname": "chat", "secret": {"model": "spare", "hidden": True}},
    "enable_tag_filtering": True,
    "tag_filtering_match_any": False,
}


def test_every_setting_is_kept_as_it_was_sent(api: Api) -> None:
    assert EVERYTHING.keys() == SETTINGS.keys()
    answer = ask(api, "PUT", PATH, EVERYTHING)
    assert {name: answer[name] for name in SETTINGS} == EVERYTHING
    assert stored() == EVERYTHING
    assert {name: ask(api, "GET", PATH)[name] for name in SETTINGS} == EVERYTHING


def test_a_model_group_that_no_deployment_serves_is_stored_with_a_warning(api: Api) -> None:
    """Its deployment may follow later."""
    for name in ("chat", "far/*"):
        body = {"model_group": name, "provider": "ollama", "upstream_model": "*" if "*" in name else "m"}
        ask(api, "POST", "deployments", {**body, "api_base": "http://o.example"}, status=201)
    fallbacks = [{"chat": ["absent", "nickname", "far/qwen"]}, {"*": ["chat"]}]
    answer = ask(api, "PATCH", PATH, {"fallbacks": fallbacks, "model_group_alias": {"nickname": "chat"}})
    assert answer["warnings"] == [{"param": "fallbacks", "detail": "no deployment serves 'absent'"}]
    assert stored()["fallbacks"] == fallbacks


WRONG: list[tuple[JsonObject, list[str]]] = [
    ({"routing_strategy": "random"}, ["routing_strategy"]),
    ({"num_retries": 11, "max_fallbacks": -1}, ["max_fallbacks", "num_retries"]),
    ({"num_retries": "2"}, ["num_retries"]),
    ({"fallbacks": [{"a": 7}], "retry_policy": {"NoErrorRetries": 1}}, ["fallbacks", "retry_policy"]),
    ({"fallbacks": "a"}, ["fallbacks"]),
    ({"fallbacks": [{"a\u0000": ["b"]}]}, ["fallbacks"]),
    ({"cooldown_time": 0}, ["cooldown_time"]),
    ({"timeout": 1e300}, ["timeout"]),
    ({"routing_strategy_args": {"ttl": 5}}, ["routing_strategy_args"]),
    ({"model_group_alias": {"a": {"model": 5}}}, ["model_group_alias"]),
    ({"model_group_timeouts": {"a": {"timeout": -1}}}, ["model_group_timeouts"]),
    ({"redis_url": "redis://h"}, ["redis_url"]),
]


@pytest.mark.parametrize(("body", "names"), WRONG)
def test_each_setting_that_cannot_be_used_is_named_and_nothing_stored(
    api: Api, body: JsonObject, names: list[str]
) -> None:
    for method in ("PATCH", "PUT"):
        response = send(api, method, PATH, {"enable_tag_filtering": True, **body})
        assert response.status_code == 400, response.content
        assert sorted(error["param"] for error in response.json()["errors"]) == names
    assert not RouterSettings.objects.exists()


def test_settings_of_the_file_are_changed_in_the_file(api: Api) -> None:
    save_router_settings({"num_retries": 1}, RouterSettings.Source.CONFIG)
    details = problem(send(api, "PATCH", PATH, {"num_retries": 2}), 409, None, "managed_by_config")
    assert "config.yaml" in details["detail"]
    problem(send(api, "PUT", PATH, {}), 409, None, "managed_by_config")
    assert ask(api, "GET", PATH)["source"] == "config"
    save_router_settings({}, RouterSettings.Source.CONFIG)  # they were taken out of the file
    assert ask(api, "PATCH", PATH, {"num_retries": 2})["source"] == "console"


def test_a_change_is_audited_and_reaches_every_process_and_the_same_again_does_neither(api: Api) -> None:
    before = current_revision()
    for _ in range(2):
        ask(api, "PATCH", PATH, {"num_retries": 1})
    assert current_revision() == before + 1
    ask(api, "PATCH", PATH, {"num_retries": 0})
    entries = list(AuditEntry.objects.filter(object_type="routersettings").order_by("id"))
    assert [entry.action for entry in entries] == ["create", "update"]
    assert {entry.actor for entry in entries} == {"master key"}
    assert (entries[1].before["values"], entries[1].after["values"]) == ({"num_retries": 1}, {"num_retries": 0})


def test_only_the_platforms_admin_changes_them(api: Api, people: People) -> None:
    for key in (people.owner, people.stranger):
        problem(send(api, "GET", PATH, by=key), 403)
        problem(send(api, "PATCH", PATH, {"num_retries": 1}, by=key), 403)
    assert send(api, "GET", PATH, by=None).status_code == 401
    assert not RouterSettings.objects.exists()
