"""Contracts by percentage, and what the provider is paid where the organization pays something else."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_log_indexes")]

    operations = [
        migrations.AddField(
            model_name="price",
            name="percent",
            field=models.CharField(blank=True, db_default="", default="", max_length=20),
        ),
        migrations.AddField(
            model_name="price",
            name="base_price_id",
            field=models.CharField(blank=True, db_default="", default="", max_length=36),
        ),
        migrations.AddField(
            model_name="spendlog",
            name="provider_cost_pusd",
            field=models.BigIntegerField(null=True),
        ),
    ]
