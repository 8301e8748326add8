"""The pages of the price catalogue: the prices in force, and all versions of the price of one model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.models import Price
from billing.prices import Schedule, list_prices
from gateway.console.price_cells import PriceText, describe_lines
from gateway.console.set_price import may_set_prices
from gateway.models import Deployment
from gateway.stores.deployment_prices import find_deployments_of, own_prices_of
from tenants.admin.console import badge, timestamp
from tenants.permissions import Area, Reach
from tenants.session_rights import caller_of, reach_of_user, readable_rows

ROWS = 50  # of a page
MAX_PAGES = 1000
VERSIONS = 100  # of one model
GROUPS = 50  # whose calls may be priced again
MAX_CHARS = 255
ORIGINS = {
    Price.Origin.BOOK: _("price book"),
    Price.Origin.CONTRACT: _("contract"),
    Price.Origin.SET: _("set"),
    Price.Origin.DEPLOYMENT: _("deployment"),
}


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A version of a price. `organization_id`: whose contract it is; empty for the catalogue's."""

    provider: str
    model: str
    region: str
    organization_id: str
    price: PriceText
    source: object
    begins: object
    state: SafeString | str
    versions: str  # the address of all versions


def may_list_prices(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.PRICES) > Reach.NONE


def show_prices(site: AdminSite, request: HttpRequest) -> HttpResponse:
    model, provider = (request.GET.get(name, "").replace("\0", "").strip()[:MAX_CHARS] for name in ("q", "provider"))
    page = _read_page(request.GET.get("page", ""))
    sees_all, own = _find_organization(request)
    rows, has_more = list_prices(
        provider=provider, model=model, organization_id=None if sees_all else "", first=(page - 1) * ROWS, most=ROWS
    )
    contracts = list_prices(provider=provider, model=model, organization_id=own, most=ROWS)[0] if own else []
    known = Price.objects.filter(deployment_id="", status=Price.Status.ACTIVE).exclude(model="")
    query = {"q": model, "provider": provider}
    context = {
        **site.each_context(request),
        "title": _("Prices"),
        "rows": _describe([*contracts, *rows] if page == 1 else rows),
        "q": model,
        "provider": provider,
        "providers": known.order_by("provider").values_list("provider", flat=True).distinct(),
        "previous_page": f"?{urlencode({**query, 'page': page - 1})}" if page > 1 else "",
        "next_page": f"?{urlencode({**query, 'page': page + 1})}" if has_more and page < MAX_PAGES else "",
        "may_set": may_set_prices(request),
        "may_see": sees_all,
    }
    return TemplateResponse(request, "console/price_list.html", context)


