"""The index of late rows, built on PostgreSQL without stopping writes."""

from django.db import migrations, models

from billing.migrations._online_index import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("billing", "0002_whole_numbers")]

    operations = [
        AddIndexOnline(
            model_name="spendlog",
            index=models.Index(condition=models.Q(("state", "late")), fields=["id"], name="spend_log_late"),
        ),
    ]
