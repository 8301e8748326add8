"""The management API of deployments: /model/*, with the names of LiteLLM's routes and fields.

A body is read exactly as an item of a config.yaml's model_list is, with two differences: nothing is taken from the
server's environment, and what would limit or price less than it asks is refused instead of reported.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Price
from gateway.config.environment import PREFIX, Environment
from gateway.config.gaps import gap_of_info, gap_of_param
from gateway.config.load import FIELDS as ENTRY_FIELDS
from gateway.config.model_list import COSTS, SECRET_FIELD, SECRET_HEADER, DeploymentEntry, read_models
from gateway.config.report import Findings, Kind, Report
from gateway.config.yaml_file import Number, Section, Value
from gateway.deployments import DeploymentInvalid, delete_deployment, save_deployment
from gateway.models import Deployment
from gateway.models.encryption import CredentialUnusable, unseal
from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.provider import HEADER_PREFIX
from gateway.providers.registry import PREFIXES, PROVIDERS
from gateway.rest import exact_json
from gateway.rest.exact_json import ExactJSONRenderer
from gateway.rest.upstream_models import list_upstream_models
from tenants.ids import new_id
from tenants.rest.fields import read_body, read_count, read_query, render_instant
from tenants.rest.json_body import MAX_ECHO_CHARS
from tenants.rest.views import ManagementView

BODY_FIELDS = frozenset({"model_name", "litellm_params", "model_info"})
UPDATE_FIELDS = BODY_FIELDS | {"blocked"}
#: A parameter of LiteLLM → the column that holds it.
COLUMNS = {
    "weight": "weight",
    "order": "order",
    "rpm": "rpm",
    "tpm": "tpm",
    "timeout": "timeout_s",
    "stream_timeout": "stream_timeout_s",
}
#: Names a model for LiteLLM's price map, which is not here; clients send it beside the prices themselves.
WITHOUT_EFFECT = frozenset({"model_info.base_model"})
ORGANIZATION_HEADER = "openai-organization"
#: What stands for the stored key while a change is read; the service puts the key itself.
KEPT = "kept"
LARGEST_PAGE = 1000
SORTED_BY = {"model_name": "model_group", "created_at": "created_at", "updated_at": "updated_at"}


class ModelView(ManagementView):
    renderer_classes = [ExactJSONRenderer]


class NewModel(ModelView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known=BODY_FIELDS)
        params, info = _object(body, "litellm_params"), _object(body, "model_info")
        is_blocked = _take_info(info)
        if isinstance(info.get("id"), str) and not info["id"].strip():
            del info["id"]
        entry, ignored = _read_entry(
            {"model_name": body.get("model_name"), "litellm_params": params, "model_info": info}
        )
        row = Deployment(
            id=new_id() if info.get("id") is None else entry.id,
            source=Deployment.Source.CONSOLE,
            enabled=not is_blocked,
            **{name: getattr(entry, name) for name in ENTRY_FIELDS},
        )
        with transaction.atomic():
            if Deployment.objects.filter(id=row.id).exists():
                raise BadRequest("A model with this id exists already.", code="model_exists", param="model_info.id")
            credential = {name: secret.reveal() for name, secret in entry.credential.items()}
            _save(row, credential=credential, price_lines=entry.price_lines)
        return Response(_answer(row, ignored))


class UpdateModel(ModelView):
    """Changes the fields that are sent. Null, and what an answer showed, keep a field; the empty text clears it."""

    def post(self, request: Request) -> Response:
        body = read_body(request, known=UPDATE_FIELDS)
        info = _object(body, "model_info")
        return _update(info.pop("id", None), body, _object(body, "litellm_params"), info, param="model_info.id")


class PatchModel(ModelView):
    """The same for the model that the path names; here null takes a price away."""

    def patch(self, request: Request, model_id: str) -> Response:
        body = read_body(request, known=UPDATE_FIELDS)
        params, info = _object(body, "litellm_params"), _object(body, "model_info")
        if info.pop("id", None) not in {None, model_id}:
            raise BadRequest("'model_info.id' is not the model of the path.", param="model_info.id")
        params |= {name: "" for name in COSTS if name in params and params[name] is None}
        return _update(model_id, body, params, info, param="model_id")


class DeleteModel(ModelView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"id"})
        with transaction.atomic():
            row = _find(body.get("id"), param="id")
            _refuse_config(row)
            name = row.id
            delete_deployment(row)
        return Response({"message": f"Model: {name} deleted successfully"})


class ModelInfo(ModelView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"litellm_model_id"})
        rows = Deployment.objects.all()
        if "litellm_model_id" in query:
            rows = rows.filter(id=query["litellm_model_id"])
            if not rows:
                raise NotFound("Model not found.", param="litellm_model_id")
        return Response({"data": _all_shown(rows)})


class ModelInfoPage(ModelView):
    """/v2/model/info: the same in pages, searched and sorted."""

    def get(self, request: Request) -> Response:
        known = {"litellm_model_id", "modelId", "model", "search", "page", "size", "sortBy", "sortOrder"}
        query = read_query(request, known=known)
        page = read_count(query, "page", default=1, maximum=999_999_999)
        size = read_count(query, "size", default=50, maximum=LARGEST_PAGE)
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
                "data": _all_shown(rows[(page - 1) * size : page * size]),
                "total_count": count,
                "current_page": page,
                "total_pages": -(-count // size),
                "size": size,
            }
        )


class UpstreamModels(ModelView):
    """Which models the upstream of a deployment has, asked of it now."""

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"model_id"})
        row = _find(query.get("model_id"), param="model_id")
        return Response({"model_id": row.id, "provider": row.provider, "models": list_upstream_models(row)})


def _all_shown(rows: QuerySet[Deployment]) -> list[dict[str, Any]]:
    found = list(rows)
    prices = Price.objects.in_bulk([row.price_id for row in found if row.price_id])
    return [_shown(row, prices.get(row.price_id)) for row in found]


def model_row(row: Deployment) -> dict[str, Any]:
    return _shown(row, Price.objects.filter(id=row.price_id).first() if row.price_id else None)


def _shown(row: Deployment, price: Price | None) -> dict[str, Any]:
    """A deployment as LiteLLM shows a model. In the place of a secret stands null, which an update leaves alone."""
    params: dict[str, Any] = {"model": f"{row.provider}/{row.upstream_model}"}
    if row.api_base:
        params["api_base"] = _without_user(row.api_base)
    for name, column in COLUMNS.items():
        if getattr(row, column) is not None:
            params[name] = getattr(row, column)
    params |= {name: _masked(name, value) for name, value in row.parameters.items()}
    headers = _headers_of(row)
    for name in _sealed_names(row):
        if name.startswith(HEADER_PREFIX):
            headers[name.removeprefix(HEADER_PREFIX)] = None
        else:
            params[name] = None
    if headers:
        params["extra_headers"] = {
            name: None if SECRET_HEADER.search(name) else value for name, value in headers.items()
        }
    lines = price.lines if price is not None else {}
    flags = row.model_info.get("capabilities")
    capabilities = apply_flags(flags if isinstance(flags, dict) else {}, default_capabilities(row.upstream_model))
    costs = {
        name: Decimal(lines[line]) if line in lines else None
        for name, line in COSTS.items()
        if line in lines or line in {"input", "output"}
    }
    info = {name: _masked(name, value) for name, value in row.model_info.items()}
    own = {
        "id": row.id,
        "db_model": row.source != Deployment.Source.CONFIG,
        "blocked": not row.enabled,
        "capabilities": {name: getattr(capabilities, name) for name in capabilities.__slots__},
        "created_at": render_instant(row.created_at),
        "updated_at": render_instant(row.updated_at),
    }
    return {"model_name": row.model_group, "litellm_params": params, "model_info": info | costs | own}


def _answer(row: Deployment, ignored: Mapping[str, str]) -> dict[str, object]:
    """`ignored` tells what was sent and changes nothing here, and why."""
    return {"model_id": row.id, **model_row(row), "ignored": ignored}


def _update(
    model_id: object, body: Mapping[str, Any], params: dict[str, Any], info: dict[str, Any], *, param: str
) -> Response:
    is_blocked = _take_info(info)
    if body.get("blocked") is not None:
        is_blocked = _flag(body["blocked"], "blocked")
    with transaction.atomic():
        row = _find(model_id, param=param)
        _refuse_managed(row)
        shown = json.loads(exact_json.dumps(model_row(row)), parse_float=Decimal)
        changed = _changed(params, shown["litellm_params"])
        if params.get("api_base") is not None and not _is_same_provider(row, changed):
            changed["api_base"] = params["api_base"]  # of the other one, be it where the first one was
        ignored = _change(
            row,
            model_name=body.get("model_name"),
            params=changed,
            info=_changed(info, shown["model_info"]),
            is_blocked=is_blocked,
        )
    return Response(_answer(row, ignored))


def _change(
    row: Deployment,
    *,
    model_name: object,
    params: dict[str, Any],
    info: dict[str, Any],
    is_blocked: bool | None,
) -> dict[str, str]:
    """What was sent is read as an item of its own, with what is needed of the row to make one."""
    item = _completed(row, params)
    before, is_same = PROVIDERS.get(row.provider), _is_same_provider(row, params)
    # Another provider is never sent the address of the one before, nor its credential.
    if is_same and row.api_base and not {"api_base", "base_url"} & params.keys():
        item["api_base"] = row.api_base
    is_key_kept = is_same and bool(row.credential) and "api_key" not in params
    if is_key_kept:
        item["api_key"] = KEPT
    entry, ignored = _read_entry(
        {
            "model_name": row.model_group if model_name is None else model_name,
            "litellm_params": item,
            "model_info": info,
        }
    )
    own_of_the_other = before.own_parameters if before is not None and not is_same else frozenset()
    parameters = {
        name: value
        for name, value in row.parameters.items()
        if name not in params and name not in own_of_the_other and name != "extra_headers"
    } | dict(entry.parameters)
    headers = _kept_headers(row, params) | parameters.pop("extra_headers", {})
    price = Price.objects.filter(id=row.price_id).first() if row.price_id else None
    sent_lines = {line for name, line in COSTS.items() if name in params or name in info}
    lines = {line: usd for line, usd in (price.lines if price else {}).items() if line not in sent_lines}

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
    given = {name: secret.reveal() for name, secret in entry.credential.items()}
    if is_key_kept:
        del given["api_key"]
    credential = _credential(row, params, given, is_same=is_same)
    _save(row, credential=credential, price_lines=lines | dict(entry.price_lines))
    return ignored


def _completed(row: Deployment, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with a whole name of a model: the row's, where nothing else is said."""
    item = dict(params)
    model, chosen = params.get("model"), params.get("custom_llm_provider")
    if model is None:
        item["model"] = row.upstream_model if chosen is not None else f"{row.provider}/{row.upstream_model}"
    elif chosen is None and isinstance(model, str) and "/" not in model:
        item["custom_llm_provider"] = row.provider
    if isinstance(params.get("extra_headers"), dict):
        item["extra_headers"] = {name: value for name, value in params["extra_headers"].items() if value is not None}
    return item


