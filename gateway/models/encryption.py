"""Seals: provider credentials at rest, MultiFernet over JSON.

The first of TOLLGATE_ENCRYPTION_KEYS encrypts, all decrypt. The row's own identity is sealed in and compared on
reading, so that a ciphertext moved to another row is refused. In memory the values are `Secret`s.
"""

import json
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings

from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.secret import Secret

MAX_SEALS = 8  # one for each installation on the same database, the latest first


class CredentialUnusable(Exception):
    """No configured encryption key opens this credential, or it belongs to another row."""


@lru_cache(maxsize=4)
def _fernet(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def seal(*, context: str, values: dict[str, str], beside: str = "") -> str:
    """Encrypt a credential's values for the row named by `context`. An empty dict seals to empty text.

    `beside` has the seals of the same row by other installations under their own keys: a seal that cannot be opened
    here stays for them.
    """
    if not values:
        return ""
    plain = json.dumps({"for": context, "values": values}).encode()
    token = _fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).encrypt(plain).decode("ascii")
    foreign = [other for other in beside.split() if _open(other) is None]
    return " ".join([token, *foreign][:MAX_SEALS])


def unseal(*, context: str, sealed: str) -> dict[str, Secret]:
    """Opens a credential. Raises CredentialUnusable if none of the seals can be opened here."""
    if not sealed:
        return {}
    plain = next((plain for token in sealed.split() if (plain := _open(token)) is not None), None)
    if plain is None:
        raise CredentialUnusable(
            "no configured encryption key opens this credential; installations that share a database need the same "
            "TOLLGATE_ENCRYPTION_KEYS"
        )
    if plain["for"] != context:
        raise CredentialUnusable("this credential was sealed for another row")
    return {name: Secret(value) for name, value in plain["values"].items()}


class OrganizationSeal:
    """protocol.seal.Seal with the same keys."""

    def __init__(self, organization_id: str) -> None:
        self._organization_id = organization_id

    def close(self, value: JsonMapping) -> str:
        plain = json.dumps({"organization": self._organization_id, "value": value}).encode()
        return _fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).encrypt(plain).decode("ascii")

    def open(self, text: str) -> JsonMapping | None:
        plain = _open(text)
        if plain is None or plain.get("organization") != self._organization_id:
            return None
        value: JsonMapping = plain["value"]
        return value


def _open(token: str) -> JsonObject | None:
    try:
        plain: JsonObject = json.loads(_fernet(tuple(settings.TOLLGATE_ENCRYPTION_KEYS)).decrypt(token.encode("ascii")))
    except (InvalidToken, UnicodeError):
        return None
    return plain
