"""Sessions in the database under the digest of their key: a stolen copy of the table opens no session.

The cookie holds the key itself. Django finds this module by the setting SESSION_ENGINE.
"""

import hashlib
from datetime import datetime
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.utils import timezone

DIGEST_BYTES = 20  # the column holds 40 characters


def digest_key(session_key: str) -> str:
    return hashlib.blake2b(session_key.encode("utf-8", "surrogateescape"), digest_size=DIGEST_BYTES).hexdigest()


class SessionStore(db.SessionStore):
    """Django's own methods that start with `a` call the database in their own way, and the console uses none."""

    def _get_session_from_db(self) -> AbstractBaseSession | None:
        now: datetime = timezone.now()
        key = digest_key(self.session_key or "")
        row: AbstractBaseSession | None = self.model.objects.filter(session_key=key, expire_date__gt=now).first()
        if row is None:
            self._session_key = None
        return row

    def exists(self, session_key: str) -> bool:
        return super().exists(digest_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row: AbstractBaseSession = super().create_model_instance(data)
        row.session_key = digest_key(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(digest_key(key))
