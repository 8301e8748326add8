from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0006_price_catalogue'),
    ]

    operations = [
        migrations.AddField(
            model_name='spendlog',
            name='routing',
            field=models.TextField(db_default='', default=''),
        ),
    ]
