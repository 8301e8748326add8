"""The management API of deployments: /model/*, with the names of LiteLLM's routes and fields.

The loader of config.yaml reads a body like an item of model_list, with two differences: it takes no value from the
environment of the server, and it refuses a field that would only cause a warning in a file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal

from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from billing.catalogue.litellm import find_line, find_name
from billing.models import Price
from gateway.config.environment import PREFIX, Environment
from gateway.config.gaps import gap_of_info, gap_of_param
from gateway.config.load import FIELDS as ENTRY_FIELDS
from gateway.config.model_list import DeploymentEntry, read_models
from gateway.config.report import Findings, Kind, Report
from gateway.config.yaml_file import Number, Section, Value
from gateway.deployments import (
    BUDGET_FIELDS,
    DeploymentInvalid,
    delete_deployment,
    read_budgets,
    save_deployment,
    sealed_names,
)
from gateway.models import Deployment
from gateway.protocol.abilities import named_capabilities
from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX
from gateway.protocol.secret_fields import SECRET_HEADER, is_secret_field, strip_user
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.providers.registry import PREFIXES, PROVIDERS
from gateway.rest import exact_json
from gateway.rest.exact_json import ExactJSONRenderer
from gateway.rest.upstream_models import list_upstream_models
from gateway.stores.deployment_prices import own_prices_in_force, prices_in_force
from tenants.ids import new_id
from tenants.permissions import Area, Reach, refuse
from tenants.rest.authentication import reach_in
from tenants.rest.fields import read_body, read_count, read_query, render_instant
from tenants.rest.json_body import MAX_ECHO_CHARS
from tenants.rest.views import ManagementView
from tenants.revision import write_transaction

BODY_FIELDS = frozenset({"model_name", "litellm_params", "model_info"})
UPDATE_FIELDS = BODY_FIELDS | {"blocked"}
#: A parameter of LiteLLM → the column that holds it.
COLUMNS = {
    "weight": "weight",
    "order": "order",
    "rpm": "rpm",
    "tpm": "tpm",
    "max_parallel_requests": "max_parallel",
    **{name.removesuffix("_s"): name for name in TIMEOUTS},
}
#: The parameters that an admin of an organization changes. A name, an address, an upstream model or a field of the body
#: would evade prices and lists of models, or reach into the network of the gateway.
LIMITED_PARAMS = frozenset({*COLUMNS, "api_key"})
ORGANIZATION_HEADER = "openai-organization"
#: Stands for the stored key while a change is read; the service keeps the key itself.
STORED_KEY = "stored"
MAX_PAGE_SIZE = 1000
#: Terraform's provider forgets a model whose error has the words "model not found", in lower case.
UNKNOWN_MODEL = "There is no such model here: model not found."
SORTED_BY = {"model_name": "model_group", "created_at": "created_at", "updated_at": "updated_at"}


class ModelView(ManagementView):
    area = Area.MODELS
    renderer_classes = [ExactJSONRenderer]


class ModelChange(ModelView):
    """A change of a deployment. An admin of an organization changes those of the organization, and of these only what
    decides neither where calls go nor what they cost or are called."""

    least_reach = Reach.ORGANIZATION

    def change(
        self, model_id: object, body: JsonMapping, params: JsonObject, info: JsonObject, *, param: str
    ) -> Response:
        is_limited = reach_in(self, self.request) < Reach.PLATFORM
        return _update(model_id, body, params, info, param=param, is_limited=is_limited)


class NewModel(ModelView):
    def post(self, request: Request) -> Response:
        body = _read_model(request, known=BODY_FIELDS)
        params, info = read_object(body, "litellm_params"), read_object(body, "model_info")
        is_blocked = _take_info(info)
        if isinstance(info.get("id"), str) and not info["id"].strip():
            del info["id"]
        entry, ignored = read_entry(
            {"model_name": body.get("model_name"), "litellm_params": params, "model_info": info}
        )
        row = Deployment(
            id=new_id() if info.get("id") is None else entry.id,
            source=Deployment.Source.CONSOLE,
            enabled=not is_blocked,
            **{name: getattr(entry, name) for name in ENTRY_FIELDS},
        )
        with write_transaction():
            if Deployment.objects.filter(id=row.id).exists():
                raise BadRequest("A model with this id exists already.", code="model_exists", param="model_info.id")
            credential = {name: secret.reveal() for name, secret in entry.credential.items()}
            _save(row, credential=credential, price_lines=entry.price_lines, budget=entry.budget)
        return Response(_answer(row, ignored))


class UpdateModel(ModelChange):
    """Changes the fields of the body. Null and the value of an earlier answer keep a field; empty text clears it."""

    def post(self, request: Request) -> Response:
        body = _read_model(request, known=UPDATE_FIELDS | {"id"})
        info = read_object(body, "model_info")
        model_id = info.pop("id", None)
        if body.get("id") is not None:
            if model_id not in {None, body["id"]}:
                raise BadRequest("'id' and 'model_info.id' name two models.", param="id")
            model_id = body["id"]
        return self.change(model_id, body, read_object(body, "litellm_params"), info, param="model_info.id")


class PatchModel(ModelChange):
    """The same for the model that the path names; here null removes a price."""

    def patch(self, request: Request, model_id: str) -> Response:
        body = read_body(request, known=UPDATE_FIELDS)
        params, info = read_object(body, "litellm_params"), read_object(body, "model_info")
        if info.pop("id", None) not in {None, model_id}:
            raise BadRequest("'model_info.id' is not the model of the path.", param="model_info.id")
        params |= {name: "" for name, value in params.items() if value is None and find_line(name) is not None}
        return self.change(model_id, body, params, info, param="model_id")


class DeleteModel(ModelView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"id"})
        with write_transaction():
            row = _find(body.get("id"), param="id")
            _refuse_config(row)
            name = row.id
            delete_deployment(row)
        return Response({"message": f"Model: {name} deleted successfully"})


class BlockModel(ModelChange):
    is_blocked = True

    def post(self, request: Request) -> Response:
        body = read_body(request, known={"model_id"})
        return self.change(body.get("model_id"), {"blocked": self.is_blocked}, {}, {}, param="model_id")


class UnblockModel(BlockModel):
    is_blocked = False


class ModelInfoPage(ModelView):
    """/v2/model/info: the models in pages, with search and order."""

    def get(self, request: Request) -> Response:
        names = {"litellm_model_id", "modelId", "model", "search", "page", "size", "sortBy", "sortOrder"}
        query = read_query(request, known=names)
        page = read_count(query, "page", default=1, maximum=999_999_999)
        size = read_count(query, "size", default=50, maximum=MAX_PAGE_SIZE)
        rows = Deployment.objects.all()
        filters = (
            ("litellm_model_id", "id"),
            ("modelId", "id"),
            ("model", "model_group"),
            ("search", "model_group__icontains"),
        )
        for name, lookup in filters:
            if name in query:
                rows = rows.filter(**{lookup: query[name].strip()})
        sorted_by, direction = query.get("sortBy"), query.get("sortOrder", "asc")
        if sorted_by is not None and sorted_by not in SORTED_BY:
            raise BadRequest(f"'sortBy' must be one of {', '.join(SORTED_BY)}.", param="sortBy")
        if direction not in {"asc", "desc"}:
            raise BadRequest("'sortOrder' must be asc or desc.", param="sortOrder")
        if sorted_by is not None:
            sign = "-" if direction == "desc" else ""
            rows = rows.order_by(f"{sign}{SORTED_BY[sorted_by]}", f"{sign}id")
        count = rows.count()
        return Response(
            {
                "data": render_models(rows[(page - 1) * size : page * size]),
                "total_count": count,
                "current_page": page,
                "total_pages": -(-count // size),
                "size": size,
            }
        )


class UpstreamModels(ModelView):
    """The models that the upstream of a deployment offers now."""

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"model_id"})
        row = find_model(query.get("model_id"), Deployment.objects.all(), param="model_id")
        return Response({"model_id": row.id, "provider": row.provider, "models": list_upstream_models(row)})


def render_models(rows: Iterable[Deployment]) -> list[JsonObject]:
    deployments = list(rows)
    prices = prices_in_force(deployments)
    budgets = read_budgets(deployments)
    return [_render(row, prices.get(row.id), budgets[row.id]) for row in deployments]


def render_model(row: Deployment) -> JsonObject:
    return _render(row, prices_in_force([row]).get(row.id), read_budgets([row])[row.id])


def _render(row: Deployment, price: Price | None, budget: JsonMapping) -> JsonObject:
    """A deployment in the shape of LiteLLM's model. A secret is null, which an update leaves as it is."""
    params: JsonObject = {"model": f"{row.provider}/{row.upstream_model}"}
    if row.api_base:
        params["api_base"] = strip_user(row.api_base)
    for name, column in COLUMNS.items():
        if getattr(row, column) is not None:
            params[name] = getattr(row, column)
    if budget["max_budget"] is not None:
        params["max_budget"] = Decimal(budget["max_budget"]).normalize()
    if budget["budget_duration"] is not None:
        params["budget_duration"] = budget["budget_duration"]
    params |= {name: mask_secrets(name, value) for name, value in row.parameters.items()}
    headers = _headers_of(row)
    for name in sealed_names(row):
        if name.startswith(HEADER_PREFIX):
            headers[name.removeprefix(HEADER_PREFIX)] = None
        else:
            params[name.removeprefix(BODY_PREFIX)] = None
    if headers:
        params["extra_headers"] = {
            name: None if SECRET_HEADER.search(name) else value for name, value in headers.items()
        }
    lines = price.lines if price is not None else {}
    own_flags = row.model_info.get("capabilities")
    flags = named_capabilities(row.model_info) | (own_flags if isinstance(own_flags, dict) else {})
    capabilities = apply_flags(flags, default_capabilities(row.upstream_model))
    costs: JsonObject = {"input_cost_per_token": None, "output_cost_per_token": None}
    costs |= {label: Decimal(usd) for line, usd in lines.items() if (label := find_name(line)) is not None}
    info = {name: mask_secrets(name, value) for name, value in row.model_info.items()}
    own = {
        "id": row.id,
        "db_model": row.source != Deployment.Source.CONFIG,
        "blocked": not row.enabled,
        "capabilities": asdict(capabilities),
        "created_at": render_instant(row.created_at),
        "updated_at": render_instant(row.updated_at),
    }
    return {"model_name": row.model_group, "litellm_params": params, "model_info": info | costs | own}


