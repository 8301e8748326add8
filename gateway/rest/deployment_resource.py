"""/api/deployments: one upstream, one credential and one upstream model each, offered as a model group."""

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from rest_framework import serializers

from billing.models import Price
from gateway.deployments import DeploymentInvalid, delete_deployment, save_deployment, sealed_names
from gateway.models import Deployment
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject
from gateway.protocol.secret_fields import strip_user
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.providers.registry import PROVIDERS
from gateway.rest.models import mask_secrets
from gateway.stores.deployment_prices import own_prices_of
from tenants.api.fields import Body, Choice, Flag, Number, Object, Text, Whole
from tenants.api.resource import Filter, Operation, Resource
from tenants.ids import new_id
from tenants.keys import find_organization, read_metadata, read_name
from tenants.permissions import Area, Caller, Reach
from tenants.rest.fields import render_instant

COLUMNS = (
    "model_group",
    "provider",
    "upstream_model",
    "api_base",
    "weight",
    "order",
    "rpm",
    "tpm",
    *TIMEOUTS,
    "enabled",
)
PROVIDER_NAMES = tuple(sorted(PROVIDERS))
MAX_ADDRESS_CHARS = 1024
MAX_ORDER = 2**31 - 1


class DeploymentChange(Body):
    model_group = Text(
        required=False, allow_blank=False, help_text="The name that clients put in `model`; with a `*`, any that fits."
    )
    provider = Choice(PROVIDER_NAMES, required=False)
    upstream_model = Text(required=False, allow_blank=False)
    api_base = Text(required=False, max_length=MAX_ADDRESS_CHARS)
    credential = serializers.DictField(
        child=Text(allow_null=True, max_length=None, allow_blank=False),
        required=False,
        write_only=True,
        help_text="Part, such as api_key → its text; null keeps the stored part. Parts that are left out are removed.",
    )
    parameters = Object(
        required=False, help_text="Put into the body of each request, but for `tags`, which choose calls."
    )
    model_info = Object(required=False, help_text="What the model can do: `mode`, `supports_vision`, …")
    price_lines = serializers.DictField(
        child=Text(), required=False, help_text="Line of the price → USD per token, as decimal text; {} is no price."
    )
    weight = Number(required=False)
    order = Whole(required=False, min_value=-MAX_ORDER, help_text="Lower orders are tried first.")
    rpm = Whole(required=False, allow_null=True, help_text="Requests per minute.")
    tpm = Whole(required=False, allow_null=True, help_text="Tokens per minute.")
    timeout_s = Number(required=False, allow_null=True, help_text="To the whole answer.")
    stream_timeout_s = Number(required=False, allow_null=True, help_text="To the first event of a stream.")
    connect_timeout_s = Number(required=False, allow_null=True)
    stream_idle_timeout_s = Number(required=False, allow_null=True, help_text="The longest silence within a stream.")
    max_stream_duration_s = Number(required=False, allow_null=True, help_text="To the end of a stream.")
    enabled = Flag(required=False)


class NewDeployment(DeploymentChange):
    id = Text(required=False, allow_null=True)
    organization_id = Text(required=False, allow_null=True, help_text="Without it, all organizations share it.")
    model_group = Text(allow_blank=False)
    provider = Choice(PROVIDER_NAMES)
    upstream_model = Text(allow_blank=False)


class LaterPrice(serializers.Serializer[Any]):
    effective_from = serializers.DateTimeField()
    price_lines = serializers.DictField(
        child=serializers.CharField(), help_text="{}: from then on it has the catalogue's."
    )


