from django.db import migrations, models


class Migration(migrations.Migration):
    """The fence of a conversation: a release of the version before leaves it empty, and that version adds without it."""

    dependencies = [("gateway", "0006_seal_parameters")]

    operations = [
        migrations.AddField(
            "conversation", "released_by", models.CharField(blank=True, db_default="", default="", max_length=64)
        ),
    ]