def _read_model(request: Request, *, known: frozenset[str]) -> JsonObject:
    """The fields of a body. Terraform's provider sends an empty `additional` with them."""
    body = read_body(request, known=known | {"additional"})
    if body.pop("additional", None):
        raise BadRequest("'additional' is not read; leave it out.", code="unsupported_parameter", param="additional")
    return body


def _answer(row: Deployment, ignored: Mapping[str, str]) -> dict[str, object]:
    """`ignored`: the fields of the body that change nothing, and the reasons."""
    return {"model_id": row.id, **render_model(row), "ignored": ignored}


def _update(
    model_id: object, body: JsonMapping, params: JsonObject, info: JsonObject, *, param: str, is_limited: bool
) -> Response:
    is_blocked = _take_info(info)
    if body.get("blocked") is not None:
        is_blocked = _flag(body["blocked"], "blocked")
    with write_transaction():
        row = _find(model_id, param=param)
        _refuse_managed(row)
        rendered = json.loads(exact_json.dumps(render_model(row)), parse_float=Decimal)
        changes = _find_changes(params, rendered["litellm_params"])
        if params.get("api_base") is not None and not _is_same_provider(row, changes):
            changes["api_base"] = params["api_base"]  # for the new provider, even if the address is the same
        info_changes = _find_changes(info, rendered["model_info"])
        if row.id not in own_prices_in_force([row]) and _has_price({**changes, **info_changes}):
            # a new price has all lines of the body, also those that are as the catalogue's
            info_changes |= {name: value for name, value in info.items() if _has_price({name: value})}
        if is_limited:
            _check_limited(row, body.get("model_name"), changes, info_changes)
        ignored = _change(
            row,
            model_name=body.get("model_name"),
            params=changes,
            info=info_changes,
            is_blocked=is_blocked,
        )
    return Response(_answer(row, ignored))


