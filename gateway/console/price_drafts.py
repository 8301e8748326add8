"""The page of drafts: prices that an import proposes, beside those that they would replace, to accept or reject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Max, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from billing.models import Price
from billing.prices import accept_drafts, find_drafts, find_former, reject_drafts
from gateway.console.price_cells import LineText, describe_line, describe_lines
from gateway.console.set_price import may_set_prices

ROWS = 50  # of a page
MAX_PAGES = 1000
MAX_CHARS = 255


@dataclass(frozen=True, slots=True)
class LineChange:
    """A line of a price: `before` None where it is new, `after` None where the draft has none."""

    key: str
    before: LineText | None
    after: LineText | None


@dataclass(frozen=True, slots=True)
class DraftRow:
    """`changes`: the lines that differ; none where the draft is the price in force."""

    id: str
    provider: str
    model: str
    source: str
    is_new: bool
    changes: Sequence[LineChange]
    same: int


def show_drafts(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """The drafts, by provider and a part of the name; POST decides on one of them or on all that are found."""
    fields = request.POST if request.method == "POST" else request.GET
    query = {name: fields.get(name, "").replace("\0", "").strip()[:MAX_CHARS] for name in ("q", "provider")}
    drafts = find_drafts(provider=query["provider"], model=query["q"])
    if request.method == "POST":
        return _decide(request, query)
    page = _read_page(request.GET.get("page", ""))
    rows = list(drafts.select_related("book")[(page - 1) * ROWS : page * ROWS + 1])
    former = find_former(rows[:ROWS])
    providers = find_drafts().order_by("provider").values_list("provider", flat=True).distinct()
    seen = drafts.aggregate(count=Count("id"), newest=Max("id"))
    context = {
        **site.each_context(request),
        "title": _("Drafts of prices"),
        "rows": [_describe(row, former.get((row.provider, row.model))) for row in rows[:ROWS]],
        "count": seen["count"],
        "newest": seen["newest"] or "",
        **query,
        "providers": providers,
        "previous_page": f"?{urlencode({**query, 'page': page - 1})}" if page > 1 else "",
        "next_page": f"?{urlencode({**query, 'page': page + 1})}" if rows[ROWS:] and page < MAX_PAGES else "",
        "may_set": may_set_prices(request),
    }
    return TemplateResponse(request, "console/price_drafts.html", context)


def _read_page(text: str) -> int:
    return min(max(int(text), 1), MAX_PAGES) if text.isascii() and text.isdigit() and len(text) < 10 else 1


def _decide(request: HttpRequest, query: Mapping[str, str]) -> HttpResponse:
    """`accept` or `reject` is the id of a draft, or `all`: those that the page had found when it was shown."""
    if not may_set_prices(request):
        raise PermissionDenied
    accepted, rejected = (request.POST.get(name, "").replace("\0", "") for name in ("accept", "reject"))
    chosen = accepted or rejected
    place = f"{reverse('admin:price_drafts')}?{urlencode(query)}"
    drafts = _find_seen(request, query) if chosen == "all" else find_drafts().filter(id=chosen)
    if drafts is None:
        messages.warning(request, _("Other drafts have come since the page was shown. Look at them before you decide."))
        return HttpResponseRedirect(place)
    if accepted:
        count = accept_drafts(drafts)
        text = ngettext("%d price is in force now.", "%d prices are in force now.", count)
    else:
        count = reject_drafts(drafts)
        text = ngettext("%d draft is rejected.", "%d drafts are rejected.", count)
    messages.success(request, text % count)
    if chosen == "all" and find_drafts(provider=query["provider"], model=query["q"]).exists():
        messages.warning(request, _("The drafts below have come since the page was shown: they are as they were."))
    return HttpResponseRedirect(place)


def _find_seen(request: HttpRequest, query: Mapping[str, str]) -> QuerySet[Price] | None:
    """The drafts that the page had counted; None where it had fewer: some came from a machine whose clock is behind."""
    newest, count = (request.POST.get(name, "").replace("\0", "") for name in ("newest", "count"))
    drafts = find_drafts(provider=query["provider"], model=query["q"], newest=newest)
    is_count = count.isascii() and count.isdigit() and len(count) < 10
    return drafts if is_count and drafts.count() <= int(count) else None


def _describe(row: Price, former: Mapping[str, str] | None) -> DraftRow:
    before, after = former or {}, row.lines
    keys = [line.key for line in describe_lines({**before, **after}).lines]
    changes = [
        LineChange(
            key,
            describe_line(key, before[key]) if key in before else None,
            describe_line(key, after[key]) if key in after else None,
        )
        for key in keys
        if before.get(key) != after.get(key)
    ]
    source = row.book.title if row.book is not None else ""
    return DraftRow(row.id, row.provider, row.model, source, former is None, changes, len(keys) - len(changes))
