"""Ids of rows: UUIDv7 text, so that primary keys grow with time."""

from uuid_utils import uuid7


def new_id() -> str:
    return str(uuid7())
