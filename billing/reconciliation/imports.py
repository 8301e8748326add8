"""Importing invoices: a file's lines replace those of the same source, account and days, so that the same file, or a
later export of the same days, is never counted twice.

Each day is one short transaction, and imports take turns: where one is interrupted, some days are new and some are as
before, and the file is imported again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import BinaryIO

from django.utils import timezone

from billing.models import InvoiceImport, InvoiceLine, InvoiceName
from billing.reconciliation.lines import MAX_NAME, InvoiceUnreadable, LineKey, LineSum
from billing.reconciliation.source import InvoiceSource, read_invoice
from tenants.audit import Entry, record, snapshot
from tenants.revision import write_transaction

ROWS_PER_INSERT = 500


@dataclass(frozen=True, slots=True)
class Imported:
    """`replaced`: lines of earlier imports that gave way to it."""

    invoice: InvoiceImport
    replaced: int


def import_invoice(
    file: BinaryIO, source: InvoiceSource, *, account: str = "", file_name: str = "", actor: str = ""
) -> Imported:
    """Raises InvoiceUnreadable; then nothing is written, but where another request takes the import back meanwhile."""
    content = read_invoice(file, source)
    by_day: dict[date, dict[LineKey, LineSum]] = defaultdict(dict)
    for key, found in content.sums.items():
        by_day[key.day][key] = found
    account = account[:MAX_NAME]
    with write_transaction():
        invoice, _ = InvoiceImport.objects.update_or_create(
            source=source.name,
            account=account,
            sha256=content.digest,
            defaults={
                "file_name": file_name.encode(errors="replace").decode()[:MAX_NAME],
                "first_day": min(by_day),
                "last_day": max(by_day),
                "records": content.records,
                "lines": len(content.sums),
                "actor": actor[:MAX_NAME],
                "ended_at": None,
            },
        )
        told = {"source": source.name, "account": account, "first_day": str(min(by_day)), "last_day": str(max(by_day))}
        record(Entry("create", "invoice_import", invoice.id, None, {}, told))
    replaced = sum(_replace_day(invoice, day, sums) for day, sums in sorted(by_day.items()))
    invoice.ended_at = timezone.now()
    InvoiceImport.objects.filter(pk=invoice.pk).update(ended_at=invoice.ended_at)
    return Imported(invoice, replaced)


def _replace_day(invoice: InvoiceImport, day: date, sums: Mapping[LineKey, LineSum]) -> int:
    """Returns how many lines of other imports it has replaced. Raises InvoiceUnreadable for an import that is gone."""
    kinds = {key.is_usage for key in sums}
    with write_transaction():
        if not InvoiceImport.objects.filter(pk=invoice.pk).exists():
            raise InvoiceUnreadable("its import was taken back meanwhile")
        found = InvoiceLine.objects.filter(source=invoice.source, account=invoice.account, day=day, is_usage__in=kinds)
        replaced = found.exclude(invoice=invoice).count()
        found.delete()
        InvoiceLine.objects.bulk_create(_make_lines(invoice, sums), batch_size=ROWS_PER_INSERT)
    return replaced


def _make_lines(invoice: InvoiceImport, sums: Mapping[LineKey, LineSum]) -> Iterable[InvoiceLine]:
    for key, found in sums.items():
        yield InvoiceLine(
            invoice=invoice,
            source=invoice.source,
            account=invoice.account,
            is_usage=key.is_usage,
            day=key.day,
            model=key.model,
            sku=key.sku,
            component=key.component.value,
            tier=key.tier,
            region=key.region,
            quantity=found.quantity,
            amount_pusd=found.amount_pusd,
        )


def delete_invoice(invoice: InvoiceImport) -> None:
    """Takes back an import with its lines."""
    with write_transaction():
        stored = InvoiceImport.objects.filter(pk=invoice.pk).first()
        if stored is not None:  # else another request was faster
            record(Entry("delete", "invoice_import", stored.id, None, snapshot(stored), None))
            stored.delete()


def name_model(source: InvoiceSource, *, name: str, model: str) -> InvoiceName:
    """From now on the name is compared as this model."""
    with write_transaction():
        row, _ = InvoiceName.objects.update_or_create(source=source.name, name=name, defaults={"model": model})
        record(
            Entry(
                "update", "invoice_name", str(row.pk), None, {}, {"source": source.name, "name": name, "model": model}
            )
        )
    return row


def forget_name(source: InvoiceSource, name: str) -> bool:
    """False where the name had no model."""
    with write_transaction():
        row = InvoiceName.objects.filter(source=source.name, name=name).first()
        if row is None:
            return False
        record(Entry("delete", "invoice_name", str(row.pk), None, {"name": name, "model": row.model}, {}))
        row.delete()
    return True
