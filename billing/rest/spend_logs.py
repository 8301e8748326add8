"""GET /spend/logs: spend logs under LiteLLM's names, with the exact cost beside the JSON number."""

import contextlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, time, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet
from django.db.models.functions import Length
from rest_framework.request import Request
from rest_framework.response import Response

from billing.call_context import make_context
from billing.ledger import RESPONSE
from billing.log_search import LogSearch, find_page
from billing.models import Price, SpendLog, UsageSeries
from billing.pricing import COUNTS, PriceLines, cache_saving
from billing.reports.guard import guard_report
from billing.rest.rows_renderer import RowsRenderer
from billing.rest.spend_summary import summarize
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.call import Finish, Operation
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.body import MAX_DEPTH
from gateway.protocol.json.types import Json
from tenants.keys import find_digests
from tenants.permissions import Area, Reach, visible_rows
from tenants.rest.authentication import caller_of
from tenants.rest.client_departure import departure_of
from tenants.rest.fields import read_count, read_instant, read_query, read_query_flag, render_instant
from tenants.rest.views import ManagementView

CALL_TYPES: Mapping[str, str] = {
    Operation.CHAT: "acompletion",
    Operation.COMPLETION: "atext_completion",
    Operation.EMBEDDING: "aembedding",
    RESPONSE: "aresponses",
}


MAX_ANSWER_BYTES = 8 * 1024 * 1024  # of the texts of rows, as they are stored
TEXTS = Length("metadata") + Length("tags") + Length("usage") + Length("error_message")
ROW_BYTES = 1024  # of the other fields
SIZES_AT_ONCE = 1000
SCOPES = ("user_id", "team_id")  # parameters that are columns of a row
NEXT = "x-tollgate-next-after"


class SpendLogs(ManagementView):
    """The newest rows first. Where more rows follow, a header holds the `after` of the next page."""

    area = Area.SPEND
    least_reach = Reach.OWN
    renderer_classes = [RowsRenderer]

    def get(self, request: Request) -> Response:
        query = read_query(
            request,
            known={
                "api_key",
                "request_id",
                "user_id",
                "team_id",
                "start_date",
                "end_date",
                "limit",
                "after",
                "summarize",
            },
        )
        limit = read_count(query, "limit", default=1000, maximum=10_000)
        rows: QuerySet[SpendLog] = visible_rows(caller_of(request), self.area, SpendLog.objects.all())
        search = _read_search(query)
        if read_query_flag(query, "summarize"):
            with guard_report(caller_of(request).organization_id, departure_of(request)):
                return Response(summarize(search.filter(rows), self._find_series(query), query))
        after = _read_cursor(query["after"]) if "after" in query else None
        page = find_page(caller_of(request), rows, search, size=limit, after=after)
        ids = _select_fitting(_read_sizes(rows, page.ids))
        fitting = list(rows.filter(id__in=ids).order_by("-id"))
        next_after = ids[-1] if len(ids) < len(page.ids) else page.next_after
        return Response(
            render_rows(fitting),
            headers={NEXT: str(next_after)} if next_after is not None else None,
        )

    def _find_series(self, query: Mapping[str, str]) -> QuerySet[UsageSeries] | None:
        """The series of the rollups that a summary reads; None where a parameter chooses rows by what no series has."""
        if not {"api_key", "request_id"}.isdisjoint(query):
            return None
        return self.rows(UsageSeries.objects.filter(**{name: query[name] for name in SCOPES if name in query}))


def _read_search(query: Mapping[str, str]) -> LogSearch:
    equal: dict[str, Sequence[str]] = {column: [query[column]] for column in SCOPES if column in query}
    if "api_key" in query:
        equal["key_digest"] = sorted(find_digests(query["api_key"]))
    end = read_instant(query, "end_date", time.max) if "end_date" in query else None
    return LogSearch(
        equal=equal,
        request=match_request(query["request_id"]) if "request_id" in query else None,
        starts_at=read_instant(query, "start_date", time.min) if "start_date" in query else None,
        ends_before=None if end is None else _after(end),
    )


def _after(instant: datetime) -> datetime:
    """The next instant: the end of this interface is part of its span."""
    try:
        return instant + timedelta(microseconds=1)
    except OverflowError:
        return instant


def render_rows(rows: Sequence[SpendLog]) -> list[dict[str, object]]:
    prices = _find_prices({row.price_id for row in rows if row.price_id and _is_cached(row)})
    return [render_spend_log(row, prices.get(row.price_id)) for row in rows]


def _is_cached(row: SpendLog) -> bool:
    return bool(row.cache_read_tokens or row.cache_write_5m_tokens or row.cache_write_1h_tokens)


def _find_prices(ids: Collection[str]) -> Mapping[str, PriceLines]:
    """Without a price that cannot be read: its row says so."""
    prices: dict[str, PriceLines] = {}
    for price in Price.objects.filter(id__in=ids) if ids else ():
        with contextlib.suppress(ValueError):
            prices[price.id] = PriceLines.read(price.lines)
    return prices


