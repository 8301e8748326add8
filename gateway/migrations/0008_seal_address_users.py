"""Seals the user and the password that an earlier version stored in a deployment's address, as a header."""

from base64 import b64encode
from urllib.parse import unquote, urlsplit

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from gateway.models.encryption import CredentialUnusable, seal, unseal
from gateway.protocol.secret_fields import has_user, strip_user

HEADER = "header:Authorization"


def seal_address_users(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """A deployment whose credential cannot be opened here stays as it is: its seal must not be replaced."""
    model = apps.get_model("gateway", "Deployment")
    rows = model._base_manager.using(schema_editor.connection.alias)
    for row in rows.filter(api_base__contains="@").iterator():
        if not has_user(row.api_base):
            continue
        try:
            stored = {name: secret.reveal() for name, secret in unseal(context=row.id, sealed=row.credential).items()}
            parts = urlsplit(row.api_base)
        except (CredentialUnusable, ValueError):
            continue
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        if not any(name.lower() == HEADER.lower() for name in stored):  # which the client prefers
            stored[HEADER] = f"Basic {b64encode(login.encode()).decode()}"
        row.credential = seal(context=row.id, values=stored, beside=row.credential)
        row.api_base = strip_user(row.api_base)
        row.save(update_fields=["credential", "api_base"])


class Migration(migrations.Migration):
    dependencies = [("gateway", "0007_conversation_released_by")]
    operations = [migrations.RunPython(seal_address_users, migrations.RunPython.noop, elidable=True)]
