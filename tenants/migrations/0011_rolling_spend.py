"""The buckets of rolling budget windows."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0010_idempotent_writes"),
    ]

    operations = [
        migrations.CreateModel(
            name="RollingSpend",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("ends_at", models.DateTimeField()),
                ("settled_pusd", models.BigIntegerField(default=0)),
                (
                    "window",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="buckets", to="tenants.budgetwindow"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("window", "ends_at"), name="rolling_spend_is_unique")],
            },
        ),
    ]
