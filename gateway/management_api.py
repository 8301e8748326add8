"""The management API of deployments: /model/*, with the names of LiteLLM's routes and fields.

A body is read exactly as an item of a config.yaml's model_list is, with two differences: nothing is taken from the
server's environment, and what would limit or price less than it asks is refused instead of reported.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.db import transaction
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
from gateway.protocol.capabilities import by_name, known
from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.provider import HEADER_PREFIX
from gateway.protocol.secret import Secret
from gateway.providers.registry import PREFIXES, PROVIDERS
from tenants.api import ManagementView
from tenants.authentication import LONGEST_ECHO, instant, read_body, read_query
from tenants.ids import new_id

BODY_FIELDS = frozenset({"model_name", "litellm_params", "model_info"})
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


class NewModel(ManagementView):
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
            _save(row, credential=entry.credential, price_lines=entry.price_lines)
        return Response(_answer(row, ignored))


class UpdateModel(ManagementView):
    """Changes the fields that are sent. Null, and what an answer showed, keep a field; the empty text clears it."""

    def post(self, request: Request) -> Response:
        body = read_body(request, known=BODY_FIELDS)
        params, info = _object(body, "litellm_params"), _object(body, "model_info")
        is_blocked = _take_info(info)
        with transaction.atomic():
            row = _find(info.pop("id", None), param="model_info.id")
            _refuse_managed(row)
            shown = json.loads(json.dumps(model_row(row)), parse_float=Decimal)
            ignored = _change(
                row,
                model_name=body.get("model_name"),
                params=_changed(params, shown["litellm_params"]),
                info=_changed(info, shown["model_info"]),
                is_blocked=is_blocked,
            )
        return Response(_answer(row, ignored))


class DeleteModel(ManagementView):
    def post(self, request: Request) -> Response:
        body = read_body(request, known={"id"})
        with transaction.atomic():
            row = _find(body.get("id"), param="id")
            _refuse_config(row)
            name = row.id
            delete_deployment(row)
        return Response({"message": f"Model: {name} deleted successfully"})


class ModelInfo(ManagementView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"litellm_model_id"})
        rows = Deployment.objects.all()
        if "litellm_model_id" in query:
            rows = rows.filter(id=query["litellm_model_id"])
            if not rows:
                raise NotFound("Model not found.", param="litellm_model_id")
        prices = Price.objects.in_bulk([row.price_id for row in rows if row.price_id])
        return Response({"data": [_shown(row, prices.get(row.price_id)) for row in rows]})


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
    capabilities = known(flags if isinstance(flags, dict) else {}, by_name(row.upstream_model))
    costs = {
        # JSON has no decimals: the shortest text of this float is the price, up to 15 digits.
        name: float(Decimal(lines[line])) if line in lines else None
        for name, line in COSTS.items()
        if line in lines or line in {"input", "output"}
    }
    info = {name: _masked(name, value) for name, value in row.model_info.items()}
    own = {
        "id": row.id,
        "db_model": row.source != Deployment.Source.CONFIG,
        "blocked": not row.enabled,
        "capabilities": {name: getattr(capabilities, name) for name in capabilities.__slots__},
        "created_at": instant(row.created_at),
        "updated_at": instant(row.updated_at),
    }
    return {"model_name": row.model_group, "litellm_params": params, "model_info": info | costs | own}


def _answer(row: Deployment, ignored: Mapping[str, str]) -> dict[str, object]:
    """`ignored` tells what was sent and changes nothing here, and why."""
    return {"model_id": row.id, **model_row(row), "ignored": ignored}


def _change(
    row: Deployment,
    *,
    model_name: object,
    params: dict[str, Any],
    info: dict[str, Any],
    is_blocked: bool | None,
) -> dict[str, str]:
    """What was sent is read as an item of its own, with what is needed of the row to make one."""
    sealed = _unseal(row)
    model, chosen = params.get("model"), params.get("custom_llm_provider")
    names_other = model is not None or chosen is not None
    item = dict(params)
    if not names_other:
        item["model"] = f"{row.provider}/{row.upstream_model}"
    elif model is None:
        item["model"] = row.upstream_model
    elif chosen is None and isinstance(model, str) and "/" not in model:
        item["custom_llm_provider"] = chosen = row.provider
    named = chosen if chosen is not None else str(item["model"]).partition("/")[0]
    # Another provider is never sent the address and the credential of the one before.
    is_same = PREFIXES.get(str(named)) is PROVIDERS.get(row.provider)
    if is_same and row.api_base and not {"api_base", "base_url"} & params.keys():
        item["api_base"] = row.api_base
    if is_same and "api_key" in sealed and "api_key" not in params:
        item["api_key"] = sealed["api_key"].reveal()
    kept_headers: set[str] = set()
    if isinstance(params.get("extra_headers"), dict):
        given = params["extra_headers"]
        kept_headers = {name for name, value in given.items() if value is None}
        item["extra_headers"] = {name: value for name, value in given.items() if value is not None}
    entry, ignored = _read_entry(
        {
            "model_name": row.model_group if model_name is None else model_name,
            "litellm_params": item,
            "model_info": info,
        }
    )

    keeps_all_headers = "extra_headers" not in params
    plain = {name: value for name, value in _headers_of(row).items() if keeps_all_headers or name in kept_headers}
    if "organization" in params:
        plain = {name: value for name, value in plain.items() if name.lower() != ORGANIZATION_HEADER}
    parameters = {name: value for name, value in row.parameters.items() if name not in params}
    if not is_same and row.provider in PROVIDERS:
        for name in PROVIDERS[row.provider].own_parameters:
            parameters.pop(name, None)
    parameters |= entry.parameters
    parameters.pop("extra_headers", None)
    headers = plain | dict(entry.parameters.get("extra_headers", {}))
    credential = {
        name: secret
        for name, secret in sealed.items()
        if is_same
        and name not in params
        and (
            keeps_all_headers or not name.startswith(HEADER_PREFIX) or name.removeprefix(HEADER_PREFIX) in kept_headers
        )
    } | dict(entry.credential)
    price = Price.objects.filter(id=row.price_id).first() if row.price_id else None
    sent_lines = {line for name, line in COSTS.items() if name in params or name in info}
    lines = {line: usd for line, usd in (price.lines if price else {}).items() if line not in sent_lines}

    row.model_group = entry.model_group
    row.provider = entry.provider
    row.upstream_model = entry.upstream_model if names_other else row.upstream_model
    row.api_base = entry.api_base
    for name, column in COLUMNS.items():
        if name in params:
            setattr(row, column, getattr(entry, column))
    row.parameters = parameters | ({"extra_headers": headers} if headers else {})
    row.model_info = {**row.model_info, **entry.model_info}
    row.enabled = row.enabled if is_blocked is None else not is_blocked
    # A credential that cannot be opened, or is not changed, stays as it is sealed.
    is_unchanged = credential == sealed
    _save(row, credential=None if is_unchanged else credential, price_lines=lines | dict(entry.price_lines))
    return ignored


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
    entries = read_models(section, Environment({}, findings), findings)
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


def _save(row: Deployment, *, credential: Mapping[str, Secret] | None, price_lines: Mapping[str, str]) -> None:
    plain = None if credential is None else {name: secret.reveal() for name, secret in credential.items()}
    try:
        save_deployment(row, credential=plain, price_lines=dict(price_lines))
    except DeploymentInvalid as error:
        param = error.field if error.field == "model_info" else f"litellm_params.{error.field}"
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
    if is_blocked is None or isinstance(is_blocked, bool):
        return is_blocked
    raise BadRequest("'model_info.blocked' must be true or false.", param="model_info.blocked")


def _changed(sent: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in sent.items()
        if value is not None and not (name in shown and shown[name] == value)
    }


def _unseal(row: Deployment) -> dict[str, Secret]:
    """Empty where the credential cannot be opened: it is then kept as it is, or given anew."""
    try:
        return unseal(context=row.id, sealed=row.credential)
    except CredentialUnusable:
        return {}


def _sealed_names(row: Deployment) -> list[str]:
    return sorted(_unseal(row))


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
    return place.removeprefix(".")[:LONGEST_ECHO]