def _check_limited(row: Deployment, model_name: object, params: JsonMapping, info: JsonMapping) -> None:
    """Raises Forbidden for a change that is left to admins of the platform."""
    names = [f"litellm_params.{name}" for name in params if name not in LIMITED_PARAMS]
    names += [f"model_info.{name}" for name in info]
    if model_name not in (None, row.model_group):
        names.append("model_name")
    if names:
        raise refuse(f"Only an admin of the platform changes {min(names)!r}.", param=min(names))


def _change(
    row: Deployment,
    *,
    model_name: object,
    params: JsonObject,
    info: JsonObject,
    is_blocked: bool | None,
) -> dict[str, str]:
    """Apply the changes. They are read as an item of model_list, completed with values of the row."""
    item = _complete_params(row, params) | _keep_budget(row, params)
    before, is_same = PROVIDERS.get(row.provider), _is_same_provider(row, params)
    # The address and the credential of the old provider never go to a new one.
    if is_same and row.api_base and not {"api_base", "base_url"} & params.keys():
        item["api_base"] = row.api_base
    keeps_key = is_same and bool(row.credential) and "api_key" not in params
    if keeps_key:
        item["api_key"] = STORED_KEY
    entry, ignored = read_entry(
        {
            "model_name": row.model_group if model_name is None else model_name,
            "litellm_params": item,
            "model_info": info,
        }
    )
    old_provider_parameters = before.own_parameters if before is not None and not is_same else frozenset()
    parameters = {
        name: value
        for name, value in row.parameters.items()
        if name not in params and name not in old_provider_parameters and name != "extra_headers"
    } | dict(entry.parameters)
    headers = _remaining_headers(row, params) | parameters.pop("extra_headers", {})
    price_lines = _change_lines(row, (*params, *info), entry.price_lines)

    row.model_group = entry.model_group
    row.provider = entry.provider
    if {"model", "custom_llm_provider"} & params.keys():
        row.upstream_model = entry.upstream_model
    row.api_base = entry.api_base
    for name, column in COLUMNS.items():
        if name in params:
            setattr(row, column, getattr(entry, column))
    row.parameters = parameters | ({"extra_headers": headers} if headers else {})
    row.model_info = {**row.model_info, **entry.model_info}
    row.enabled = row.enabled if is_blocked is None else not is_blocked
    credential = {name: secret.reveal() for name, secret in entry.credential.items()}
    if keeps_key:
        del credential["api_key"]
    changed_credential = _change_credential(row, params, credential, is_same=is_same)
    budget = entry.budget if params.keys() & set(BUDGET_FIELDS) else None
    _save(row, credential=changed_credential, price_lines=price_lines, budget=budget)
    return ignored


