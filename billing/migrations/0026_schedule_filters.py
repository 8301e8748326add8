"""The filters and the measures of a scheduled report; those of before have none."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0025_member_day_amounts'),
    ]

    operations = [
        migrations.AddField(
            model_name='reportschedule',
            name='filters',
            field=models.JSONField(blank=True, db_default=models.Value({}, models.JSONField()), default=dict),
        ),
        migrations.AddField(
            model_name='reportschedule',
            name='measures',
            field=models.CharField(blank=True, db_default='', default='', max_length=40),
        ),
    ]
