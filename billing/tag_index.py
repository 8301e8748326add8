"""The index of the tags of spend logs: written when a row is settled, read by billing.log_search."""

import json
from collections.abc import Iterable, Sequence
from uuid import UUID

from django.db import connection

from billing.models import SpendLogTag
from gateway.state import sql

_ADD = sql.fill(
    "INSERT INTO billing_spendlogtag ({columns}) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
    columns=sql.names(["organization_id", "tag", "spend_id"]),
)


def read_tags(text: str) -> Sequence[str]:
    """The tags of a row, each once; none where the text is no list."""
    if text in ("", "[]"):
        return ()
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    names = (
        (str(tag).encode(errors="replace").decode().replace("\0", "") for tag in tags) if isinstance(tags, list) else ()
    )
    return list(dict.fromkeys(name for name in names if name))


def index_tags(rows: Iterable[tuple[str, UUID | str, str]]) -> None:
    """Takes (organization id, row id as the database has it, tags as the row has them). Rows that are in the index
    already stay as they are."""
    longest = SpendLogTag.tag.field.max_length
    entries = [
        (organization_id, tag[:longest], row_id)
        for organization_id, row_id, text in rows
        for tag in read_tags(text)[: SpendLogTag.MOST]
    ]
    if entries:
        with connection.cursor() as cursor:
            cursor.executemany(_ADD, sorted(entries, key=str))