def _change_lines(row: Deployment, names: Iterable[str], given: Mapping[str, str]) -> Mapping[str, str] | None:
    """The whole price with the lines that a change names; None where it names none: then the prices stay as they are,
    also one that begins meanwhile."""
    new_lines = {line for name in names if (line := find_line(name)) is not None}
    if not new_lines:
        return None
    price = own_prices_in_force([row]).get(row.id)
    lines = price.lines if price is not None else {}
    return {line: usd for line, usd in lines.items() if line not in new_lines} | dict(given)


def _complete_params(row: Deployment, params: JsonMapping) -> JsonObject:
    """`params` with a whole model name; parts that are missing come from the row."""
    item = dict(params)
    model, chosen = params.get("model"), params.get("custom_llm_provider")
    if model is None:
        item["model"] = row.upstream_model if chosen is not None else f"{row.provider}/{row.upstream_model}"
    elif chosen is None and isinstance(model, str) and "/" not in model:
        item["custom_llm_provider"] = row.provider
    if isinstance(params.get("extra_headers"), dict):
        item["extra_headers"] = {name: value for name, value in params["extra_headers"].items() if value is not None}
    return item


def _keep_budget(row: Deployment, params: JsonMapping) -> JsonObject:
    """The fields of the budget that a change leaves as they are. With the amount goes its duration."""
    if not params.keys() & set(BUDGET_FIELDS) or params.get("max_budget") == "":
        return {}
    return {name: value for name, value in read_budgets([row])[row.id].items() if name not in params}


