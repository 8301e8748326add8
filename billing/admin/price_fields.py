"""Form fields of prices: amounts per million tokens, and any line of a price."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from billing.amounts import plain
from billing.catalogue.lines import MAX_LINES, has_too_many_decimals, is_line

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

MAX_USD = 1_000_000  # per million tokens, or per unit
#: The form's price fields → (line of the price, label, help).
PRICE_FIELDS: dict[str, tuple[str, "StrOrPromise", "StrOrPromise"]] = {
    "price_input": ("input", _("Input"), ""),
    "price_output": ("output", _("Output"), ""),
    "price_cache_read": (
        "cache_read",
        _("Cache read"),
        _("Input tokens that the upstream reads from its cache."),
    ),
    "price_cache_write": (
        "cache_write_5m",
        _("Cache write"),
        _("Input tokens that the upstream caches for 5 minutes."),
    ),
}


def make_price_field(label: "StrOrPromise", help_text: "StrOrPromise") -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(MAX_USD),
        max_digits=19,
        decimal_places=12,
        widget=UnfoldAdminTextInputWidget(
            attrs={
                "class": "tg-price",
                "inputmode": "decimal",
                "autocomplete": "off",
                "placeholder": _("unknown"),
                "prefix": "$",
                "suffix": _("per 1M tokens"),
            }
        ),
    )


class PriceLinesField(forms.Field):
    """Lines of a price, `KEY=USD`, one a line; USD per unit."""

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise") -> None:
        attrs = {"rows": 3, "spellcheck": "false", "class": "tg-mono", "placeholder": "input@batch=0.00000125"}
        super().__init__(
            widget=UnfoldAdminTextareaWidget(attrs=attrs), required=False, label=label, help_text=help_text
        )

    def to_python(self, value: object) -> dict[str, str]:
        lines: dict[str, str] = {}
        for number, row in enumerate(str(value or "").splitlines(), 1):
            if row.strip():
                key, usd = _read_row(row, number)
                if key in lines:
                    raise forms.ValidationError(
                        _("Line %(number)d: %(key)s stands twice.") % {"number": number, "key": key}
                    )
                lines[key] = usd
        if len(lines) > MAX_LINES:
            raise forms.ValidationError(_("A price has at most %d lines.") % MAX_LINES)
        return lines


def _read_row(row: str, number: int) -> tuple[str, str]:
    key, equals, text = (part.strip() for part in row.partition("="))
    if not equals or not is_line(key):
        raise forms.ValidationError(_("Line %d: write it as “input@batch=0.00000125”.") % number)
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    # Within bounds first: the text of 1e999999 has a million characters
    if not amount.is_finite() or not 0 <= amount <= MAX_USD or has_too_many_decimals(amount):
        raise forms.ValidationError(_("Line %d: the price must be a number of USD from 0 to 1,000,000.") % number)
    return key, plain(amount)
