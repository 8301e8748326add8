"""The spend of deleted rows, beside that of the rows that stand: both together are what the ledger's sums must be."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from django.db import connection
from django.db.models import F, QuerySet

from billing.counted_rows import sum_halves
from billing.models import RetiredSpend
from gateway.state import sql

_JOINED = (
    "SELECT organization_id, scope_id, SUM(cost_high), SUM(cost_low) FROM ({rows} UNION ALL {retired}) AS sums "
    "GROUP BY organization_id, scope_id"
)
FETCHED_ROWS = 500


def with_retired(rows: QuerySet[Any, Any]) -> Iterator[Mapping[str, Any]]:
    """The sums of end users by rows, with those of the deleted ones. `rows`: values of organization_id, scope_id,
    cost_high and cost_low. The database joins them: there may be more end users than memory has room for."""
    retired = RetiredSpend.objects.filter(kind=RetiredSpend.Kind.END_USER).annotate(scope_id=F("holder")).order_by()
    names = ("organization_id", "scope_id", "cost_high", "cost_low")
    halves = retired.values("organization_id", "scope_id").annotate(**sum_halves(F("pusd")))
    if not retired.exists():
        yield from rows.values(*names).iterator(chunk_size=FETCHED_ROWS)
        return
    row_text, row_parameters = rows.values(*names).query.sql_with_params()
    retired_text, retired_parameters = halves.values(*names).query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(sql.fill(_JOINED, rows=row_text, retired=retired_text), [*row_parameters, *retired_parameters])
        while found := cursor.fetchmany(FETCHED_ROWS):
            yield from (dict(zip(names, row, strict=True)) for row in found)


def retired_of_windows(ids: Collection[str]) -> list[tuple[str, int]]:
    rows = RetiredSpend.objects.filter(kind=RetiredSpend.Kind.WINDOW, holder__in=ids)
    return list(rows.values_list("holder", "pusd"))
