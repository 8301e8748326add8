"""Price: an immutable version of what the calls of a model cost, and PriceBook: where such versions come from.

A version belongs to one deployment (`deployment_id`), to one organization (its contract, `organization_id`), or to the
catalogue. The two last name the provider and the model that they are for. In force is the active version with the
latest `effective_from`, of several the one made last. A change makes a new version; of one that exists only the
status changes. Prices are the platform's: a tenant writes none, and reads those of its own deployments and contracts.
"""

from decimal import Decimal

from django.db import models

from tenants.ids import new_id


class PriceBook(models.Model):
    """One state of a source of prices, as it was read."""

    class Source(models.TextChoices):
        SEED = "seed"
        LITELLM = "litellm"

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    source = models.CharField(max_length=10, choices=Source)
    title = models.CharField(max_length=255)
    licence = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["source", "sha256"], name="price_book_is_unique")]

    def __str__(self) -> str:
        return self.title


class Price(models.Model):
    class Status(models.TextChoices):
        DRAFT = "draft"
        ACTIVE = "active"
        RETIRED = "retired"

    class Origin(models.TextChoices):
        DEPLOYMENT = "deployment", "written with the deployment"
        SET = "set", "set apart from the deployment"
        BOOK = "book", "from a price book"
        CONTRACT = "contract", "an organization's contract"

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    deployment_id = models.CharField(max_length=255, db_index=True)
    #: {line: "USD per unit"}; an absent line is unknown, "0" is free. As exact decimal text: SQLite would store a
    #: DecimalField as a float. billing/catalogue/lines.py has the lines.
    lines = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    origin = models.CharField(max_length=10, choices=Origin, default=Origin.DEPLOYMENT, db_default="deployment")
    status = models.CharField(max_length=10, choices=Status, default=Status.ACTIVE, db_default="active")
    book = models.ForeignKey(PriceBook, on_delete=models.PROTECT, related_name="prices", null=True, blank=True)
    organization_id = models.CharField(max_length=255, default="", db_default="", blank=True)
    provider = models.CharField(max_length=40, default="", db_default="", blank=True)
    model = models.CharField(max_length=255, default="", db_default="", blank=True)
    region = models.CharField(max_length=64, default="", db_default="", blank=True)
    effective_from = models.DateTimeField(null=True, blank=True)  # None: for all time
    #: Of a contract: what it adds to the catalogue's price (of a row without a model: to those of all models), and the
    #: version that the provider is paid by.
    percent = models.CharField(max_length=20, default="", db_default="", blank=True)
    base_price_id = models.CharField(max_length=36, default="", db_default="", blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["model", "provider"], name="price_model"),
            models.Index(fields=["provider", "model", "region", "organization_id"], name="price_list"),
        ]

    def __str__(self) -> str:
        return ", ".join(f"{name} ${Decimal(usd) * 1_000_000:f}/M" for name, usd in self.lines.items())