def _is_same_provider(row: Deployment, params: Mapping[str, Any]) -> bool:
    item = _completed(row, params)
    chosen = item.get("custom_llm_provider")
    named = chosen if chosen is not None else str(item["model"]).partition("/")[0]
    return PREFIXES.get(str(named)) is PROVIDERS.get(row.provider)


def _keeps_header(params: Mapping[str, Any], name: str) -> bool:
    """Headers that are sent are all there are; null stands for a value that was not shown."""
    if "extra_headers" not in params:
        return True
    return name in params["extra_headers"] and params["extra_headers"][name] is None


def _kept_headers(row: Deployment, params: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in _headers_of(row).items() if _keeps_header(params, name)}
    if "organization" in params:
        kept = {name: value for name, value in kept.items() if name.lower() != ORGANIZATION_HEADER}
    return kept


def _credential(
    row: Deployment, params: Mapping[str, Any], given: Mapping[str, str], *, is_same: bool
) -> Mapping[str, str | None] | None:
    """As `save_deployment` takes it. What is not sent is kept; with another provider a new api_key stands for all."""
    stored = _sealed_names(row)
    kept = [] if not is_same and "api_key" in params else [name for name in stored if name not in params]
    kept = [
        name for name in kept if not name.startswith(HEADER_PREFIX) or _keeps_header(params, name[len(HEADER_PREFIX) :])
    ]
    if not given and kept == stored and "api_key" not in params:
        return None  # one that cannot be opened has no names, and stays as it is sealed
    return dict.fromkeys(kept) | dict(given)


