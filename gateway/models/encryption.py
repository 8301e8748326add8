"""Seals: provider credentials at rest.

The row's own identity is sealed in and compared on reading, so that a ciphertext moved to another row is refused. In
memory the values are `Secret`s.
"""

from gateway.protocol.json.types import JsonMapping
from gateway.protocol.secret import Secret
from tenants.encryption import decrypt, encrypt

MAX_SEALS = 8  # one for each installation on the same database, the latest first


class CredentialUnusable(Exception):
    """No configured encryption key opens this credential, or it belongs to another row."""


def seal(*, context: str, values: dict[str, str], beside: str = "") -> str:
    """Encrypt a credential's values for the row named by `context`. An empty dict seals to empty text.

    `beside` has the seals of the same row by other installations under their own keys: a seal that cannot be opened
    here stays for them.
    """
    if not values:
        return ""
    token = encrypt({"for": context, "values": values})
    foreign = [other for other in beside.split() if decrypt(other) is None]
    return " ".join([token, *foreign][:MAX_SEALS])


def unseal(*, context: str, sealed: str) -> dict[str, Secret]:
    """Opens a credential. Raises CredentialUnusable if none of the seals can be opened here."""
    if not sealed:
        return {}
    plain = next((plain for token in sealed.split() if (plain := decrypt(token)) is not None), None)
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
        return encrypt({"organization": self._organization_id, "value": value})

    def open(self, text: str) -> JsonMapping | None:
        plain = decrypt(text)
        if plain is None or plain.get("organization") != self._organization_id:
            return None
        value: JsonMapping = plain["value"]
        return value
