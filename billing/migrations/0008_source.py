from django.db import migrations, models


class Migration(migrations.Migration):
    """The source of a call: a client, or a probe of the gateway itself."""

    dependencies = [("billing", "0007_routing")]

    operations = [
        migrations.AddField("spendlog", "source", models.CharField(db_default="", default="", max_length=10)),
    ]
