"""/api/routing-settings: the rules of routing, one set for the installation."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.models import RouterSettings
from gateway.protocol.json.types import JsonObject
from gateway.routing.registry import STRATEGIES
from gateway.routing.setting_list import SETTINGS, Kind, Setting
from gateway.stores.router_settings import (
    SettingsInvalid,
    change_router_settings,
    find_unknown_groups,
    load_router_settings,
)
from tenants.api.fields import Body, Choice, Flag, Number, Object, Whole, texts
from tenants.api.problems import BodyInvalid, FieldProblem
from tenants.api.resource import ApiView, Operation
from tenants.keys import read_metadata
from tenants.permissions import Area, Reach
from tenants.rest.fields import read_query, render_instant

MAPPING = {"type": "object", "additionalProperties": {}}


@extend_schema_field({"oneOf": [{"type": "array", "items": MAPPING}, MAPPING]})
class Fallbacks(serializers.JSONField):
    """`[{group: [groups]}, …]`, or one such mapping. The reader of the settings checks it."""


def make_field(setting: Setting) -> serializers.Field[Any, Any, Any, Any]:
    options: dict[str, Any] = {"required": False, "allow_null": True, "help_text": setting.text}
    match setting.kind:
        case Kind.STRATEGY:
            return Choice(sorted(STRATEGIES), **options)
        case Kind.COUNT:
            return Whole(max_value=setting.most, **options)
        case Kind.SECONDS:
            return Number(**options)
        case Kind.FLAG:
            return Flag(**options)
        case Kind.NAMES:
            return texts(**options)
        case Kind.FALLBACKS:
            return Fallbacks(**options)
    return Object(**options)


RoutingSettingsChange: type[Body] = type(
    "RoutingSettingsChange", (Body,), {name: make_field(setting) for name, setting in SETTINGS.items()}
)


class SettingWarningRow(serializers.Serializer[Any]):
    param = serializers.CharField()
    detail = serializers.CharField()


RoutingSettingsRow: type[Body] = type(
    "RoutingSettingsRow",
    (RoutingSettingsChange,),
    {
        "defaults": Object(read_only=True, help_text="The values that count where a setting is null."),
        "warnings": SettingWarningRow(many=True, read_only=True, help_text="Model groups that no deployment serves."),
        "source": serializers.ChoiceField(RouterSettings.Source.choices, read_only=True),
        "updated_at": serializers.DateTimeField(read_only=True, allow_null=True),
    },
)


class RoutingSettings(ApiView):
    """For the platform's roles. Settings of config.yaml are changed there."""

    area = Area.SETTINGS
    least_reach = Reach.PLATFORM
    noun = "routing settings"
    operations = {
        "show": Operation("Show the routing settings", answer=RoutingSettingsRow),
        "replace": Operation("Set all routing settings", answer=RoutingSettingsRow, body=RoutingSettingsChange),
        "update": Operation("Change some routing settings", answer=RoutingSettingsRow, body=RoutingSettingsChange),
    }

    def show(self, request: Request) -> Response:
        read_query(request, known=())
        return Response(render(load_router_settings()))

    def replace(self, request: Request) -> Response:
        return self.change(is_whole=True)

    def update(self, request: Request) -> Response:
        return self.change(is_whole=False)

    def change(self, *, is_whole: bool) -> Response:
        read_query(self.request, known=())
        body = RoutingSettingsChange(data=self.request.data).read()
        changes = {name: read_metadata({name: value}, name)[name] for name, value in body.items()}
        try:
            row = change_router_settings(changes, is_whole=is_whole)
        except SettingsInvalid as error:
            raise BodyInvalid([FieldProblem(name, message) for name, message in error.problems]) from None
        return Response(render(row))


def render(row: RouterSettings) -> JsonObject:
    return {
        **{name: row.values.get(name) for name in SETTINGS},
        "defaults": {name: setting.default for name, setting in SETTINGS.items()},
        "warnings": [warning._asdict() for warning in find_unknown_groups(row.values)],
        "source": row.source,
        "updated_at": render_instant(row.updated_at),
    }
