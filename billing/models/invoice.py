"""InvoiceImport, InvoiceLine and InvoiceName: what providers charge the platform, whatever the organization."""

from django.db import models

from billing.models.constraints import WholeNumbers
from tenants.ids import new_id


class InvoiceImport(models.Model):
    """One file of a source. The same file again is the same import."""

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    source = models.CharField(max_length=40)  # see billing.reconciliation.sources
    account = models.CharField(max_length=255, default="", blank=True)  # of several accounts at one provider
    file_name = models.CharField(max_length=255, default="", blank=True)
    sha256 = models.CharField(max_length=64)
    first_day = models.DateField()
    last_day = models.DateField()
    records = models.BigIntegerField()  # that the file has
    lines = models.BigIntegerField()  # that they add up to
    actor = models.CharField(max_length=255, default="", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)  # when all of its days were written; None: it was interrupted

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["source", "account", "sha256"], name="invoice_import_is_unique")]

    def __str__(self) -> str:
        return f"{self.source} {self.first_day} to {self.last_day}"


class InvoiceLine(models.Model):
    """A sum of an invoice by day of UTC, SKU and component. `model` and `sku` are the invoice's own texts."""

    invoice = models.ForeignKey(InvoiceImport, on_delete=models.CASCADE, related_name="+")
    source = models.CharField(max_length=40)
    account = models.CharField(max_length=255, default="", blank=True)
    is_usage = models.BooleanField()  # a count, which other lines charge
    day = models.DateField()
    model = models.CharField(max_length=255)
    sku = models.CharField(max_length=255)
    component = models.CharField(max_length=20)  # see billing.reconciliation.lines.Component
    tier = models.CharField(max_length=255, default="", blank=True)
    region = models.CharField(max_length=255, default="", blank=True)
    quantity = models.BigIntegerField(null=True)  # tokens; None: the line does not say it
    amount_pusd = models.BigIntegerField(null=True)

    class Meta:
        constraints = [WholeNumbers(fields=["quantity", "amount_pusd"], name="invoice_line_is_whole")]
        indexes = [models.Index(fields=["source", "day"], name="invoice_line_day")]

    def __str__(self) -> str:
        return f"{self.source} {self.day} {self.sku}"


class InvoiceName(models.Model):
    """A name of a model, in an invoice or at our deployments, and the one under which both are compared."""

    source = models.CharField(max_length=40)
    name = models.CharField(max_length=255)
    model = models.CharField(max_length=255)

    class Meta:
        ordering = ["source", "name"]
        constraints = [models.UniqueConstraint(fields=["source", "name"], name="invoice_name_is_unique")]

    def __str__(self) -> str:
        return f"{self.name} is {self.model}"
