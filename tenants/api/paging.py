"""Pages of /api/: the newest rows first, by primary key, which is an index, and without counting. A cursor names the
last row of the page before."""

import binascii
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Generic, NamedTuple

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet

from gateway.protocol.errors import BadRequest
from tenants.permissions import Row
from tenants.rest.fields import read_count

DEFAULT_SIZE = 50
MAX_SIZE = 500
BATCH = 50  # rows of one query
MAX_BYTES = 4 * 1024 * 1024  # of the texts of a page; the first batch may be larger
MAX_DIGITS = 18  # such a number fits every column
PARAMETERS = ("cursor", "page_size")


class Page(NamedTuple, Generic[Row]):
    rows: list[Row]
    next_cursor: str | None


def read_page(rows: QuerySet[Row], query: Mapping[str, str]) -> Page[Row]:
    """Raises BadRequest for a cursor or a size that cannot be."""
    size = read_count(query, "page_size", default=DEFAULT_SIZE, maximum=MAX_SIZE)
    rows = rows.order_by("-pk")
    if "cursor" in query:
        rows = rows.filter(pk__lt=read_cursor(rows.model, query["cursor"]))
    texts = [f.attname for f in rows.model._meta.concrete_fields if isinstance(f, models.JSONField | models.TextField)]
    page: list[Row] = []
    total = 0
    while True:
        part = rows.filter(pk__lt=page[-1].pk) if page else rows
        wanted = min(BATCH, size - len(page))
        batch = list(part[: wanted + 1])
        page += batch[:wanted]
        if len(batch) <= wanted:
            return Page(page, None)
        total += sum(len(str(getattr(row, name))) for row in batch for name in texts)
        if len(page) >= size or total > MAX_BYTES:
            return Page(page, make_cursor(page[-1].pk))


def read_primary_key(model: type[models.Model], text: str) -> object | None:
    """The value of the model's primary key; None for a text that can be none."""
    field = model._meta.pk
    if not text or "\0" in text:
        return None
    if isinstance(field, models.IntegerField):
        return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
    try:
        value: object = field.to_python(text)
    except ValidationError:
        return None
    return value


def make_cursor(key: object) -> str:
    return urlsafe_b64encode(str(key).encode()).decode().rstrip("=")


def read_cursor(model: type[models.Model], text: str) -> object:
    """The primary key of the last row of the page before. Raises BadRequest."""
    try:
        key = read_primary_key(model, b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
    except (binascii.Error, UnicodeError, ValueError):
        key = None
    if key is None:
        raise BadRequest("'cursor' must be the 'next_cursor' of the page before.", param="cursor")
    return key
