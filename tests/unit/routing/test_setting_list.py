"""The list of routing settings agrees with the reader of their values."""

import pytest

from gateway.routing.read_settings import NAMES, read_settings
from gateway.routing.setting_list import SETTINGS, Kind, named_groups
from gateway.routing.settings import DEFAULT_SETTINGS


def test_every_setting_is_listed_with_its_meaning() -> None:
    assert SETTINGS.keys() == NAMES
    assert all(setting.text.endswith(".") for setting in SETTINGS.values())


def test_the_defaults_are_those_that_count() -> None:
    defaults = {name: setting.default for name, setting in SETTINGS.items()}
    assert read_settings(defaults) == (DEFAULT_SETTINGS, [])


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.kind is Kind.COUNT])
def test_the_largest_count_is_the_largest_that_is_read(name: str) -> None:
    most = SETTINGS[name].most
    assert read_settings({name: most})[1] == []
    assert [problem for problem, _ in read_settings({name: most + 1})[1]] == [name]


def test_the_model_groups_in_settings_are_found() -> None:
    values = {
        "routing_strategy": "sticky",
        "fallbacks": [{"a": ["b"]}, {"*": ["c"]}],
        "content_policy_fallbacks": {"d": "e"},
        "default_fallbacks": ["f"],
        "model_group_routing_strategy": {"g": "sticky"},
        "model_group_alias": {"alias": "h", "other": {"model": "i", "hidden": True}},
        "model_group_retry_policy": {"j": {"TimeoutErrorRetries": 1}},
        "model_group_timeouts": {"k": {"timeout": 1}},
        "hedging": {"l": {"after": "p90"}, "*": {}},
        "recover": {"m": "continue", "*": "error"},
        "retry_policy": {"TimeoutErrorRetries": 1},
    }
    assert read_settings(values)[1] == []
    found = set(named_groups(values))
    assert {group for _, group in found} == set("abcdefghijklm")
    assert ("fallbacks", "c") in found
