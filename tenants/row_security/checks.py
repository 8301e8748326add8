"""Warnings about a wall that does not stand: policies that are missing, and a role that passes all of them."""

from collections.abc import Sequence

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning
from django.db import Error as DatabaseError

from tenants.row_security.policies import put_on, read_status


def exempt_role_warning(role: str) -> str:
    return (
        f"row-level security does not bind the database role {role!r}: it is a superuser or has BYPASSRLS; "
        "use a role without either (docs/tenancy.md)"
    )


def row_security_warnings() -> list[str]:
    """The reasons why the database does not wall organizations off, although the setting is on."""
    if not settings.TOLLGATE_ROW_SECURITY:
        return []
    status = read_status()
    warnings = []
    if status.missing:
        warnings.append(
            f"row-level security is missing on {len(status.missing)} tables, such as {status.missing[0]}: "
            "run manage.py row_security on"
        )
    if status.is_role_exempt:
        warnings.append(exempt_role_warning(status.role))
    return warnings


def check_row_security(app_configs: Sequence[AppConfig] | None, **options: object) -> list[CheckMessage]:
    """For `manage.py check --deploy`."""
    try:
        warnings = row_security_warnings()
    except DatabaseError as error:
        reason = str(error).partition("\n")[0]
        warnings = [f"row-level security cannot be checked: {reason}"]
    return [CheckWarning(text, id="tollgate.W001") for text in warnings]


def put_on_after_migrate(**options: object) -> None:
    """New tables get their policies with the migration that makes them."""
    if settings.TOLLGATE_ROW_SECURITY:
        put_on()
