"""The new sums of days."""

import billing.models.constraints
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0023_quarter_amounts'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='usageday',
            name='usage_day_is_whole',
        ),
        migrations.AddField(
            model_name='usageday',
            name='cache_hits',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='usageday',
            name='cache_saving_pusd',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='usageday',
            name='margin_pusd',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddConstraint(
            model_name='usageday',
            constraint=billing.models.constraints.WholeNumbers(fields=('requests', 'attempts', 'input_tokens', 'input_audio_tokens', 'cache_read_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens', 'output_tokens', 'output_audio_tokens', 'reasoning_tokens', 'cost_pusd', 'cache_hits', 'cache_saving_pusd', 'margin_pusd'), maximum=1152921504606846976, name='usage_day_is_whole'),
        ),
    ]
