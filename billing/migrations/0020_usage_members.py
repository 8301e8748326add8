"""The daily rollups of end users and tags. Where spend rows exist, `manage.py verify_ledger --repair` builds their days."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import billing.models.constraints
import django.db.models.deletion
from django.db import migrations, models

#: Workers of the version before may still price rows, without these rollups, until they are replaced.
ROLL_OUT = timedelta(days=2)


def begin_coverage(apps: Any, schema_editor: Any) -> None:
    if apps.get_model("billing", "SpendLog").objects.exists():
        begin = datetime.now(UTC).date() + ROLL_OUT
        apps.get_model("billing", "UsageCoverage").objects.update(members_complete_from=begin)


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0019_report_schedules'),
        ('tenants', '0014_budget_window_end'),
    ]

    operations = [
        migrations.AddField(
            model_name='usagecoverage',
            name='members_complete_from',
            field=models.DateField(db_default=date(2000, 1, 1), default=date(2000, 1, 1)),
        ),
        migrations.CreateModel(
            name='UsageMember',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('starts_at', models.DateTimeField()),
                ('dimension', models.CharField(choices=[('end_user', 'End User'), ('tag', 'Tag'), ('tagged', 'Tagged')], max_length=10)),
                ('name', models.CharField(max_length=255)),
                ('organization', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='tenants.organization')),
            ],
        ),
        migrations.CreateModel(
            name='UsageMemberDay',
            fields=[
                ('starts_at', models.DateTimeField()),
                ('requests', models.BigIntegerField(default=0)),
                ('attempts', models.BigIntegerField(default=0)),
                ('estimated', models.BigIntegerField(default=0)),
                ('unpriced', models.BigIntegerField(default=0)),
                ('input_tokens', models.BigIntegerField(default=0)),
                ('input_audio_tokens', models.BigIntegerField(default=0)),
                ('cache_read_tokens', models.BigIntegerField(default=0)),
                ('cache_write_5m_tokens', models.BigIntegerField(default=0)),
                ('cache_write_1h_tokens', models.BigIntegerField(default=0)),
                ('output_tokens', models.BigIntegerField(default=0)),
                ('output_audio_tokens', models.BigIntegerField(default=0)),
                ('reasoning_tokens', models.BigIntegerField(default=0)),
                ('cost_pusd', models.BigIntegerField(default=0)),
                ('duration_00', models.IntegerField(null=True)),
                ('duration_01', models.IntegerField(null=True)),
                ('duration_02', models.IntegerField(null=True)),
                ('duration_03', models.IntegerField(null=True)),
                ('duration_04', models.IntegerField(null=True)),
                ('duration_05', models.IntegerField(null=True)),
                ('duration_06', models.IntegerField(null=True)),
                ('duration_07', models.IntegerField(null=True)),
                ('duration_08', models.IntegerField(null=True)),
                ('duration_09', models.IntegerField(null=True)),
                ('duration_10', models.IntegerField(null=True)),
                ('duration_11', models.IntegerField(null=True)),
                ('duration_12', models.IntegerField(null=True)),
                ('duration_13', models.IntegerField(null=True)),
                ('duration_14', models.IntegerField(null=True)),
                ('duration_15', models.IntegerField(null=True)),
                ('duration_16', models.IntegerField(null=True)),
                ('duration_17', models.IntegerField(null=True)),
                ('duration_18', models.IntegerField(null=True)),
                ('duration_19', models.IntegerField(null=True)),
                ('duration_20', models.IntegerField(null=True)),
                ('duration_21', models.IntegerField(null=True)),
                ('duration_22', models.IntegerField(null=True)),
                ('duration_23', models.IntegerField(null=True)),
                ('ttft_00', models.IntegerField(null=True)),
                ('ttft_01', models.IntegerField(null=True)),
                ('ttft_02', models.IntegerField(null=True)),
                ('ttft_03', models.IntegerField(null=True)),
                ('ttft_04', models.IntegerField(null=True)),
                ('ttft_05', models.IntegerField(null=True)),
                ('ttft_06', models.IntegerField(null=True)),
                ('ttft_07', models.IntegerField(null=True)),
                ('ttft_08', models.IntegerField(null=True)),
                ('ttft_09', models.IntegerField(null=True)),
                ('ttft_10', models.IntegerField(null=True)),
                ('ttft_11', models.IntegerField(null=True)),
                ('ttft_12', models.IntegerField(null=True)),
                ('ttft_13', models.IntegerField(null=True)),
                ('ttft_14', models.IntegerField(null=True)),
                ('ttft_15', models.IntegerField(null=True)),
                ('ttft_16', models.IntegerField(null=True)),
                ('ttft_17', models.IntegerField(null=True)),
                ('ttft_18', models.IntegerField(null=True)),
                ('ttft_19', models.IntegerField(null=True)),
                ('ttft_20', models.IntegerField(null=True)),
                ('ttft_21', models.IntegerField(null=True)),
                ('ttft_22', models.IntegerField(null=True)),
                ('ttft_23', models.IntegerField(null=True)),
                ('pk', models.CompositePrimaryKey('starts_at', 'member_id', 'series_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('member', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='billing.usagemember')),
                ('organization', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='tenants.organization')),
                ('series', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='billing.usageseries')),
            ],
        ),
        migrations.AddConstraint(
            model_name='usagemember',
            constraint=models.UniqueConstraint(fields=('starts_at', 'organization', 'dimension', 'name'), name='usage_member_is_unique'),
        ),
        migrations.AddConstraint(
            model_name='usagememberday',
            constraint=billing.models.constraints.WholeNumbers(fields=('requests', 'attempts', 'input_tokens', 'input_audio_tokens', 'cache_read_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens', 'output_tokens', 'output_audio_tokens', 'reasoning_tokens', 'cost_pusd'), maximum=1152921504606846976, name='usage_member_day_is_whole'),
        ),
        migrations.RunPython(begin_coverage, migrations.RunPython.noop),
    ]
