"""Ids of spend rows as bounds of time: a UUIDv7 begins with the instant at which it was made."""

from datetime import datetime
from uuid import UUID


def first_id(instant: datetime) -> UUID:
    """The smallest UUIDv7 of an instant, so that a filter by time uses the primary key."""
    return UUID(int=(int(instant.timestamp() * 1000) & (1 << 48) - 1) << 80)
