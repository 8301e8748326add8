from django.db import migrations, models

from gateway.state.packing import pack, pack_response, unpack, unpack_response

BATCH = 200


def split(apps, schema_editor):
    def parts(row):
        whole = unpack(row.body)
        return pack_response(whole["input"], whole["response"])

    _each(apps, parts)


def join(apps, schema_editor):
    def whole(row):
        asked, response = unpack_response(row.body, row.head)
        return pack({"input": asked, "response": response}), b""

    _each(apps, whole)


def _each(apps, packed):
    rows = apps.get_model("gateway", "StoredResponse").objects.order_by("pk")
    last = ""
    while batch := list(rows.filter(pk__gt=last).only("pk", "body", "head")[:BATCH]):
        for row in batch:
            row.body, row.head = packed(row)
        rows.bulk_update(batch, ["body", "head"])
        last = batch[-1].pk


class Migration(migrations.Migration):
    dependencies = [("gateway", "0003_conversation_deployment")]

    operations = [
        migrations.AddField("storedresponse", "head", models.BinaryField(default=b""), preserve_default=False),
        migrations.RunPython(split, join),
    ]