def show_versions(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """All versions of the price of `provider` and `model` in `region`, the newest first; with `deployment` those of its
    own price. `since`: an instant of the past, from which on calls may be priced again."""
    if request.GET.get("deployment"):
        return _show_own_versions(site, request)
    names = {name: request.GET.get(name, "")[:MAX_CHARS] for name in ("provider", "model", "region")}
    rows = _find_versions(request).filter(**names).order_by("-id")[:VERSIONS]
    versions = list(rows) if names["model"] and "\0" not in "".join(names.values()) else []
    base_model = f"{names['provider']}/{names['model']}"
    since = request.GET.get("since", "")[:MAX_CHARS]
    context = {
        **site.each_context(request),
        "title": _("Versions of a price"),
        "since": since,
        "repricing": link_repricing(names["provider"], names["model"], since) if may_set_prices(request) else [],
        "name": base_model,
        "region": names["region"],
        "rows": _describe(versions, in_force=_find_in_force(versions, timezone.now())),
        "may_set": may_set_prices(request),
        "set_link": f"{reverse('admin:set_price')}?{urlencode({'base_model': base_model})}",
    }
    return TemplateResponse(request, "console/price_versions.html", context, status=200 if versions else 404)


def _show_own_versions(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The prices that one deployment had of its own."""
    deployment_id = request.GET["deployment"].replace("\0", "")[:MAX_CHARS]
    row = readable_rows(request, Area.MODELS, Deployment.objects.filter(pk=deployment_id)).first()
    versions = list(Price.objects.filter(deployment_id=deployment_id).order_by("-id")[:VERSIONS]) if row else []
    context = {
        **site.each_context(request),
        "title": _("Versions of a price"),
        "name": f"{row.model_group} → {row.provider}/{row.upstream_model}" if row is not None else deployment_id,
        "rows": _describe(
            versions,
            in_force={own_prices_of([row])[row.id].find(timezone.now()).price_id} if row is not None else set(),
        ),
        "is_own": True,
        "may_set": may_set_prices(request),
        "set_link": f"{reverse('admin:set_price')}?{urlencode({'model': deployment_id})}",
    }
    return TemplateResponse(request, "console/price_versions.html", context, status=200 if versions else 404)


def link_repricing(provider: str, model: str, since: str) -> list[tuple[str, str]]:
    """(Model group, address of the preview) of the groups whose calls may have this price; without a model, that of any
    model of the provider. None without an instant."""
    if not since or "\0" in since:
        return []
    groups = dict.fromkeys(row.model_group for row in find_deployments_of(provider, model))
    page = reverse("admin:new_reprice_job")
    return [
        (group, f"{page}?{urlencode({'model': group, 'rows': 'since', 'since': since})}")
        for group in list(groups)[:GROUPS]
    ]


def _read_page(text: str) -> int:
    return min(max(int(text), 1), MAX_PAGES) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _find_organization(request: HttpRequest) -> tuple[bool, str]:
    """True for who sees the contracts of all organizations; else the user's own organization."""
    caller = caller_of(request)
    if reach_of_user(request, Area.SETTINGS) >= Reach.PLATFORM or caller is None:
        return caller is not None, ""
    return False, caller.organization_id or ""


def _find_versions(request: HttpRequest) -> QuerySet[Price]:
    """The versions of the catalogue, and those of the contracts that the user may read."""
    sees_all, own = _find_organization(request)
    rows = Price.objects.filter(deployment_id="").select_related("book")
    return rows if sees_all else rows.filter(organization_id__in={"", own}, status=Price.Status.ACTIVE)


def _find_in_force(versions: Sequence[Price], now: datetime) -> set[str]:
    """The ids of the versions that calls have now: one for all, and one for each contract."""
    active = tuple(row for row in versions if row.status == Price.Status.ACTIVE)
    found = Schedule(active).find(now)
    return {found.price_id, *found.contracts.values()}


def _describe(rows: Iterable[Price], in_force: set[str] | None = None) -> list[PriceRow]:
    """`in_force`: the ids of the versions in force; None where all are."""
    link = reverse("admin:price_versions")
    return [
        PriceRow(
            row.provider,
            row.model,
            row.region,
            row.organization_id,
            describe_lines(row.lines),
            row.book.title if in_force is not None and row.book is not None else ORIGINS[Price.Origin(row.origin)],
            timestamp(begin, is_complete=in_force is not None)
            if (begin := _find_begin(row)) is not None
            else _("always"),
            _render_state(row, in_force) if in_force is not None else "",
            f"{link}?{urlencode({'provider': row.provider, 'model': row.model, 'region': row.region})}",
        )
        for row in rows
    ]


def _find_begin(row: Price) -> datetime | None:
    """None for a price of all time. A deployment has a price of its own without a date from the moment at which it was
    set."""
    return row.created_at if row.deployment_id and row.effective_from is None else row.effective_from


def _render_state(row: Price, in_force: set[str]) -> SafeString:
    if row.status != Price.Status.ACTIVE:
        return badge("neutral", _("draft") if row.status == Price.Status.DRAFT else _("retired"))
    if row.id in in_force:
        return badge("success", _("in force"))
    if row.effective_from is not None and row.effective_from > timezone.now():
        return badge("info", _("later"))
    return badge("neutral", _("former"))
