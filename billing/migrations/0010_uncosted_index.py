"""The index of rows without a cost, built on PostgreSQL without stopping writes."""

from django.db import migrations, models

from billing.migrations._online_index import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("billing", "0009_cache_hit")]

    operations = [
        AddIndexOnline(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("state__in", ["unpriced", "lost"])), fields=["id"], name="spend_log_uncosted"
            ),
        ),
    ]
