"""Encryption at rest: MultiFernet over JSON. The first of TOLLGATE_ENCRYPTION_KEYS encrypts, all decrypt."""

import json
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from gateway.protocol.json.types import JsonMapping, JsonObject


def encrypt(value: JsonMapping) -> str:
    return _fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).encrypt(json.dumps(value).encode()).decode("ascii")


def decrypt(token: str) -> JsonObject | None:
    """None for a text that no configured key opens."""
    try:
        value: JsonObject = json.loads(_fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).decrypt(token.encode("ascii")))
    except (InvalidToken, UnicodeError):
        return None
    return value


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
