"""The ledger: the pipeline's Ledger port over group commit. One spend log an attempt, opened before the upstream is
dialled and closed before the last byte leaves."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import orjson

from billing.attempt_routing import routing_text
from billing.call_context import make_context_at
from billing.pricing import MAX_COST_PUSD, NO_CONTEXT, PriceContext, PriceLines, bound_counts, cost
from gateway.pipeline.ports import Attempt
from gateway.protocol.errors import MAX_UPSTREAM_TEXT, Fault, GatewayFault
from gateway.protocol.usage import REPORTED
from gateway.state import sql
from gateway.state.group_commit import GroupCommit
from gateway.state.instants import instant
from gateway.state.statement import DatabaseAway, Row, Statement
from gateway.state.unit_of_work import UnitOfWork

HEARTBEAT_S = 1.0
#: After so long without a heartbeat others may soon take this process for dead (bookkeeping.STALE, twice).
LAPSE_S = 5 * HEARTBEAT_S
CONFIRM_S = 2 * HEARTBEAT_S
CONFIRM_TRIES = 40
MAX_CALL_TOKENS = 100_000_000
RESPONSE = "response"  # the operation of a chat at /v1/responses

IDENTITY = {
    "id": "uuid",
    "request_id": "uuid",
    "attempt": "smallint",
    "writer_id": "text",
    "organization_id": "text",
    "team_id": "text",
    "user_id": "text",
    "key_id": "text",
    "key_digest": "text",
    "key_alias": "text",
    "end_user": "text",
    "tags": "text",
    "metadata": "text",
    "operation": "text",
    "stream": "boolean",
    "model_group": "text",
    "deployment_id": "text",
    "provider": "text",
    "upstream_model": "text",
    "price_id": "text",
    "input_tokens": "bigint",  # the estimate, which a lost row is charged by
    "started_at": "timestamptz",
    "application": "text",
}
#: The columns of a row as earlier versions opened it, which their spools may still hold.
BEFORE_APPLICATIONS = {name: kind for name, kind in IDENTITY.items() if name != "application"}
OUTCOME = {
    "state": "text",
    "served_model": "text",
    "upstream_id": "text",
    "service_tier": "text",
    "finish": "text",
    "status_code": "smallint",
    "error_code": "text",
    "usage": "text",
    "usage_source": "text",
    "usage_inconsistent": "boolean",
    "input_tokens": "bigint",
    "input_audio_tokens": "bigint",
    "cache_read_tokens": "bigint",
    "cache_write_5m_tokens": "bigint",
    "cache_write_1h_tokens": "bigint",
    "output_tokens": "bigint",
    "output_audio_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "first_token_at": "timestamptz",
    "ended_at": "timestamptz",
}
#: What an open row holds in the columns of its outcome.
BLANK = {
    "state": "'open'",
    "served_model": "''",
    "upstream_id": "''",
    "service_tier": "''",
    "finish": "''",
    "status_code": "0",
    "error_code": "''",
    "usage": "''",
    "usage_source": "'none'",
    "usage_inconsistent": "false",
    **dict.fromkeys([name for name in OUTCOME if name.endswith("_tokens") and name not in IDENTITY], "0"),
    "price_error": "''",
}


_WITH_ID = {"id": "uuid", **OUTCOME}
_WHOLE = {**{name: kind for name, kind in IDENTITY.items() if name not in OUTCOME}, **OUTCOME}
_WHOLE_BEFORE_APPLICATIONS = {name: kind for name, kind in _WHOLE.items() if name != "application"}
_ERROR = {"id": "uuid", "error_message": "text"}
_REFUSAL = {"id": "uuid", "status_code": "smallint", "error_code": "text"}
_ROUTING = {"id": "uuid", "routing": "text"}
_WINDOWS = {"id": "uuid", "budget_windows": "text"}
_SOURCE = {"id": "uuid", "source": "text"}
#: A process that seemed dead may close its rows after all: what it knows replaces the estimate of a lost row.
_IS_UNKNOWN = "s.id = {id} AND s.state IN ('open', 'lost')"
_LATE = {
    "state": "CASE WHEN s.state = 'lost' THEN 'late' ELSE {state} END",
    "lost_tokens": "CASE WHEN s.state = 'lost' THEN s.input_tokens ELSE s.lost_tokens END",
}


def _open(name: str, columns: dict[str, str]) -> Statement:
    return Statement(
        name=name,
        types=tuple(columns.values()),
        sqlite=sql.sqlite_insert("billing_spendlog", columns, BLANK),
        postgres=sql.postgres_insert("billing_spendlog", columns, BLANK),
        is_durable=False,
    )


def _record_hit(name: str, columns: dict[str, str]) -> Statement:
    constants = {"price_error": "''", "cache_hit": "true"}
    return Statement(
        name=name,
        types=tuple(columns.values()),
        sqlite=sql.sqlite_insert("billing_spendlog", columns, constants),
        postgres=sql.postgres_insert("billing_spendlog", columns, constants),
        is_durable=True,
    )


OPEN = _open("open_call", IDENTITY)
#: The whole row of a call that the response cache has answered.
RECORD_HIT = _record_hit("record_cached_call", _WHOLE)
#: As earlier versions wrote them into their spools.
OPEN_BEFORE = _open("open", BEFORE_APPLICATIONS)
RECORD_HIT_BEFORE = _record_hit("record_hit", _WHOLE_BEFORE_APPLICATIONS)
CLOSE = Statement(
    name="close",
    types=tuple(_WITH_ID.values()),
    sqlite=sql.sqlite_update("billing_spendlog", _WITH_ID, _IS_UNKNOWN, computed=_LATE),
    postgres=sql.postgres_update("billing_spendlog", _WITH_ID, _IS_UNKNOWN, computed=_LATE),
    is_durable=True,
    is_owed=True,  # usage is billed even when the client got a failure
    rank=1,
)
HEARTBEAT = Statement(
    name="heartbeat",
    types=("text",),
    sqlite="INSERT INTO billing_writer (id, seen_at) VALUES (?, strftime('%Y-%m-%d %H:%M:%f', 'now')) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, suspected_at = NULL",
    postgres="INSERT INTO billing_writer (id, seen_at) SELECT id, now() FROM unnest(%b::text[]) AS v(id) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, suspected_at = NULL",
    is_durable=False,
    is_spooled=False,
)


def _note(
    name: str, columns: dict[str, str], *, where: str = "s.id = {id}", is_durable: bool = False, rank: int = 1
) -> Statement:
    """Sets some columns of a row that exists: {column: type}, the id among them."""
    return Statement(
        name=name,
        types=tuple(columns.values()),
        sqlite=sql.sqlite_update("billing_spendlog", columns, where),
        postgres=sql.postgres_update("billing_spendlog", columns, where),
        is_durable=is_durable,
        rank=rank,
    )


#: Apart from `close`, so that a success costs nothing more and rows in an earlier version's spool still fit.
NOTE_ERROR = _note("note_error", _ERROR, is_durable=True)
#: Of a row that was written while the rest of its unit was refused: what the client gets in place of its answer. Once
#: the row is priced, the rollups count it as it is.
NOTE_REFUSAL = _note("note_refusal", _REFUSAL, where="s.id = {id} AND s.state NOT IN ('priced', 'unpriced')", rank=0)
#: Apart from `open`, for the same reasons; so is the next one.
NOTE_WINDOWS = _note("note_windows", _WINDOWS)
NOTE_SOURCE = _note("note_source", _SOURCE)
#: Apart from `close`, as NOTE_ERROR.
NOTE_ROUTING = _note("note_routing", _ROUTING)
STATEMENTS = (
    *(OPEN, CLOSE, RECORD_HIT, NOTE_ERROR, NOTE_ROUTING),
    *(NOTE_REFUSAL, NOTE_WINDOWS, NOTE_SOURCE, HEARTBEAT),
    *(OPEN_BEFORE, RECORD_HIT_BEFORE),
)


class SpendLedger:
    """The pipeline's Ledger port. `find_price` gives a price version by its id; `on_metered` is called after rows
    became metered. `max_call_tokens` bounds each count of a call."""

    def __init__(
        self,
        commits: GroupCommit,
        *,
        writer_id: str,
        find_price: Callable[[str], PriceLines | None],
        on_metered: Callable[[], None],
        max_call_tokens: int = MAX_CALL_TOKENS,
    ) -> None:
        self._commits = commits
        self._writer_id = writer_id
        self._find_price = find_price
        self._on_metered = on_metered
        self._max_call_tokens = max_call_tokens
        self._beating: asyncio.Task[None] | None = None
        self._beat_at = float("-inf")  # monotonic; when the last heartbeat that is written was begun
        self._lapses = 0

    async def start(self) -> None:
        """Returns when this process is known as a writer, or at least expected to be once the database is back."""
        with contextlib.suppress(DatabaseAway):
            await self._send_heartbeat()
        self._beating = asyncio.create_task(self._beat(), name="ledger heartbeat")

    async def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating

    @property
    def is_known(self) -> bool:
        """False when other processes may take this one for dead, and give away what it has leased."""
        return time.monotonic() - self._beat_at < LAPSE_S

    @property
    def lapses(self) -> int:
        """The number of times that other processes may have taken this one for dead."""
        return self._lapses

    async def confirm(self) -> None:
        """Waits a moment for the next heartbeat. Raises DatabaseAway where none is written."""
        for _ in range(CONFIRM_TRIES):
            if self.is_known:
                return
            await asyncio.sleep(CONFIRM_S / CONFIRM_TRIES)
        raise DatabaseAway("no heartbeat is written")

    async def open(self, attempt: Attempt) -> None:
        windows, source = attempt.windows, attempt.principal.source
        if not windows and not source:
            await self._commits.submit(OPEN, self._open_row(attempt))
            return
        unit = UnitOfWork()
        unit.add(OPEN, self._open_row(attempt))
        if windows:
            unit.add(NOTE_WINDOWS, (attempt.id.replace("-", ""), ",".join(windows)))
        if source:
            unit.add(NOTE_SOURCE, (attempt.id.replace("-", ""), source))
        await self._commits.commit(unit)

    async def record(self, attempt: Attempt) -> None:
        attempt.usage = bound_counts(attempt.usage, self._max_call_tokens)
        attempt.cost_pusd = 0
        identity = dict(zip(IDENTITY, self._open_row(attempt), strict=True))
        outcome = dict(zip(_WITH_ID, _close_row(attempt), strict=True))
        row = identity | outcome | {"price_id": ""}
        await self._commits.submit(RECORD_HIT, tuple(row[name] for name in _WHOLE))
        self._on_metered()

    async def close(self, attempt: Attempt) -> None:
        attempt.usage = bound_counts(attempt.usage, self._max_call_tokens)
        attempt.cost_pusd = attempt_cost(attempt, self._find_price(attempt.target.price_id))
        unit = UnitOfWork()
        unit.add(CLOSE, _close_row(attempt))
        if attempt.error_message:
            unit.add(NOTE_ERROR, (attempt.id.replace("-", ""), _bounded(attempt.error_message, MAX_UPSTREAM_TEXT)))
        routing = routing_text(attempt)
        if routing:
            unit.add(NOTE_ROUTING, (attempt.id.replace("-", ""), routing))
        is_complete = False
        try:
            for step in attempt.steps:
                step(attempt, unit)
            is_complete = True
        except Fault as fault:
            attempt.status_code, attempt.error_code = fault.status, fault.code or fault.type
            raise
        finally:
            if (
                not is_complete
            ):  # a step failed: the spend row is written all the same, alone, with what the client gets
                if attempt.status_code == 200:
                    attempt.status_code, attempt.error_code = 500, "internal_error"
                unit = UnitOfWork()
                unit.add(CLOSE, _close_row(attempt))
            await self._commit(unit, attempt)

    async def _commit(self, unit: UnitOfWork, attempt: Attempt) -> None:
        try:
            await self._commits.commit(unit)
        except GatewayFault as fault:
            if not attempt.error_code:
                attempt.status_code, attempt.error_code = fault.status, fault.code or fault.type
                row = (attempt.id.replace("-", ""), attempt.client_status, _bounded(attempt.error_code, 64))
                with contextlib.suppress(GatewayFault):
                    self._commits.submit(NOTE_REFUSAL, row)
            raise
        finally:
            self._on_metered()  # where the rest of a unit is refused the spend row is there

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            # The next beat follows; the rows themselves report the trouble
            with contextlib.suppress(GatewayFault, DatabaseAway):
                await self._send_heartbeat()

    async def _send_heartbeat(self) -> None:
        began = time.monotonic()
        await self._commits.submit(HEARTBEAT, (self._writer_id,))
        if time.monotonic() - self._beat_at >= LAPSE_S:
            self._lapses += 1
        self._beat_at = began

    def _open_row(self, attempt: Attempt) -> Row:
        principal, call, target = attempt.principal, attempt.call, attempt.target
        return (
            attempt.id.replace("-", ""),  # as Django keeps a UUID on SQLite
            attempt.request_id.replace("-", ""),
            attempt.number,
            self._writer_id,
            principal.organization_id,
            principal.team_id,
            principal.user_id,
            principal.key_id,
            principal.key_digest,
            principal.key_alias,
            call.end_user,
            orjson.dumps(call.tags).decode() if call.tags else "[]",
            orjson.dumps(call.metadata).decode() if call.metadata else "{}",
            RESPONSE if call.dialect.wire == "responses" else call.operation.value,
            call.stream,
            principal.resolve_model(call.model),
            target.deployment_id,
            target.provider.name,
            target.upstream_model,
            target.price_id,
            call.input_estimate,
            instant(attempt.started_at),
            call.application,
        )


def attempt_cost(attempt: Attempt, price: PriceLines | None) -> int | None:
    """Picodollars of an attempt that has ended; None where a count has no price, or the cost is out of range: as the
    spend row will have it."""
    pusd = cost(attempt.usage, price, _context_of(attempt, price))
    return pusd if pusd is None or pusd < MAX_COST_PUSD else None


def _context_of(attempt: Attempt, price: PriceLines | None) -> PriceContext:
    if price is None or price.is_plain:
        return NO_CONTEXT
    return make_context_at(
        _bounded(attempt.service_tier, 40),
        attempt.started_at,
        attempt.ended_at,
        attempt.raw_usage if price.needs_usage and _usage_text(attempt) else None,  # as the row will have it
    )


def _close_row(attempt: Attempt) -> Row:
    usage = attempt.usage
    return (
        attempt.id.replace("-", ""),
        "metered" if attempt.is_sent or attempt.is_cached else "aborted",
        _bounded(attempt.served_model, 255),
        _bounded(attempt.upstream_id, 255),
        _bounded(attempt.service_tier, 40),
        attempt.finish.value,
        attempt.client_status,
        _bounded(attempt.error_code, 64),
        _usage_text(attempt),
        attempt.usage_source.value,
        usage.is_inconsistent,
        usage.input_tokens,
        usage.input_audio_tokens,
        usage.cache_read_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.output_audio_tokens,
        usage.reasoning_tokens,
        instant(attempt.first_token_at),
        instant(attempt.ended_at),
    )


MAX_USAGE_TEXT = 8192


def _usage_text(attempt: Attempt) -> str:
    """The provider's usage object, as it came (NUL characters stay escaped)."""
    if attempt.usage_source not in REPORTED or attempt.raw_usage is None:
        return ""
    try:
        text = orjson.dumps(attempt.raw_usage).decode()
    except orjson.JSONEncodeError:  # nested deeper than it can be written
        return ""
    return text if len(text) <= MAX_USAGE_TEXT else ""


def _bounded(text: str, size: int) -> str:
    return text.replace("\0", "")[:size]
