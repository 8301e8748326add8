"""Seals the credentials that an earlier version stored among the parameters in clear text."""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

from gateway.models.encryption import CredentialUnusable, seal, unseal
from gateway.protocol.secret_fields import split_secrets

#: Of the providers, at this migration.
OWN_SECRETS = frozenset(
    {
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "azure_ad_token"),
        *("api_key", "client_id", "client_secret", "tenant_id", "vertex_credentials"),
    }
)


def seal_parameters(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """A deployment whose credential cannot be opened here stays as it is: its seal must not be replaced."""
    model = apps.get_model("gateway", "Deployment")
    rows = model._base_manager.using(schema_editor.connection.alias)
    for row in rows.exclude(parameters={}).iterator():
        if not isinstance(row.parameters, dict):
            continue
        parameters, secrets = split_secrets(row.parameters, OWN_SECRETS)
        if not secrets:
            continue
        try:
            stored = {name: secret.reveal() for name, secret in unseal(context=row.id, sealed=row.credential).items()}
        except CredentialUnusable:
            continue
        row.credential = seal(context=row.id, values=secrets | stored, beside=row.credential)
        row.parameters = parameters
        row.save(update_fields=["credential", "parameters"])


class Migration(migrations.Migration):
    dependencies = [("gateway", "0005_response_head_default")]
    operations = [migrations.RunPython(seal_parameters, migrations.RunPython.noop, elidable=True)]
