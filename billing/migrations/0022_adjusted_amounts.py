"""The changes of the margin and of the prompt cache's saving, on each adjustment."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0021_report_amounts'),
    ]

    operations = [
        migrations.AddField(
            model_name='priceadjustment',
            name='cache_saving_delta_pusd',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='priceadjustment',
            name='margin_delta_pusd',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
    ]