def _is_same_provider(row: Deployment, params: JsonMapping) -> bool:
    item = _complete_params(row, params)
    chosen = item.get("custom_llm_provider")
    named = chosen if chosen is not None else str(item["model"]).partition("/")[0]
    return PREFIXES.get(str(named)) is PROVIDERS.get(row.provider)


def _keeps_header(params: JsonMapping, name: str) -> bool:
    """`extra_headers` replaces all headers; null keeps the stored value of a header."""
    if "extra_headers" not in params:
        return True
    return name in params["extra_headers"] and params["extra_headers"][name] is None


def _remaining_headers(row: Deployment, params: JsonMapping) -> JsonObject:
    headers = {name: value for name, value in _headers_of(row).items() if _keeps_header(params, name)}
    if "organization" in params:
        headers = {name: value for name, value in headers.items() if name.lower() != ORGANIZATION_HEADER}
    return headers


def _change_credential(
    row: Deployment, params: JsonMapping, credential: Mapping[str, str], *, is_same: bool
) -> Mapping[str, str | None] | None:
    """The credential for `save_deployment`. Absent parts stay; with a new provider, api_key replaces all parts."""
    stored = sealed_names(row)
    is_replaced = not is_same and "api_key" in params
    remaining = [name for name in stored if not is_replaced and name.removeprefix(BODY_PREFIX) not in params]
    remaining = [
        name
        for name in remaining
        if not name.startswith(HEADER_PREFIX) or _keeps_header(params, name[len(HEADER_PREFIX) :])
    ]
    if not credential and remaining == stored and "api_key" not in params:
        return None  # a credential that cannot be opened has no names and stays sealed
    return dict.fromkeys(remaining) | dict(credential)


def read_entry(item: JsonObject) -> tuple[DeploymentEntry, dict[str, str]]:
    """The item as the loader of config.yaml reads it, and its fields that change nothing, with the reasons."""
    findings = Findings()
    for name, gap_of in (("litellm_params", gap_of_param), ("model_info", gap_of_info)):
        # An empty list or object asks for nothing.
        item[name] = {
            key: value for key, value in item[name].items() if not (value in ([], {}) and gap_of(key) is not None)
        }
    if not isinstance(item["model_info"].get("capabilities", {}), dict):
        findings.refuse(".model_info.capabilities", "must be an object")
    section = Section("", [], (("", _convert_to_yaml(item, "", findings)),))
    entries = read_models(section, Environment(None, findings), findings)
    if findings.problems:
        param = _param(findings.problems[0].place)
        text = "; ".join(f"{_param(problem.place)}: {problem.message}" for problem in findings.problems)
        raise BadRequest(f"{text}.", param=param)
    ignored = [report for report in findings.reports if report.kind is not Kind.HONOURED]
    for report in ignored:
        _refuse_loosening(report)
    return entries[0], {_param(report.place): report.reason for report in ignored}


def _refuse_loosening(report: Report) -> None:
    param = _param(report.place)
    if report.is_warning:
        raise BadRequest(f"{param}: {report.reason}; leave it out.", code="unsupported_parameter", param=param)


