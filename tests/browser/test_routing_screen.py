"""The page of the routing settings, without a browser: what its form stores, what it refuses, and who sees what."""

import re
from typing import Any

import pytest
from django.test import Client
from django_scopes import scopes_disabled

from gateway.admin.routing_form import CLASS_LABELS, GROUPS, LABELS
from gateway.deployments import save_deployment
from gateway.models import Deployment, RouterSettings
from gateway.routing.read_settings import CLASSES
from gateway.routing.setting_list import SETTINGS
from gateway.stores.router_settings import save_router_settings
from tenants.models import DEFAULT_ORGANIZATION, AuditEntry, Role, User

PAGE = "/console/gateway/routersettings/1/change/"
LIST = "/console/gateway/routersettings/"
FORM = {
    "routing_strategy": "latency-based-routing",
    "argument_ttl": "60",
    "argument_lowest_latency_buffer": "0.25",
    "model_group_routing_strategy": "chat -> sticky\n\nollama/llama3:8b -> least-busy",
    "fallbacks": "chat -> spare, large\n* -> spare",
    "default_fallbacks": "spare",
    "context_window_fallbacks": "chat -> large",
    "content_policy_fallbacks": "",
    "max_fallbacks": "3",
    "num_retries": "1",
    "retry_TimeoutErrorRetries": "0",
    "model_group_retry_policy": "chat -> TimeoutErrorRetries = 0, DefaultRetries = 2",
    "cooldown_time": "12.5",
    "allowed_fails": "4",
    "fail_RateLimitErrorAllowedFails": "9",
    "disable_cooldowns": "on",
    "timeout": "30",
    "model_group_timeouts": "chat -> timeout = 7.5, stream_timeout = 2",
    "model_group_alias": "fast -> chat\nhush -> large (hidden)",
    "enable_tag_filtering": "on",
    "tag_filtering_match_any": "on",  # the default, which is not stored
}
STORED: dict[str, Any] = {
    "routing_strategy": "latency-based-routing",
    "routing_strategy_args": {"ttl": 60, "lowest_latency_buffer": 0.25},
    "model_group_routing_strategy": {"chat": "sticky", "ollama/llama3:8b": "least-busy"},
    "fallbacks": {"chat": ["spare", "large"], "*": ["spare"]},
    "default_fallbacks": ["spare"],
    "context_window_fallbacks": {"chat": ["large"]},
    "max_fallbacks": 3,
    "num_retries": 1,
    "retry_policy": {"TimeoutErrorRetries": 0},
    "model_group_retry_policy": {"chat": {"TimeoutErrorRetries": 0, "DefaultRetries": 2}},
    "cooldown_time": 12.5,
    "allowed_fails": 4,
    "allowed_fails_policy": {"RateLimitErrorAllowedFails": 9},
    "disable_cooldowns": True,
    "timeout": 30,
    "model_group_timeouts": {"chat": {"timeout": 7.5, "stream_timeout": 2}},
    "model_group_alias": {"fast": "chat", "hush": {"model": "large", "hidden": True}},
    "enable_tag_filtering": True,
}


@pytest.fixture
def console(client: Client, db: None) -> Client:
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    return client


def stored() -> Any:
    return RouterSettings.objects.get(id=1).values


def errors_of(response: Any) -> dict[str, list[str]]:
    form = response.context["adminform"].form
    return {name: [str(error) for error in errors] for name, errors in form.errors.items()}


def test_every_setting_and_every_class_of_error_has_a_field() -> None:
    assert LABELS.keys() | GROUPS.keys() == SETTINGS.keys()
    assert CLASS_LABELS.keys() == CLASSES.keys()


def test_the_form_stores_what_it_shows_and_shows_what_is_stored(console: Client) -> None:
    assert console.get(LIST).headers["location"] == PAGE
    assert console.get(PAGE).status_code == 200
    assert not RouterSettings.objects.exists()
    response = console.post(PAGE, FORM)
    assert response.status_code == 302, errors_of(response)
    assert stored() == STORED
    form = console.get(PAGE).context["adminform"].form
    shown = {name: form[name].value() for name in form.fields}
    texts = {
        name: "" if value in (None, False) else "on" if value is True else str(value) for name, value in shown.items()
    }
    sent = {name: value for name, value in texts.items() if value}
    assert console.post(PAGE, sent).status_code == 302
    assert stored() == STORED
    [entry] = AuditEntry.objects.filter(object_type="routersettings")
    assert (entry.actor, entry.action, entry.after["values"].keys()) == ("root", "create", STORED.keys())
    assert console.post(PAGE, {"tag_filtering_match_any": "on"}).status_code == 302
    assert stored() == {}


