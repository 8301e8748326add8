"""The saving of the prompt cache, on each row. This migration and the next four change a table each: pricing writes to
several in one transaction, so a migration that locked two of them could wait for pricing while pricing waits for it.
"""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0020_usage_members'),
        ('tenants', '0014_budget_window_end'),
    ]

    operations = [
        migrations.AddField(
            model_name='spendlog',
            name='cache_saving_pusd',
            field=models.BigIntegerField(null=True),
        ),
    ]
