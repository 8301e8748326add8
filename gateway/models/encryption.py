"""EncryptedJSONField: provider credentials at rest, MultiFernet over JSON.

The first of TOLLGATE_ENCRYPTION_KEYS encrypts, all decrypt. The row's own identity is sealed in and compared on
reading, so that a ciphertext moved to another row is refused. In memory the values are `Secret`s.
"""

import json
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from gateway.protocol.secret import Secret


class CredentialUnusable(Exception):
    """No configured encryption key opens this credential, or it belongs to another row."""


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def seal(*, context: str, values: dict[str, str]) -> str:
    """Encrypt a credential's values for the row named by `context`. An empty dict seals to empty text."""
    if not values:
        return ""
    plain = json.dumps({"for": context, "values": values}).encode()
    return _fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).encrypt(plain).decode("ascii")


def unseal(*, context: str, sealed: str) -> dict[str, Secret]:
    """Raises CredentialUnusable where the text cannot be opened here."""
    if not sealed:
        return {}
    try:
        plain: dict[str, Any] = json.loads(
            _fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).decrypt(sealed.encode("ascii"))
        )
    except InvalidToken:
        raise CredentialUnusable("no configured encryption key opens this credential") from None
    if plain["for"] != context:
        raise CredentialUnusable("this credential was sealed for another row")
    return {name: Secret(value) for name, value in plain["values"].items()}
