"""Statements and rows, as group commit and the spool take them, and the ways in which a database refuses them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement in the words of both databases. It must be harmless when it runs twice. `types` are the PostgreSQL
    types of a row's columns, in order."""

    name: str
    types: tuple[str, ...]
    sqlite: str  # with ? for each column
    postgres: str  # with one %b, a binary array, for each column: … FROM unnest(%b::type[], …)
    is_durable: bool  # acknowledged after an fsync; otherwise it survives the process, not a power cut
    is_spooled: bool = True  # otherwise it fails with DatabaseAway during an outage
    is_owed: bool = False  # kept whatever becomes of the rows beside it; in memory where even the spool refuses
    rank: int = 0  # within one transaction lower ranks are written first
    is_set_aside: bool = True  # kept in a file for a person where the database refuses it


Operation = tuple[Statement, Row]

#: Over a slow link a larger batch would hold every request up, and fail whole. A larger unit is a batch of its own.
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_ROWS = 1000
#: A batch that is no larger takes any usable database less than the limit: if it is late, no write goes through.
SMALL_BYTES = 64 * 1024
SMALL_ROWS = 64
BYTES_PER_S = 512 * 1024  # of a link that is expected: a batch may take longer by what it has to carry


def size_of(operations: Iterable[Operation]) -> int:
    """The bytes of bodies and texts, which are what makes a batch large."""
    return sum([len(value) for _, row in operations for value in row if type(value) is bytes or type(value) is str])


def is_small(operations: Sequence[Operation]) -> bool:
    return len(operations) <= SMALL_ROWS and size_of(operations) <= SMALL_BYTES


class DatabaseAway(Exception):
    """The database cannot be reached or refuses to write: the batch may be tried again later."""


class DatabaseLate(DatabaseAway):
    """The database answers, but did not take this batch in time, which is not a small one."""


class RowRefused(Exception):
    """The database took none of the batch because of what a row holds."""
