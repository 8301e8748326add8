from django.db import migrations, models


class Migration(migrations.Migration):
    """A store of the version before `head` works too: the database fills the column in."""

    dependencies = [("gateway", "0004_response_head")]

    operations = [
        migrations.AlterField("storedresponse", "head", models.BinaryField(db_default=b"")),
    ]
