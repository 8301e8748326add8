from django.db import migrations, models


class Migration(migrations.Migration):
    """The text of the error that ended an attempt."""

    dependencies = [("billing", "0003_late_index")]

    operations = [
        migrations.AddField("spendlog", "error_message", models.CharField(db_default="", default="", max_length=1000)),
    ]