def _convert_to_yaml(value: Json, place: str, findings: Findings) -> Value:
    """JSON as values of the loader: numbers with their exact text. The environment of the server is out of reach."""
    if isinstance(value, dict):
        return {name: _convert_to_yaml(item, f"{place}.{name}", findings) for name, item in value.items()}
    if isinstance(value, list):
        return [_convert_to_yaml(item, f"{place}[{i}]", findings) for i, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(PREFIX):
        return findings.refuse(place, f"{PREFIX} is read in a config.yaml only; give the value itself")
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Number(str(value), value)
    text_or_flag: bool | str | None = value
    return text_or_flag


def _save(
    row: Deployment,
    *,
    credential: Mapping[str, str | None] | None,
    price_lines: Mapping[str, str] | None,
    budget: JsonMapping | None,
) -> None:
    lines: dict[str, object] | None = None if price_lines is None else dict(price_lines)
    with reading_refusals():
        save_deployment(row, credential=credential, price_lines=lines, budget=budget)


@contextmanager
def reading_refusals() -> Iterator[None]:
    """Makes of a DeploymentInvalid the answer that names the field of the body."""
    try:
        yield
    except DeploymentInvalid as error:
        param = error.param if error.param == "model_info" else f"litellm_params.{error.param}"
        raise BadRequest(f"{param}: {error.message}.", param=param) from None


def _find(model_id: object, *, param: str) -> Deployment:
    """The row, locked: for a change."""
    return find_model(model_id, Deployment.objects.select_for_update(), param=param)


def find_model(model_id: object, rows: QuerySet[Deployment], *, param: str) -> Deployment:
    if not isinstance(model_id, str) or not model_id:
        raise BadRequest(f"Name the model with {param!r}, as text.", param=param)
    row = rows.filter(id=model_id).first()
    if row is None:
        raise NotFound(UNKNOWN_MODEL, param=param)
    return row


def _refuse_config(row: Deployment) -> None:
    if row.source == Deployment.Source.CONFIG:
        raise BadRequest("Can't edit model. Model in config.", code="model_in_config")


def _refuse_managed(row: Deployment) -> None:
    _refuse_config(row)
    if row.source != Deployment.Source.CONSOLE:
        raise BadRequest("Can't edit model. Model is built in.", code="model_built_in")


def read_object(body: JsonMapping, name: str) -> JsonObject:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name!r} must be an object.", param=name)
    return dict(value)


def _take_info(info: JsonObject) -> bool | None:
    """Remove the fields from `info` that do not describe the model. Returns `blocked`; None if it is absent."""
    for name in ("db_model", "created_at", "updated_at"):
        info.pop(name, None)
    is_blocked = info.pop("blocked", None)
    return None if is_blocked is None else _flag(is_blocked, "model_info.blocked")


def _flag(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{param!r} must be true or false.", param=param)
    return value


def _find_changes(fields: JsonMapping, rendered: JsonMapping) -> JsonObject:
    return {
        name: value
        for name, value in fields.items()
        if value is not None and not (name in rendered and _equals_rendered(value, rendered[name]))
    }


def _has_price(fields: JsonMapping) -> bool:
    return any(value not in (None, "") and find_line(name) is not None for name, value in fields.items())


def _equals_rendered(value: Json, rendered: Json) -> bool:
    """True if the value equals that of an answer, also after a client has read the answer's numbers as floats."""
    if isinstance(rendered, Decimal) and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value in {rendered, Decimal(repr(float(rendered)))}
    return bool(value == rendered)


def _headers_of(row: Deployment) -> JsonObject:
    headers = row.parameters.get("extra_headers")
    return dict(headers) if isinstance(headers, dict) else {}


def mask_secrets(name: str, value: Json) -> Json:
    if is_secret_field(name) and not isinstance(value, bool | int | float | Decimal):
        return None
    if isinstance(value, dict):
        return {key: mask_secrets(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask_secrets(name, item) for item in value]
    return strip_user(value) if isinstance(value, str) else value


def _param(place: str) -> str:
    return place.removeprefix(".")[:MAX_ECHO_CHARS]
