"""The console's list of spend logs: one row for each request, page after page without an end, and without a count."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from unfold.views import ChangeList

from billing.admin.log_filters import FORMER_NAMES, CountedFilter, KeyFilter, SpanFilter, TeamFilter, WithoutFilter
from billing.admin.request_attempts import LARGE, fold
from billing.log_search import LogPage, LogSearch, find_page
from billing.models import SpendLog
from billing.rest.spend_logs import match_request
from gateway.protocol.errors import BadRequest
from tenants.admin.console import InfinitePaginator
from tenants.rest.fields import read_instant
from tenants.session_rights import caller_of

AFTER = "after"
NOT_COLUMNS = frozenset({"when", "status", "tag", "from", "before", "without", "counted"})


class LogChangeList(ChangeList):
    """A list with one row for each request that has an attempt which the filters match. The row stands for the whole
    request, and leads to its last attempt."""

    result_list: Sequence[SpendLog]

    def get_filters_params(self, params: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = super().get_filters_params(params)
        found.pop(AFTER, None)
        return {FORMER_NAMES.get(name, name): value for name, value in found.items()}

    def get_query_string(self, new_params: Mapping[str, Any] | None = None, remove: Sequence[str] | None = None) -> str:
        """Without the place in the list: other filters begin with the newest rows."""
        text: str = super().get_query_string(new_params, [*(remove or ()), AFTER])
        return text

    def get_queryset(self, request: HttpRequest, exclude_parameters: Sequence[str] | None = None) -> QuerySet[SpendLog]:
        specs, has_filters, unknown, _, has_active = self.get_filters(request)
        if unknown:
            raise IncorrectLookupParameters(f"unknown filters: {', '.join(unknown)}")
        self.filter_specs, self.has_filters, self.has_active_filters = specs, has_filters, has_active
        self.clear_all_filters_qs = self.get_query_string(remove=list(self.filter_params))
        rows: QuerySet[SpendLog] = self.root_queryset
        return rows

    def read_search(self, request: HttpRequest) -> LogSearch:
        """The conditions of the filters and of the search field."""
        texts = {spec.parameter_name: str(spec.value()) for spec in self.filter_specs if spec.value() not in (None, "")}
        equal: dict[str, Sequence[str]] = {name: [texts[name]] for name in texts if name not in NOT_COLUMNS}
        start, without, counted = None, list[str](), ""
        for spec in self.filter_specs:
            if isinstance(spec, KeyFilter | TeamFilter) and spec.parameter_name in texts:
                equal[spec.parameter_name] = spec.values(request)
            if isinstance(spec, SpanFilter):
                start = spec.start()
            if isinstance(spec, WithoutFilter):
                without = spec.names()
            if isinstance(spec, CountedFilter):
                counted = spec.counted()
        equal |= {name: [""] for name in without if name != "tag"}
        term = self.query.strip().removeprefix("req_")
        since = _read_instant(texts, "from")
        return LogSearch(
            equal=equal,
            request=_match_id(term) if term else None,
            tag=texts.get("tag", ""),
            status=texts.get("status", ""),
            starts_at=max((each for each in (start, since) if each is not None), default=None),
            ends_before=_read_instant(texts, "before"),
            counted=counted,
            is_untagged="tag" in without,
        )

    def get_results(self, request: HttpRequest) -> None:
        caller, after = caller_of(request), _read_place(request.GET.get(AFTER, ""))
        if any("\0" in text for text in request.GET.values()):
            raise IncorrectLookupParameters("a filter has a NUL character")
        page = LogPage([], None)
        if caller is not None:
            page = find_page(
                caller, self.queryset, self.read_search(request), size=self.list_per_page, after=after, is_folded=True
            )
        logs = list(self.queryset.filter(pk__in=page.ids).defer(*LARGE).order_by("-id"))
        self.result_list = self._fold(request, logs)
        self.newest_link = self.get_query_string() if after is not None else ""
        self.older_link = self.get_query_string({AFTER: page.next_after}) if page.next_after is not None else ""
        self.paginator = InfinitePaginator(self.result_list, self.list_per_page)
        self.paginator.template_name = "console/older_rows.html"
        self.result_count = len(logs)
        self.full_result_count, self.show_full_result_count, self.show_admin_actions = None, False, False
        self.can_show_all, self.multi_page = False, True

    def _fold(self, request: HttpRequest, logs: Sequence[SpendLog]) -> list[SpendLog]:
        requests = fold(request, logs)
        for one in requests:
            vars(one.last)["folded_request"] = one
            vars(one.last)["attempt_lines"] = one.lines() if one.has_more_to_tell else []
        return [one.last for one in requests]


def _match_id(text: str) -> Q:
    """The rows with this request id, upstream id or id of their own: one look-up in an index each."""
    try:
        return match_request(text) | Q(id=UUID(text))
    except ValueError:
        return match_request(text)


def _read_instant(texts: Mapping[str, str], name: str) -> datetime | None:
    try:
        return read_instant(texts, name, time.min).astimezone(UTC) if name in texts else None
    except BadRequest as error:
        raise IncorrectLookupParameters(error.message) from None


def _read_place(text: str) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise IncorrectLookupParameters("the place in the list is no id") from None
