"""Writing the routing settings: the one way in for config.yaml, the console and the management API."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from django_scopes import scopes_disabled

from gateway.models import Deployment, RouterSettings
from gateway.protocol.errors import ClientFault
from gateway.protocol.json.types import Json, JsonMapping
from gateway.routing.model_patterns import PatternIndex, is_pattern
from gateway.routing.read_settings import NAMES, Problems, read_settings
from gateway.routing.setting_list import named_groups
from tenants.audit import audited
from tenants.invalid import ArgumentInvalid
from tenants.revision import bump_revision, write_transaction


class SettingWarning(NamedTuple):
    """A setting that is stored, and what is doubtful about it."""

    param: str
    detail: str


class SettingsInvalid(ArgumentInvalid):
    """Settings that cannot be used; `problems` names each of them."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(*problems[0])
        self.problems = problems


class SettingsManaged(ClientFault):
    """The settings are those of config.yaml, which would be loaded again at the next start."""

    def __init__(self) -> None:
        message = "The routing settings are managed by config.yaml: change its router_settings, or remove them there."
        super().__init__(message, status=409, code="managed_by_config")


def load_router_settings() -> RouterSettings:
    """The stored settings; without any, those of a new installation, which are not stored."""
    return RouterSettings.objects.filter(id=1).first() or RouterSettings()


def is_managed(row: RouterSettings) -> bool:
    return bool(row.values) and row.source == RouterSettings.Source.CONFIG


def save_router_settings(values: Mapping[str, Json], source: RouterSettings.Source) -> RouterSettings:
    """Stores all settings; a name that is not among them has its default. Raises SettingsInvalid. Settings that are the
    same change nothing."""
    check_settings(values)
    with write_transaction():
        row = RouterSettings.objects.filter(id=1).first()
        if row is None and not values:
            return RouterSettings()
        if row is not None and (row.values, row.source) == (dict(values), source.value):
            return row
        is_new = row is None
        row = row or RouterSettings()
        row.values, row.source = dict(values), source
        with audited("create" if is_new else "update", row):
            row.save()
        bump_revision()
    return row


def change_router_settings(changes: Mapping[str, Json], *, is_whole: bool = False) -> RouterSettings:
    """Stores what a person changes: the settings that `changes` names, None for the default, or all of them. Raises
    SettingsInvalid and SettingsManaged."""
    with write_transaction():
        row = load_router_settings()
        if is_managed(row):
            raise SettingsManaged
        merged = dict(changes) if is_whole else {**row.values, **changes}
        values = {name: value for name, value in merged.items() if value is not None}
        return save_router_settings(values, RouterSettings.Source.CONSOLE)


def check_settings(values: JsonMapping) -> None:
    """Raises SettingsInvalid."""
    problems = [(name, "is not a routing setting") for name in sorted(values.keys() - NAMES)]
    problems += read_settings(values)[1]
    if problems:
        raise SettingsInvalid(problems)


def find_unknown_groups(values: JsonMapping) -> Sequence[SettingWarning]:
    """The model groups in valid settings that no deployment serves. They are stored: a deployment may follow later."""
    with scopes_disabled():  # the settings are for the groups of all organizations
        known = set(Deployment.objects.order_by().values_list("model_group", flat=True).distinct())
    patterns = PatternIndex.of(filter(is_pattern, known))
    known |= set(values.get("model_group_alias") or {})
    return [
        SettingWarning(name, f"no deployment serves {group!r}")
        for name, group in named_groups(values)
        if group not in known and patterns.find(group) is None
    ]