class DeploymentRow(DeploymentChange):
    id = serializers.CharField()
    organization_id = serializers.CharField(allow_null=True)
    credential_parts = serializers.ListField(child=serializers.CharField(), help_text="The names of its parts.")
    later_prices = LaterPrice(many=True, help_text="Of its own, still to begin; the next first.")
    source = serializers.ChoiceField(Deployment.Source.choices)  # type: ignore[assignment]  # no attribute, a field
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class Deployments(Resource[Deployment]):
    """For the platform's roles. `/v1/model/info` shows a key the models that it may call."""

    area = Area.MODELS
    least_reach = Reach.PLATFORM
    noun = "deployment"
    id_name = "deployment_id"
    wire_names = {**Resource.wire_names, "model": "model_group", "api_key": "credential"}
    operations = {
        "list_rows": Operation("List deployments", answer=DeploymentRow),
        "create": Operation("Create a deployment", 201, DeploymentRow, NewDeployment),
        "show": Operation("Show a deployment", answer=DeploymentRow),
        "update": Operation("Change a deployment", answer=DeploymentRow, body=DeploymentChange),
        "delete_one": Operation("Delete a deployment", 204),
    }
    filters = {
        "organization_id": Filter("organization_id"),
        "model_group": Filter("model_group"),
        "provider": Filter("provider"),
        "source": Filter("source", choices=Deployment.Source.values),
        "enabled": Filter("enabled", schema_type=bool),
    }

    def queryset(self) -> QuerySet[Deployment]:
        return Deployment.objects.all()

    def render(self, rows: Sequence[Deployment]) -> list[JsonObject]:
        now, own = timezone.now(), own_prices_of(rows)
        ids = {name: prices.find(now).price_id for name, prices in own.items()}
        prices = Price.objects.in_bulk({price_id for price_id in ids.values() if price_id})
        return [
            {
                "id": row.id,
                "organization_id": row.organization_id,
                **{name: getattr(row, name) for name in COLUMNS},
                "api_base": strip_user(row.api_base),
                "credential_parts": sealed_names(row),
                "parameters": {name: mask_secrets(name, value) for name, value in row.parameters.items()},
                "model_info": {name: mask_secrets(name, value) for name, value in row.model_info.items()},
                "price_lines": price.lines if (price := prices.get(ids[row.id])) is not None else {},
                "later_prices": [
                    {"effective_from": render_instant(price.effective_from), "price_lines": price.lines}
                    for price in own[row.id].find_later(now)
                ],
                "source": row.source,
                "created_at": render_instant(row.created_at),
                "updated_at": render_instant(row.updated_at),
            }
            for row in rows
        ]

    def make(self, caller: Caller, body: dict[str, Any]) -> Deployment:
        name = read_name(body.get("id"), "id") or new_id()
        if Deployment.objects.filter(id=name).exists():
            raise BadRequest("A deployment with this id exists already.", code="model_exists", param="id")
        place = body.get("organization_id")
        row = Deployment(id=name, organization=find_organization(place) if place else None)
        return save(row, body)

    def change(self, caller: Caller, row: Deployment, body: dict[str, Any]) -> Deployment:
        refuse_managed(row)
        if "provider" in body and body["provider"] != row.provider and "api_base" not in body:
            row.api_base = ""  # an address belongs to its provider
        return save(row, body)

    def delete_row(self, caller: Caller, row: Deployment) -> None:
        refuse_managed(row)
        delete_deployment(row)


def save(row: Deployment, body: dict[str, Any]) -> Deployment:
    """Applies a body to a row and stores it. Raises DeploymentInvalid and KeyInvalid."""
    for name in COLUMNS:
        if name in body:
            setattr(row, name, body[name])
    for name in ("parameters", "model_info"):
        if name in body:
            setattr(row, name, read_metadata(body[name], name))
    if body.get("credential") == {} and not row.credential:
        body = {name: value for name, value in body.items() if name != "credential"}
    return save_deployment(row, credential=body.get("credential"), price_lines=body.get("price_lines"))


def refuse_managed(row: Deployment) -> None:
    """Raises DeploymentInvalid for a row that config.yaml or the gateway itself owns."""
    if row.source != Deployment.Source.CONSOLE:
        raise DeploymentInvalid("deployment_id", f"this deployment is {Deployment.Source(row.source).label}")