def render_spend_log(row: SpendLog, price: PriceLines | None) -> dict[str, object]:
    """A row in the shape of LiteLLM's /spend/logs, followed by fields that LiteLLM does not have. `price` is that of a
    row with cached tokens."""
    context = make_context(row.service_tier, row.started_at, row.ended_at, None)
    saving = cache_saving([getattr(row, column) for column in COUNTS], price, context)
    prompt = (
        row.input_tokens
        + row.input_audio_tokens
        + row.cache_read_tokens
        + row.cache_write_5m_tokens
        + row.cache_write_1h_tokens
    )
    completion = row.output_tokens + row.output_audio_tokens + row.reasoning_tokens
    tags = read_json(row.tags)
    return {
        "request_id": str(row.request_id),
        "call_type": CALL_TYPES.get(row.operation, row.operation),
        "api_key": row.key_digest,
        "spend": 0.0 if row.cost_pusd is None else row.cost_pusd / PUSD,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "startTime": render_instant(row.started_at),
        "endTime": render_instant(row.ended_at),
        "completionStartTime": render_instant(row.first_token_at),
        "model": f"{row.provider}/{row.upstream_model}",
        "model_id": row.deployment_id,
        "model_group": row.model_group,
        "custom_llm_provider": row.provider,
        "user": row.user_id,
        "team_id": row.team_id,
        "organization_id": row.organization_id,
        "end_user": row.end_user,
        "request_tags": tags if isinstance(tags, list) else [],
        "metadata": _metadata(row),
        "cache_hit": str(row.cache_hit),
        "status": _status(row),
        "cost": None if row.cost_pusd is None else usd_text(row.cost_pusd),
        "cost_status": row.state,
        "price_note": row.price_error,
        "cache_saving": None if saving is None else usd_text(saving),
        "usage_estimated": row.usage_source in ("estimated", "partial"),
        "usage_source": row.usage_source,
        "upstream_id": row.upstream_id,
        "attempt": row.attempt,
        "source": row.source or "client",
    }


def _status(row: SpendLog) -> str:
    if row.state == SpendLog.State.OPEN:
        return "pending"
    is_failure = row.error_code or row.status_code != 200 or row.finish != Finish.COMPLETE
    return "failure" if is_failure else "success"


def _metadata(row: SpendLog) -> dict[str, object]:
    """The client's metadata with LiteLLM's own fields, which replace fields of the client."""
    own = read_json(row.metadata)
    metadata: dict[str, object] = dict(own) if isinstance(own, dict) else {}
    metadata["user_api_key_alias"] = row.key_alias or None
    metadata["usage_object"] = read_json(row.usage) if row.usage else None
    if row.error_code:
        metadata["error_information"] = {
            "error_code": str(row.status_code),
            "error_class": row.error_code,
            "error_message": row.error_message,
        }
    return metadata


def _read_cursor(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(f"'after' must be what the header {NEXT} of the page before says.", param="after") from None


def _read_sizes(rows: QuerySet[SpendLog], ids: Sequence[UUID]) -> list[tuple[UUID, int]]:
    """Row and length of its texts, in the order of `ids`, as far as they may fit one answer."""
    sizes: list[tuple[UUID, int]] = []
    for start in range(0, len(ids), SIZES_AT_ONCE):
        part = rows.filter(id__in=ids[start : start + SIZES_AT_ONCE]).order_by("-id").values_list("id", TEXTS)
        sizes += part
        if sum(size for _, size in sizes) > MAX_ANSWER_BYTES:
            break
    return sizes


def _select_fitting(sizes: Sequence[tuple[UUID, int]]) -> list[UUID]:
    """The first rows whose texts fit one answer, and the first one in any case."""
    total = 0
    ids: list[UUID] = []
    for row_id, size in sizes:
        total += size + ROW_BYTES
        if ids and total > MAX_ANSWER_BYTES:
            break
        ids.append(row_id)
    return ids


def match_request(text: str) -> Q:
    """The rows with this request id or upstream id."""
    try:
        return Q(request_id=UUID(text)) | SpendLog.match_upstream_id(text)
    except ValueError:
        return SpendLog.match_upstream_id(text)


def read_json(text: str) -> object:
    """The JSON value of a column, or its text if JSON cannot represent it again. Some of it comes from providers."""
    try:
        value = json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return text
    return value if _is_renderable(value, MAX_DEPTH) else text


def _is_renderable(value: Json, levels: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return levels > 0 and all(
            _is_renderable(key, levels) and _is_renderable(item, levels - 1) for key, item in value.items()
        )
    if isinstance(value, list):
        return levels > 0 and all(_is_renderable(item, levels - 1) for item in value)
    return True