def test_settings_that_the_api_has_stored_in_other_forms_are_shown(console: Client) -> None:
    rows = [{"a": ["b", "c"]}, {"d": "e"}]
    save_router_settings({"fallbacks": rows, "routing_strategy": "lowest-latency"}, RouterSettings.Source.CONSOLE)
    form = console.get(PAGE).context["adminform"].form
    assert form["fallbacks"].value() is not None
    assert form.fields["fallbacks"].prepare_value(rows) == "a -> b, c\nd -> e"
    assert form.initial["routing_strategy"] == "latency-based-routing"


WRONG: list[tuple[dict[str, str], str, str]] = [
    ({"fallbacks": "chat spare"}, "fallbacks", "Line 1: write it as “gpt-4o -> claude-sonnet, gemini-pro”."),
    ({"fallbacks": "a -> b\nc -> d,,e"}, "fallbacks", "Line 2: a name is missing between two commas."),
    ({"fallbacks": "a -> b\n\na -> c"}, "fallbacks", "Line 3: “a” has a line already."),
    ({"model_group_timeouts": "a -> timeout"}, "model_group_timeouts", "Line 1: “timeout” is no name = number."),
    ({"model_group_timeouts": "a -> fast = 1"}, "model_group_timeouts", "Has no 'fast'; known: "),
    ({"model_group_routing_strategy": "a -> random"}, "model_group_routing_strategy", "Must be one of "),
    ({"num_retries": "11"}, "num_retries", "Must be a whole number from 0 to 10"),
    ({"num_retries": "1.5"}, "num_retries", "Must be a whole number from 0 to 10"),
    ({"cooldown_time": "0"}, "cooldown_time", "Must be above 0 and at most 86400 seconds"),
    ({"cooldown_time": "soon"}, "cooldown_time", "Enter a number."),
    ({"timeout": "1e999"}, "timeout", "Enter a number."),
    ({"retry_RateLimitErrorRetries": "11"}, "retry_RateLimitErrorRetries", "Must be a whole number from 0 to 10"),
    ({"argument_ttl": "5"}, "argument_ttl", "Has no 'ttl' for simple-shuffle; it takes no arguments"),
    ({"model_group_alias": "a -> " + "b" * 300}, "model_group_alias", "Must name model groups, as text"),
]


@pytest.mark.parametrize(("fields", "name", "message"), WRONG)
def test_a_value_that_cannot_be_used_is_an_error_of_its_field(
    console: Client, fields: dict[str, str], name: str, message: str
) -> None:
    response = console.post(PAGE, fields)
    assert response.status_code == 200
    errors = errors_of(response)
    assert list(errors) == [name]
    assert errors[name][0].startswith(message)
    assert not RouterSettings.objects.exists()


def test_a_model_group_that_no_deployment_serves_is_stored_and_told(console: Client) -> None:
    with scopes_disabled():
        save_deployment(Deployment(id="one", model_group="chat", provider="mock", upstream_model="m"), credential=None)
    page = console.post(PAGE, {"fallbacks": "chat -> spare"}, follow=True).content.decode()
    assert "no deployment serves &#x27;spare&#x27;" in page
    assert "no deployment serves &#x27;chat&#x27;" not in page


def test_settings_of_the_file_are_shown_and_not_changed(console: Client) -> None:
    save_router_settings({"num_retries": 7, "fallbacks": [{"a": ["<b>"]}]}, RouterSettings.Source.CONFIG)
    page = console.get(PAGE).content.decode()
    assert "managed by config.yaml" in page
    assert "&lt;b&gt;" in page
    assert not re.search(r'<(?:input|textarea|select)[^>]* name="num_retries"', page)
    assert console.post(PAGE, {"num_retries": "1"}).status_code == 403
    assert stored()["num_retries"] == 7


@pytest.mark.parametrize("role", [*Role.values])
def test_others_than_the_platforms_roles_do_not_see_it(client: Client, db: None, role: str) -> None:

    client.force_login(User.objects.create(username="someone", organization_id=DEFAULT_ORGANIZATION, role=role))
    is_viewer = role == Role.PLATFORM_VIEWER
    response = client.get(PAGE)
    assert (response.status_code == 200) is is_viewer
    if is_viewer:
        assert "simple-shuffle" in response.content.decode()
    assert client.post(PAGE, {"num_retries": "1"}).status_code != 200
    assert not RouterSettings.objects.exists()
