"""Rows of the spend log that PostgreSQL makes by itself: tens of thousands a second, where Python makes a few.

They are like those of `log_pages.make_rows`: most of common callers, and in the first hundredth some of callers that
ended long ago, which is what misleads a planner. Of 2,000 keys in 50 teams each calls up to four of 20 models.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import connection

from billing.latency import BOUNDS_MS, SLOTS
from billing.rollups import MEASURES

PART = 250_000
USAGE = '{"prompt_tokens": 1200, "completion_tokens": 180, "prompt_tokens_details": {"cached_tokens": 400}}'
#: Column → expression over the columns of `_DRAWS`.
_VALUES = {
    "id": "({id})::uuid",
    "request_id": "({request_id})::uuid",
    "attempt": "0",
    "state": "CASE WHEN draw > 0.999 THEN 'unpriced' WHEN draw > 0.9988 THEN 'lost' ELSE 'priced' END",
    "writer_id": "'w'",
    "organization_id": "CASE WHEN person % 10 > 0 THEN 'default' ELSE 'org-' || 1 + person / 10 % 5 END",
    "team_id": "'team-' || CASE WHEN is_old THEN 'old' ELSE (person % 50)::text END",
    "user_id": "'user-' || name",
    "key_id": "'key-' || name",
    "key_digest": "lpad(CASE WHEN is_old THEN 'f' ELSE name END, 64, '0')",
    "key_alias": "'key of ' || name",
    "end_user": "CASE WHEN draw <= 0.5 THEN '' WHEN is_old THEN 'customer-old' "
    "ELSE 'customer-' || floor(place * 20000) END",
    "tags": 'CASE WHEN is_old THEN \'["old", "x"]\' WHEN luck < 0.05 THEN \'["batch", "nightly"]\' ELSE \'[]\' END',
    "metadata": "'{{}}'",
    "source": "CASE WHEN draw > 0.995 THEN 'probe' ELSE '' END",
    "application": "(ARRAY['claude-code', 'codex', 'openai-python', '', 'cursor'])[1 + person % 5]",
    "operation": "CASE WHEN person % 3 = 0 THEN 'response' ELSE 'chat' END",
    "stream": "person % 2 = 0",
    "model_group": "'model-' || model",
    "deployment_id": "'deployment-' || model",
    "provider": "CASE WHEN is_old THEN 'old' WHEN kind % 5 < 4 THEN 'openai' ELSE 'anthropic' END",
    "upstream_model": "'up-' || model",
    "price_id": "''",
    "served_model": "'up-' || model",
    "upstream_id": "'up-' || i",
    "service_tier": "''",
    "status_code": "CASE WHEN is_failure THEN 429 ELSE 200 END",
    "error_code": "CASE WHEN draw < 0.00005 THEN 'content_filter' WHEN is_failure THEN 'rate_limit_exceeded' "
    "ELSE '' END",
    "finish": "CASE WHEN is_failure THEN 'upstream_error' ELSE 'complete' END",
    "usage": "CASE WHEN is_failure THEN '' ELSE '{usage}' END",
    "usage_source": "CASE WHEN is_failure THEN 'none' ELSE 'provider' END",
    "usage_inconsistent": "false",
    "input_tokens": "CASE WHEN is_failure THEN 0 ELSE 800 END",
    "input_audio_tokens": "0",
    "cache_read_tokens": "CASE WHEN is_failure THEN 0 ELSE 400 END",
    "cache_write_5m_tokens": "0",
    "cache_write_1h_tokens": "0",
    "output_tokens": "CASE WHEN is_failure THEN 0 ELSE 1 + i % 2000 END",
    "output_audio_tokens": "0",
    "reasoning_tokens": "0",
    "started_at": "to_timestamp(ms / 1000.0)",
    "first_token_at": "to_timestamp((ms + 200 + i % 700) / 1000.0)",
    "ended_at": "to_timestamp((ms + 900 + i % 9000) / 1000.0)",
    "cost_pusd": "CASE WHEN draw > 0.999 THEN NULL ELSE i * 7919 % 10000000000 END",
    "priced_at": "to_timestamp((ms + 10000) / 1000.0)",
    "price_error": "''",
}
_ID = "lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(i % 4096), 3, '0') || '8' || substr(md5('{seed}' || i), 1, 15)"
_DRAWS = (
    "SELECT *, CASE WHEN is_old THEN 'old' ELSE person::text END AS name, "
    "CASE WHEN is_old THEN 'old' ELSE kind::text END AS model, draw < 0.02 AS is_failure FROM ("
    "SELECT *, (person + grade) % 20 AS kind FROM ("
    "SELECT i, {begin} + i * {span} / {rows} AS ms, i < {rows} / 100 AND i % 10 = 0 AS is_old, "
    "random() AS draw, random() AS place, random() AS luck, least(floor(-ln(1 - random())), 3)::int AS grade, "
    "least(floor(-ln(1 - random()) * 200), 1999)::int AS person "
    "FROM generate_series({first}::bigint, {last}) AS g(i)) AS drawn) AS graded"
)
_TAGS = (
    "INSERT INTO billing_spendlogtag (organization_id, tag, spend_id) "
    "SELECT s.organization_id, t.tag, s.id "
    "FROM billing_spendlog AS s, json_array_elements_text(s.tags::json) AS t(tag) "
    "WHERE s.tags <> '[]' ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING"
)
_INDEXES = (
    "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'billing_spendlog' "
    "AND indexdef NOT LIKE 'CREATE UNIQUE%'"
)


def insert_rows(rows: int, *, begin: datetime, span: timedelta, seed: str = "made") -> None:
    """Settled rows with their tags; the oldest is of `begin`. The indexes are built behind them."""
    with connection.cursor() as cursor:
        cursor.execute("SET max_parallel_maintenance_workers = 1")
        cursor.execute(_INDEXES)
        indexes = cursor.fetchall()
        for name, _ in indexes:
            cursor.execute(f'DROP INDEX "{name}"')
        cursor.execute("SELECT setseed(0.7)")
        span_ms, begin_ms = int(span.total_seconds() * 1000), int(begin.timestamp() * 1000)
        row_id, request_id = _ID.format(seed=seed), _ID.format(seed=f"{seed} request")
        values = ", ".join(text.format(id=row_id, request_id=request_id, usage=USAGE) for text in _VALUES.values())
        for first in range(0, rows, PART):
            part = {"first": first, "last": min(first + PART, rows) - 1}
            draws = _DRAWS.format(begin=begin_ms, span=span_ms, rows=rows, **part)
            columns = ", ".join(_VALUES)
            cursor.execute(f"INSERT INTO billing_spendlog ({columns}) SELECT {values} FROM ({draws}) AS made")
        cursor.execute(_TAGS)
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE")


_DIMENSIONS = (
    *("organization_id", "team_id", "user_id", "key_id", "model_group", "provider", "deployment_id"),
    *("upstream_model", "application", "operation"),
)
_TOKENS = tuple(name for name in MEASURES if name.endswith("_tokens"))
_IS_FAILURE = "(s.error_code <> '' OR s.finish <> 'complete' OR s.status_code <> 200)"


def insert_rollups() -> None:
    """The rollups of all rows, anew. None of them is a second attempt, or late."""
    dimensions = ", ".join(f"s.{name}" for name in _DIMENSIONS)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE billing_usagequarter, billing_usageday, billing_usageseries")
        cursor.execute(
            f"INSERT INTO billing_usageseries (digest, {', '.join(_DIMENSIONS)}, is_failure) "
            f"SELECT md5(row(made.*)::text)::uuid, made.* FROM "
            f"(SELECT DISTINCT {dimensions}, {_IS_FAILURE} FROM billing_spendlog AS s) AS made"
        )
        cursor.execute("ANALYZE billing_usageseries")
        same = " AND ".join(f"u.{name} = s.{name}" for name in _DIMENSIONS)
        sums = {
            "requests": "count(*)",
            "attempts": "count(*)",
            "estimated": "count(*) FILTER (WHERE s.state = 'lost')",
            "unpriced": "count(*) FILTER (WHERE s.cost_pusd IS NULL)",
            **{name: f"sum(s.{name})" for name in _TOKENS},
            "cost_pusd": "sum(coalesce(s.cost_pusd, 0))",
            **{name: text for metric in SLOTS for name, text in _count_slots(metric)},
        }
        cursor.execute(
            f"INSERT INTO billing_usagequarter (starts_at, series_id, organization_id, {', '.join(sums)}) "
            f"SELECT date_bin('15 minutes', s.started_at, '2000-01-01 00:00Z'), u.id, u.organization_id, "
            f"{', '.join(sums.values())} FROM billing_spendlog AS s JOIN billing_usageseries AS u "
            f"ON {same} AND u.is_failure = {_IS_FAILURE} GROUP BY 1, 2, 3"
        )
        cursor.execute(
            f"INSERT INTO billing_usageday (starts_at, series_id, organization_id, {', '.join(sums)}) "
            f"SELECT date_bin('1 day', starts_at, '2000-01-01 00:00Z'), series_id, organization_id, "
            f"{', '.join(f'sum({name})' for name in sums)} FROM billing_usagequarter GROUP BY 1, 2, 3"
        )
        cursor.execute("VACUUM ANALYZE billing_usagequarter, billing_usageday, billing_usageseries")


def _count_slots(metric: str) -> Iterator[tuple[str, str]]:
    """(column, expression) of a histogram of the successful rows."""
    end = "s.ended_at" if metric == "duration" else "s.first_token_at"
    took = f"extract(epoch FROM {end} - s.started_at) * 1000"
    bounds = BOUNDS_MS[metric]
    for name, low, high in zip(SLOTS[metric], (0, *bounds), (*bounds, 10**9), strict=True):
        yield name, f"nullif(count(*) FILTER (WHERE NOT {_IS_FAILURE} AND {took} > {low} AND {took} <= {high}), 0)"