def _read_entry(item: dict[str, Any]) -> tuple[DeploymentEntry, dict[str, str]]:
    """The item as the loader of a config.yaml takes it, and what of it changes nothing here."""
    findings = Findings()
    for name, gap_of in (("litellm_params", gap_of_param), ("model_info", gap_of_info)):
        # An empty list asks for nothing, whatever it is a list of.
        item[name] = {
            key: value for key, value in item[name].items() if not (value in ([], {}) and gap_of(key) is not None)
        }
    if not isinstance(item["model_info"].get("capabilities", {}), dict):
        findings.refuse(".model_info.capabilities", "must be an object")
    section = Section("", [], (("", _as_loaded(item, "", findings)),))
    entries = read_models(section, Environment(None, findings), findings)
    if findings.problems:
        param = _param(findings.problems[0].place)
        told = "; ".join(f"{_param(problem.place)}: {problem.message}" for problem in findings.problems)
        raise BadRequest(f"{told}.", param=param)
    ignored = [report for report in findings.reports if report.kind is not Kind.HONOURED]
    for report in ignored:
        _refuse_loosening(report)
    return entries[0], {_param(report.place): report.reason for report in ignored}


def _refuse_loosening(report: Report) -> None:
    param = _param(report.place)
    if report.is_warning and param not in WITHOUT_EFFECT:
        raise BadRequest(f"{param}: {report.reason}; leave it out.", code="unsupported_parameter", param=param)


