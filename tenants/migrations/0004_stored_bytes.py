"""The bytes that an organization stores, as the worker last counted them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_responses")]

    operations = [
        migrations.AddField(
            model_name="organization",
            name="stored_bytes",
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
    ]
