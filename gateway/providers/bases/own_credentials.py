"""The credentials that a deployment of an organization must bring: what the gateway's machine may do in a cloud, by its
role, its environment or its files, is the platform's."""

from collections.abc import Collection

#: A service principal of Entra: with fewer of them Azure's library takes what it finds on the machine.
ENTRA_PRINCIPAL = frozenset({"tenant_id", "client_id", "client_secret"})


def ask_for(names: str) -> tuple[str, str]:
    """(parameter, reason) for a deployment without a credential of its own."""
    return "api_key", (
        f"is needed, or {names}: a deployment of an organization does not use the identity of the gateway's machine"
    )


def find_borrowed_entra_identity(secrets: Collection[str]) -> tuple[str, str] | None:
    if {"api_key", "azure_ad_token"}.intersection(secrets) or ENTRA_PRINCIPAL.issubset(secrets):
        return None
    return ask_for("tenant_id, client_id and client_secret")
