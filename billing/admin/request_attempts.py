"""The attempts of a request under one row: the folded list of spend logs, and the table of attempts.

A page costs one query more than without folding, whatever it lists.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from billing.admin.spend_cells import format_span, mark_estimate, render_cost, render_duration, render_outcome
from billing.attempt_routing import LeftOut, read_routing
from billing.models import SpendLog
from billing.pricing import COUNTS
from billing.rollups import OUTRUN
from gateway.protocol.amounts import usd_exact
from tenants.admin.console import number, timestamp, two_lines
from tenants.permissions import Area
from tenants.session_rights import readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

#: Attempts that are read for one page of requests, and for one request.
MOST_OF_PAGE = 1000
MOST_OF_REQUEST = 100
#: Columns that no list shows.
LARGE = ("usage", "metadata", "tags")
REASONS = {
    "first": _("first choice"),
    "other_deployment": _("another deployment of the group"),
    "fallback": _("a group that stands in"),
    "hedge": _("asked beside one that was slow"),
    "same_deployment": _("the same deployment once more"),
    "without_parameter": _("the same deployment, without what it refused"),
    "continuation": _("goes on with the stream that broke"),
}
#: States that a sum of costs may not hide, the most urgent first.
WITHOUT_SUM = (SpendLog.State.PARKED, SpendLog.State.LOST, SpendLog.State.UNPRICED)


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """A row of the table of attempts. `left_out` continue the sentence "The deployment …"."""

    number: int
    link: str
    is_current: bool
    started: "SafeString | str"
    route: str
    why: "StrOrPromise"
    wait: str
    outcome: SafeString
    upstream: str  # the class of the error and the upstream's own status
    message: str
    took: object
    cost: SafeString
    left_out: Sequence[LeftOut]
    more: int


@dataclass(frozen=True, slots=True)
class FoldedRequest:
    """The attempts of one request, in their order; at least one."""

    attempts: Sequence[SpendLog]

    @property
    def last(self) -> SpendLog:
        """The attempt whose end is the request's: the last one, but not one that another has outrun."""
        return next((log for log in reversed(self.attempts) if log.error_code != OUTRUN), self.attempts[-1])

    @property
    def total(self) -> SpendLog:
        """The last attempt with the tokens and the time of all."""
        if len(self.attempts) == 1:
            return self.last
        total = copy.copy(self.last)
        for column in COUNTS:
            setattr(total, column, sum(getattr(log, column) for log in self.attempts))
        total.started_at = min(log.started_at for log in self.attempts)
        if total.usage_source == "none":
            total.usage_source = next((log.usage_source for log in self.attempts if log.usage_source != "none"), "none")
        return total

    @property
    def has_more_to_tell(self) -> bool:
        return len(self.attempts) > 1 or bool(self.last.routing)

    def render_cost(self) -> SafeString:
        """The sum; where an attempt has no price, that too."""
        if len(self.attempts) == 1:
            return _cost_of(self.last)
        known = [log.cost_pusd for log in self.attempts if log.cost_pusd is not None]
        odd = min(
            (log for log in self.attempts if log.state in WITHOUT_SUM),
            key=lambda log: WITHOUT_SUM.index(SpendLog.State(log.state)),
            default=None,
        )
        if not known:
            return _cost_of(odd or self.last)
        amount = number(usd_exact(sum(known)))
        if odd is not None and odd.cost_pusd is None:
            return two_lines(render_cost(odd), amount)
        estimated = next((log for log in self.attempts if log.cost_pusd and log.usage_source != "provider"), self.last)
        return mark_estimate(estimated, amount)

    def lines(self, current: UUID | None = None) -> list[AttemptLine]:
        return [_line_of(log, is_current=log.pk == current) for log in self.attempts]


def _cost_of(log: SpendLog) -> SafeString:
    cost: SafeString = render_cost(log)
    return cost


def _line_of(log: SpendLog, *, is_current: bool) -> AttemptLine:
    routing = read_routing(log.routing)
    status = f"HTTP {routing.upstream_status}" if routing.upstream_status else ""
    return AttemptLine(
        number=log.attempt + 1,
        link=reverse("admin:billing_spendlog_change", args=[log.pk]),
        is_current=is_current,
        started=timestamp(log.started_at),
        route=f"{log.provider}/{log.upstream_model}",
        why=REASONS.get(routing.reason, "") or (REASONS["first"] if log.attempt == 0 else ""),
        wait=format_span(timedelta(seconds=routing.wait_s)) if routing.wait_s else "",
        outcome=render_outcome(log),
        upstream=" · ".join(part for part in (routing.error_class.replace("_", " "), status) if part),
        message=log.error_message,
        took=render_duration(log),
        cost=render_cost(log),
        left_out=routing.left_out,
        more=routing.more,
    )


def fold(request: HttpRequest, logs: Sequence[SpendLog]) -> list[FoldedRequest]:
    """The requests of these rows, in their order, with all their attempts: one query."""
    rows = readable_rows(request, Area.SPEND, SpendLog.objects.all()).defer(*LARGE)
    found = rows.filter(request_id__in=[log.request_id for log in logs]).order_by("request_id", "attempt")
    attempts: dict[UUID, list[SpendLog]] = defaultdict(list)
    for log in found[:MOST_OF_PAGE] if logs else ():
        attempts[log.request_id].append(log)
    return [FoldedRequest(attempts.get(log.request_id) or [log]) for log in logs]


def fold_one(request: HttpRequest, log: SpendLog) -> FoldedRequest:
    rows = readable_rows(request, Area.SPEND, SpendLog.objects.all()).defer(*LARGE)
    found = list(rows.filter(request_id=log.request_id).order_by("attempt")[:MOST_OF_REQUEST])
    return FoldedRequest(found or [log])


def folded(log: SpendLog) -> FoldedRequest:
    """The request of a row of a FoldedChangeList."""
    request: FoldedRequest = vars(log).get("folded_request") or FoldedRequest([log])
    return request
