from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("gateway", "0002_responses")]

    operations = [
        migrations.AddIndex(
            model_name="storedresponse",
            index=models.Index(
                condition=models.Q(("conversation_id", ""), _negated=True),
                fields=["conversation_id", "created_at"],
                name="stored_response_conversation",
            ),
        ),
    ]
