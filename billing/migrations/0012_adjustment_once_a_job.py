"""A row is adjusted once by a job, and may come back to a price that it had before."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_usage_rollups")]

    operations = [
        migrations.AddConstraint(
            model_name="priceadjustment",
            constraint=models.UniqueConstraint(fields=("spend_id", "job_id"), name="price_adjustment_is_once_a_job"),
        ),
        migrations.RemoveConstraint(model_name="priceadjustment", name="price_adjustment_is_unique"),
    ]