def _as_loaded(value: Any, place: str, findings: Findings) -> Value:
    """JSON as the loader has YAML: numbers with their exact text. The environment is the server's, not the caller's."""
    if isinstance(value, dict):
        return {name: _as_loaded(item, f"{place}.{name}", findings) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_loaded(item, f"{place}[{i}]", findings) for i, item in enumerate(value)]
    if isinstance(value, str) and value.startswith(PREFIX):
        return findings.refuse(place, f"{PREFIX} is read in a config.yaml only; give the value itself")
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return Number(str(value), value)
    text_or_flag: bool | str | None = value
    return text_or_flag


def _save(row: Deployment, *, credential: Mapping[str, str | None] | None, price_lines: Mapping[str, str]) -> None:
    try:
        save_deployment(row, credential=credential, price_lines=dict(price_lines))
    except DeploymentInvalid as error:
        param = error.param if error.param == "model_info" else f"litellm_params.{error.param}"
        raise BadRequest(f"{param}: {error.message}.", param=param) from None


def _find(given: object, *, param: str) -> Deployment:
    if not isinstance(given, str) or not given:
        raise BadRequest(f"Name the model with {param!r}, as text.", param=param)
    row: Deployment | None = Deployment.objects.select_for_update().filter(id=given).first()
    if row is None:
        raise NotFound("Model not found.", param=param)
    return row


def _refuse_config(row: Deployment) -> None:
    if row.source == Deployment.Source.CONFIG:
        raise BadRequest("Can't edit model. Model in config.", code="model_in_config")


def _refuse_managed(row: Deployment) -> None:
    _refuse_config(row)
    if row.source != Deployment.Source.CONSOLE:
        raise BadRequest("Can't edit model. Model is built in.", code="model_built_in")


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"{name!r} must be an object.", param=name)
    return dict(value)


def _take_info(info: dict[str, Any]) -> bool | None:
    """Takes what is no information about the model out of `info`; whether the model is blocked, where that is told."""
    for name in ("db_model", "created_at", "updated_at"):
        info.pop(name, None)
    is_blocked = info.pop("blocked", None)
    return None if is_blocked is None else _flag(is_blocked, "model_info.blocked")


def _flag(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{param!r} must be true or false.", param=param)
    return value


def _changed(sent: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in sent.items()
        if value is not None and not (name in shown and _is_shown(value, shown[name]))
    }


def _is_shown(sent: Any, shown: Any) -> bool:
    """Whether a value is the one that was shown, be it as a client knows it that reads numbers as floats."""
    if isinstance(shown, Decimal) and isinstance(sent, int | Decimal) and not isinstance(sent, bool):
        return sent in {shown, Decimal(repr(float(shown)))}
    return bool(sent == shown)


def _sealed_names(row: Deployment) -> list[str]:
    """None where the credential cannot be opened: it is then kept as it is, or given anew."""
    try:
        return sorted(unseal(context=row.id, sealed=row.credential))
    except CredentialUnusable:
        return []


def _headers_of(row: Deployment) -> dict[str, Any]:
    headers = row.parameters.get("extra_headers")
    return dict(headers) if isinstance(headers, dict) else {}


def _masked(name: str, value: Any) -> Any:
    if SECRET_FIELD.fullmatch(name):
        return None
    if isinstance(value, dict):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(name, item) for item in value]
    return value


def _without_user(address: str) -> str:
    """The console takes an address as it is given, and one may hold a password."""
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _param(place: str) -> str:
    return place.removeprefix(".")[:MAX_ECHO_CHARS]
