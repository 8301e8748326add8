"""Loads the deployments of a config.yaml into the database. Many replicas may do it at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection
from django.db.models import Q
from django_scopes import scopes_disabled

from billing.models import Price
from billing.own_prices import end_versions, find_dated
from gateway.config.examination import Config
from gateway.config.model_list import DeploymentEntry
from gateway.config.report import ConfigInvalid, Problem
from gateway.deployments import DeploymentInvalid, delete_deployment, read_budgets, save_deployment
from gateway.models import Deployment, RouterSettings
from gateway.models.encryption import CredentialUnusable, unseal
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.stores.router_settings import save_router_settings
from tenants.budget_templates import update_template
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate
from tenants.revision import write_transaction

#: The number of this module's advisory lock in PostgreSQL.
LOCK = 0x70_6C_6C_67_61_74_65
#: The fields that Deployment and DeploymentEntry share.
FIELDS = (
    *("model_group", "provider", "upstream_model", "api_base", "parameters", "model_info"),
    *("weight", "order", "rpm", "tpm", "max_parallel", *TIMEOUTS),
)


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """Ids of deployments. A file that is loaded again without a change leaves all of them `unchanged`."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]


def load_config(config: Config) -> LoadSummary:
    """Store the deployments of the file and remove those that came from a file and are not in this one.

    The load is one transaction. Replicas take turns; the later ones find nothing to change. Deployments
    of other sources are not touched. Raises ConfigInvalid and then changes nothing.
    """
    with scopes_disabled(), write_transaction():
        # SQLite needs no lock here, because its transactions begin IMMEDIATE.
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        _bind_end_users(config.end_user_budget_id)
        summary = _load(sorted(config.deployments, key=lambda entry: entry.id))
        # A file without them leaves the console's own
        if config.router_settings or not RouterSettings.objects.filter(source=RouterSettings.Source.CONSOLE).exists():
            save_router_settings(config.router_settings, RouterSettings.Source.CONFIG)
        return summary


def _bind_end_users(budget_id: str) -> None:
    """Makes this template of the default organization the one of end users without a budget of their own. A file that
    names none leaves it as it is."""
    if not budget_id:
        return
    template = BudgetTemplate.objects.filter(organization_id=DEFAULT_ORGANIZATION, id=budget_id).first()
    if template is None:
        message = (
            f"the default organization has no budget {budget_id!r}: without it end users would have no limit. Start "
            "without this key, make the budget with /budget/new, and start again"
        )
        raise ConfigInvalid(Problem("litellm_settings.max_end_user_budget_id", message))
    if not template.is_end_user_default:
        update_template(template, limits={}, is_end_user_default=True)


def _load(entries: list[DeploymentEntry]) -> LoadSummary:
    ids = [entry.id for entry in entries]
    # All rows that may change are locked first, in one order, so that no two replicas wait for each other.
    rows = {
        row.id: row
        for row in Deployment.objects.select_for_update()
        .filter(Q(source=Deployment.Source.CONFIG) | Q(id__in=ids))
        .order_by("id")
    }
    _refuse_foreign(entries, rows)
    prices = Price.objects.in_bulk([row.price_id for row in rows.values() if row.price_id])
    dated = find_dated()
    budgets = read_budgets(rows.values())
    created: list[str] = []
    changed: list[str] = []
    unchanged: list[str] = []
    for entry in entries:
        row = rows.pop(entry.id, None)
        if row is None:
            _save(entry, Deployment(id=entry.id, source=Deployment.Source.CONFIG), is_set_apart=False)
            created.append(entry.id)
            continue
        price = prices.get(row.price_id)
        has_credential = _credential_of(row) == entry.credential
        is_dated = entry.id in dated
        is_set_apart = not entry.price_lines and (is_dated or _is_set(price))
        has_price = is_set_apart or (not is_dated and (price.lines if price else {}) == entry.price_lines)
        has_fields = all(getattr(row, name) == value for name, value in _fields_of(entry).items())
        if has_credential and has_price and has_fields and budgets[row.id] == entry.budget:
            unchanged.append(entry.id)
            continue
        _save(entry, row, is_set_apart=is_set_apart)
        changed.append(entry.id)
    for row in rows.values():
        delete_deployment(row)
    return LoadSummary(tuple(created), tuple(changed), tuple(rows), tuple(unchanged))


def _refuse_foreign(entries: list[DeploymentEntry], rows: Mapping[str, Deployment]) -> None:
    problems = []
    for entry in entries:
        row = rows.get(entry.id)
        if row is not None and row.source != Deployment.Source.CONFIG:
            message = f"is the id of a deployment of another source ({Deployment.Source(row.source).label})"
            problems.append(Problem(f"{entry.place}.model_info.id", message))
    if problems:
        raise ConfigInvalid(*problems)


def _fields_of(entry: DeploymentEntry) -> dict[str, object]:
    shared_by_all = {"organization_id": None}
    return shared_by_all | {name: getattr(entry, name) for name in FIELDS}


def _credential_of(row: Deployment) -> object:
    """The credential; None if it cannot be opened. The file's credential then replaces it."""
    try:
        return unseal(context=row.id, sealed=row.credential)
    except CredentialUnusable:
        return None


def _is_set(price: Price | None) -> bool:
    return price is not None and price.origin == Price.Origin.SET


def _save(entry: DeploymentEntry, row: Deployment, *, is_set_apart: bool) -> None:
    """`is_set_apart`: the file has no price, and the deployment has one by `prices set`, which stays."""
    for name, value in _fields_of(entry).items():
        setattr(row, name, value)
    credential = {name: secret.reveal() for name, secret in entry.credential.items()}
    if entry.price_lines:  # which have no date
        end_versions([row.id])
    try:
        save_deployment(
            row,
            credential=credential,
            price_lines=None if is_set_apart else dict(entry.price_lines),
            budget=entry.budget,
            keep_foreign_seals=True,
        )
    except DeploymentInvalid as error:
        key = "model" if error.param == "provider" else error.param
        raise ConfigInvalid(Problem(f"{entry.place}.litellm_params.{key}", error.message)) from None
