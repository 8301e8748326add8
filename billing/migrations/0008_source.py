from django.db import migrations, models


class Migration(migrations.Migration):
    """The source of a call: a client, or a probe of the gateway itself."""

<<<<<<< HEAD
<<<<<<<< HEAD:billing/migrations/0008_source.py
    dependencies = [("billing", "0007_routing")]
========
    dependencies = [("billing", "0006_price_catalogue")]
>>>>>>>> c949871 (Serve POST /model/test):billing/migrations/0007_source.py
=======
    dependencies = [("billing", "0007_routing")]
>>>>>>> 0a7ae00 (Follow the newest migration)

    operations = [
        migrations.AddField("spendlog", "source", models.CharField(db_default="", default="", max_length=10)),
    ]
