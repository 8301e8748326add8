from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("gateway", "0008_seal_address_users")]

    operations = [
        migrations.AddIndex(
            "backgroundrun",
            models.Index(fields=["organization", "key_digest", "worker_id", "queued_at"], name="background_run_slots"),
        ),
    ]
