"""The end users and tags that the rollups of a day name: the first ones of each organization, up to a limit.

A client may send another end user, and other tags, with every call. Once a day has its most, all new ones share the
member without a name, for the rest of that day: so a member that is named has all of its calls.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple, TypeAlias

from django.conf import settings
from django.db import connection

from billing.models import UsageMember
from billing.spend_rows import Row
from billing.tag_index import read_tags
from gateway.state import sql

#: (dimension, name)
Name: TypeAlias = tuple[str, str]

END_USER, TAG = UsageMember.Dimension.END_USER.value, UsageMember.Dimension.TAG.value
TAGGED: Name = (UsageMember.Dimension.TAGGED.value, "")
NO_TAGS = frozenset({"", "[]"})
UNNAMED = ""
LOOKED_UP = 500  # members in one statement
_LENGTH = UsageMember.name.field.max_length


class Member(NamedTuple):
    """An end user or a tag of a day. `starts_at`: as the driver has it."""

    starts_at: datetime | str
    organization_id: str
    dimension: str
    name: str

    @property
    def unnamed(self) -> "Member":
        return self._replace(name=UNNAMED)


_KEYS = sql.names(["starts_at", "organization_id", "dimension", "name"])
#: A row value in a list of VALUES would read the whole table on SQLite.
_FIND = sql.fill(
    "SELECT {keys}, id FROM (VALUES {{rows}}) AS wanted CROSS JOIN billing_usagemember WHERE {equal}",
    keys=_KEYS,
    equal=" AND ".join(f"{name} = wanted.column{place}" for place, name in enumerate(Member._fields, 1)),
)
_COUNT = (
    "SELECT count(*) FROM billing_usagemember "
    "WHERE starts_at = %s AND organization_id = %s AND dimension = %s AND name <> %s"
)
_MAKE = sql.fill("INSERT INTO billing_usagemember ({keys}) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", keys=_KEYS)


def names_of(row: Row) -> tuple[Name, ...]:
    """The members that a row is of; none for a row without end user and tags."""
    end_users = ((END_USER, row.end_user),) if row.end_user else ()
    if row.tags in NO_TAGS or not (tags := read_tags(row.tags)):
        return end_users
    return (*end_users, TAGGED, *((TAG, tag) for tag in dict.fromkeys(tag[:_LENGTH] for tag in tags)))


def find_members(wanted: Collection[Member]) -> Mapping[Member, int]:
    """The ids of members; new ones are made while their day has room. Another worker that makes some of the same day
    waits until the end of this transaction."""
    found = _read({*wanted, *(member.unnamed for member in wanted)})
    new: dict[Member, list[Member]] = {}
    for member in wanted:
        if member not in found and (not member.name or member.unnamed not in found):
            new.setdefault(member.unnamed, []).append(member)
    for unnamed in sorted(new, key=str):
        _lock(unnamed)
        found |= _make(unnamed, new[unnamed])
    return {member: found[member] if member in found else found[member.unnamed] for member in wanted}


def _make(unnamed: Member, members: Collection[Member]) -> Mapping[Member, int]:
    """Makes as many members of one day and dimension as there is room for, behind its lock."""
    known = _read([unnamed, *members])
    named = [member for member in members if member.name and member not in known]
    room = 0
    if named and unnamed not in known:
        with connection.cursor() as cursor:
            cursor.execute(_COUNT, [*unnamed[:3], UNNAMED])
            [(count,)] = cursor.fetchall()
        room = max(0, settings.TOLLGATE_ROLLUP_NAMES - count)
    rows = named[:room]
    if unnamed not in known and (len(named) > room or unnamed in members):
        rows.append(unnamed)
    if rows:
        with connection.cursor() as cursor:
            cursor.executemany(_MAKE, rows)
    return {**known, **_read(rows)}


def _lock(unnamed: Member) -> None:
    """SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        digest = blake2b("\0".join(map(str, unnamed)).encode(), digest_size=8).digest()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int.from_bytes(digest, signed=True)])


def _read(members: Iterable[Member]) -> dict[Member, int]:
    values, found = list(members), dict[Member, int]()
    for first in range(0, len(values), LOOKED_UP):
        part = values[first : first + LOOKED_UP]
        marks = ", ".join(["(%s, %s, %s, %s)"] * len(part))
        with connection.cursor() as cursor:
            cursor.execute(sql.fill(_FIND, rows=marks), [value for member in part for value in member])
            found |= {Member(*columns): number for *columns, number in cursor.fetchall()}
    return found
