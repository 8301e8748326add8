"""The default organization and the revision counter exist from the first migration on."""

from django.db import migrations


def create(apps, schema_editor):
    apps.get_model("tenants", "Organization").objects.get_or_create(id="default", defaults={"name": "Default"})
    apps.get_model("tenants", "Revision").objects.get_or_create(id=1)


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
