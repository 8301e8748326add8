"""The index of the budget windows that are open, which alerts look at each minute."""

from django.db import migrations, models

from tenants.migrations._online_index import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("tenants", "0013_key_timeouts")]

    operations = [
        AddIndexOnline(
            model_name="budgetwindow", index=models.Index(fields=["ends_at"], name="budget_window_ends_at")
        ),
    ]
