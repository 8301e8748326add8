"""The list of models: /model/info and /model_group/info. A virtual key sees the models that it may call, without
their addresses and credentials."""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from django.db.models import Q
from django_scopes import scopes_disabled
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.models import Deployment
from gateway.pipeline.admit import may_call
from gateway.pipeline.ports import Principal
from gateway.protocol.errors import NotFound
from gateway.protocol.json.types import JsonObject
from gateway.rest.models import UNKNOWN_MODEL, ModelView, render_models
from gateway.routing.model_patterns import is_pattern
from gateway.stores.catalog import load_routing
from tenants.directory import load_principal
from tenants.permissions import Reach
from tenants.rest.authentication import IsKnown, caller_of, reach_in
from tenants.rest.fields import read_query

#: The parameters and facts that a virtual key is shown; anything else may tell of the upstream.
SHOWN_PARAMS = frozenset({"model", "rpm", "tpm"})
HIDDEN_INFO = frozenset({"db_model", "blocked", "created_at", "updated_at", "capabilities"})
PRICES = ("input_cost_per_token", "output_cost_per_token")
SIZES = ("max_tokens", "max_input_tokens", "max_output_tokens")


class ModelInfo(ModelView):
    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"litellm_model_id"})
        rows = find_models(self, request)
        if "litellm_model_id" in query:
            rows = [row for row in rows if row["model_info"]["id"] == query["litellm_model_id"]]
            if not rows:
                raise NotFound(UNKNOWN_MODEL, param="litellm_model_id")
        return Response({"data": rows})


class ModelGroupInfo(ModelView):
    """The models by the names that clients ask for, each with what all of its deployments can do."""

    permission_classes = [IsKnown]

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"model_group"})
        groups = _group_rows(find_models(self, request))
        if "model_group" in query:
            groups = {name: rows for name, rows in groups.items() if name == query["model_group"]}
        return Response({"data": [_render_group(name, groups[name]) for name in sorted(groups)]})


def find_models(view: ModelView, request: Request) -> list[JsonObject]:
    """The models in LiteLLM's shape: all for the platform's roles, else those that the key of the caller may call."""
    if reach_in(view, request) == Reach.PLATFORM:
        return render_models(Deployment.objects.all())
    principal = _principal_of(request)
    if principal is None:
        return []
    groups = _find_groups(principal)
    names = {name: name for name in groups} | dict(principal.model_aliases)
    return [
        {**row, "model_name": name}
        for name, group in names.items()
        if may_call(principal, name)
        for row in groups.get(group, ())
    ]


def find_serving_models(view: ModelView, request: Request, model: str) -> tuple[str, list[JsonObject]]:
    """(The model group of a call's `model`, the group's models that the caller may call, else all patterns). A name is
    resolved as for a call, by the aliases of the caller's key and of the installation."""
    principal = _principal_of(request)
    group = principal.resolve_model(model) if principal is not None else model
    is_platform = reach_in(view, request) == Reach.PLATFORM
    if is_platform:
        groups = _group_rows(render_models(Deployment.objects.all()))
    else:
        groups = _find_groups(principal) if principal is not None else {}
    if group not in groups:
        group = load_routing().aliases.get(group, group)
    is_allowed = is_platform or (principal is not None and (may_call(principal, model) or may_call(principal, group)))
    if not is_allowed:
        return group, []
    if group in groups:
        return group, [] if is_pattern(group) else groups[group]
    return group, [row for name, rows in groups.items() if is_pattern(name) for row in rows]


def _principal_of(request: Request) -> Principal | None:
    key = caller_of(request).key
    return load_principal(key.digest) if key is not None else None


def _find_groups(principal: Principal) -> dict[str, list[JsonObject]]:
    """The models that the principal's organization can reach, by their groups."""
    with scopes_disabled():  # shared deployments have no organization
        own = Q(organization=principal.organization_id) | Q(organization=None)
        rows = list(Deployment.objects.filter(own, enabled=True))
        rendered = dict(zip([row.id for row in rows], render_models(rows), strict=True))
    hidden = {row.model_group for row in rows if row.organization_id}  # by a group of the same name of the organization
    reached = [row for row in rows if row.organization_id or row.model_group not in hidden]
    return _group_rows(_strip(rendered[row.id]) for row in reached)


def _group_rows(rows: Iterable[JsonObject]) -> dict[str, list[JsonObject]]:
    groups: dict[str, list[JsonObject]] = {}
    for row in rows:
        groups.setdefault(row["model_name"], []).append(row)
    return groups


def _strip(row: JsonObject) -> JsonObject:
    params = {name: value for name, value in row["litellm_params"].items() if name in SHOWN_PARAMS}
    info = {name: value for name, value in row["model_info"].items() if name not in HIDDEN_INFO}
    return {**row, "litellm_params": params, "model_info": info}


def _render_group(name: str, rows: list[JsonObject]) -> JsonObject:
    """Shape: LiteLLM's ModelGroupInfo. A size is the largest of the deployments, a price the highest; limits add up."""
    infos = [row["model_info"] for row in rows]
    params = [row["litellm_params"] for row in rows]
    flags = sorted({flag for info in infos for flag in info if flag.startswith("supports_")})
    return {
        "model_group": name,
        "providers": sorted({str(item["model"]).partition("/")[0] for item in params}),
        "mode": next((info["mode"] for info in infos if info.get("mode")), "chat"),
        **{size: _largest(infos, size) for size in SIZES},
        **{price: _largest(infos, price) for price in PRICES},
        **{limit: sum(item.get(limit) or 0 for item in params) or None for limit in ("tpm", "rpm")},
        **{flag: any(info.get(flag) for info in infos) for flag in flags},
    }


def _largest(infos: Iterable[Mapping[str, object]], name: str) -> int | float | Decimal | None:
    values = [value for info in infos if isinstance(value := info.get(name), int | float | Decimal)]
    return max(values, default=None)
