"""The page of contracts: what organizations pay for models of the catalogue, from when on, and the end of one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from billing.contracts import end_contract
from billing.models import Price
from billing.price_terms import has_begun
from gateway.console.price_cells import describe_lines
from gateway.console.price_list import MAX_CHARS, link_repricing
from gateway.console.set_price import may_set_prices
from tenants.admin.console import badge, timestamp

PLACES = 50  # of a page: (organization, provider, model)
VERSIONS = 10  # of each, those that begin last
MAX_PAGES = 1000


@dataclass(frozen=True, slots=True)
class ContractRow:
    """A version of a contract. `model` empty: for all models of the provider. `end`: the address that asks whether to
    end it; empty for its later versions, which end with it."""

    organization_id: str
    provider: str
    model: str
    terms: object
    begins: object
    state: SafeString
    versions: str
    end: str


def show_contracts(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The contracts; POST ends the one of `price`, with all of its versions. `since`: an instant of the past, from
    which on calls of `provider` may be priced again."""
    if request.method == "POST":
        return _end(request)
    page = _read_page(request.GET.get("page", ""))
    keys = list(_find_places()[(page - 1) * PLACES : page * PLACES + 1])
    ending = _find_contract(request.GET.get("end", ""))
    provider, since = (request.GET.get(name, "")[:MAX_CHARS] for name in ("provider", "since"))
    context = {
        **site.each_context(request),
        "title": _("Contracts"),
        "rows": _describe(keys[:PLACES]),
        "ending": ending,
        "ending_name": f"{ending.provider}/{ending.model or '*'}" if ending is not None else "",
        "previous_page": f"?page={page - 1}" if page > 1 else "",
        "next_page": f"?page={page + 1}" if keys[PLACES:] and page < MAX_PAGES else "",
        "may_set": may_set_prices(request),
        "since": since,
        "repricing": link_repricing(provider, "", since) if may_set_prices(request) else [],
    }
    return TemplateResponse(request, "console/contracts.html", context)


def _read_page(text: str) -> int:
    return min(max(int(text), 1), MAX_PAGES) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _end(request: HttpRequest) -> HttpResponse:
    if not may_set_prices(request):
        raise PermissionDenied
    row = _find_contract(request.POST.get("price", ""))
    if row is None:
        messages.warning(request, _("There is no such contract any more."))
    else:
        count = end_contract(row.organization_id, row.provider, row.model)
        text = ngettext("The contract has ended: %d version.", "The contract has ended: %d versions.", count)
        messages.success(request, text % count)
    return HttpResponseRedirect(reverse("admin:contracts"))


def _active() -> QuerySet[Price]:
    return Price.objects.filter(origin=Price.Origin.CONTRACT, status=Price.Status.ACTIVE)


def _find_contract(price_id: str) -> Price | None:
    return _active().filter(id=price_id).first() if price_id and "\0" not in price_id else None


def _find_places() -> QuerySet[Price, tuple[str, str, str]]:
    """The contracts, without those of the single models that one for all models of the provider has made."""
    everything = _active().filter(
        model="",
        organization_id=OuterRef("organization_id"),
        provider=OuterRef("provider"),
        percent=OuterRef("percent"),
    )
    rows = _active().exclude(~Q(model="") & Exists(everything))
    names = ("organization_id", "provider", "model")
    return rows.order_by(*names).values_list(*names).distinct()


def _describe(places: Sequence[tuple[str, str, str]]) -> list[ContractRow]:
    found: dict[tuple[str, str, str], list[Price]] = {place: [] for place in places}
    rows = _active().filter(
        organization_id__in={place[0] for place in places},
        provider__in={place[1] for place in places},
        model__in={place[2] for place in places},
    )
    latest = (F("effective_from").desc(nulls_last=True), F("id").desc())
    number = Window(RowNumber(), partition_by=("organization_id", "provider", "model"), order_by=latest)
    for row in rows.annotate(number=number).filter(number__lte=VERSIONS).order_by(*latest):
        found.get((row.organization_id, row.provider, row.model), []).append(row)
    return [text for versions in found.values() for text in _describe_one(versions)]


def _describe_one(versions: Iterable[Price]) -> list[ContractRow]:
    """The version in force, and those that begin later."""
    now = timezone.now()
    later = [row for row in versions if not has_begun(row, now)]
    begun = [row for row in versions if has_begun(row, now)]
    current = max(
        begun, key=lambda row: (row.effective_from is not None, row.effective_from or now, row.id), default=None
    )
    shown = [*([current] if current is not None else []), *reversed(later)]
    return [_describe_version(row, is_first=place == 0, is_later=row is not current) for place, row in enumerate(shown)]


def _describe_version(row: Price, *, is_first: bool, is_later: bool) -> ContractRow:
    place = {"provider": row.provider, "model": row.model, "region": row.region}
    return ContractRow(
        row.organization_id,
        row.provider,
        row.model,
        _("the catalogue's price %s %%") % _signed(row.percent) if row.percent else describe_lines(row.lines).summary,
        timestamp(row.effective_from, is_complete=True) if row.effective_from is not None else _("always"),
        badge("info", _("later")) if is_later else badge("success", _("in force")),
        f"{reverse('admin:price_versions')}?{urlencode(place)}" if row.model else "",
        f"?{urlencode({'end': row.id})}" if is_first else "",
    )


def _signed(percent: str) -> str:
    return f"− {percent[1:]}" if percent.startswith("-") else f"+ {percent}"
