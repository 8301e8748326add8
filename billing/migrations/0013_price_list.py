"""The index that the list of prices is paged by, built on PostgreSQL without stopping writes."""

from django.db import migrations, models

from billing.migrations._online_index import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("billing", "0012_adjustment_once_a_job")]

    operations = [
        AddIndexOnline(
            model_name="price",
            index=models.Index(fields=["provider", "model", "region", "organization_id"], name="price_list"),
        ),
    ]
