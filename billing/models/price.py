"""Price: an immutable version of what a deployment's tokens cost. A change makes a new row."""

from decimal import Decimal

from django.db import models

from tenants.ids import new_id

#: Amounts are USD per token, kept as exact decimal text: SQLite would store a DecimalField as a float.
LINES = (
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "input_audio",
    "output_audio",
)


class Price(models.Model):
    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    deployment_id = models.CharField(max_length=255, db_index=True)
    lines = models.JSONField(default=dict)  # {line: "USD per token"}; an absent line is unknown, "0" is free
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return ", ".join(f"{name} ${Decimal(usd) * 1_000_000:f}/M" for name, usd in self.lines.items())
