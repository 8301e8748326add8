"""Ids of tenant rows: UUIDv7 text, so that primary keys grow with time; ids given by a caller are kept."""

from uuid_utils import uuid7


def new_id() -> str:
    return str(uuid7())
