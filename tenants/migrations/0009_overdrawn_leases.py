"""A lease may be below 0 after a call cost more than was leased."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("tenants", "0008_team_members")]

    operations = [
        migrations.RemoveConstraint(model_name="budgetlease", name="budget_lease_is_not_negative"),
    ]
