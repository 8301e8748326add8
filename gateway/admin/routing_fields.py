"""Form fields of the routing settings: their values as lines of text, which people read and write.

Shape of a line: `model group -> what belongs to it`, the parts separated by commas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from gateway.protocol.json.types import Json, JsonMapping, JsonObject

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ARROW = "->"
HIDDEN = re.compile(r"\s*\(hidden\)$")


class NumberField(forms.FloatField):
    """A count or a number of seconds; empty is the default, which the placeholder shows."""

    def __init__(
        self, *, label: "StrOrPromise", help_text: "StrOrPromise" = "", default: Json = None, unit: str = ""
    ) -> None:
        attrs = {
            "class": "tg-unit",
            "inputmode": "decimal",
            "autocomplete": "off",
            "placeholder": "" if default is None else f"{default:.15g}",
            "suffix": unit,
        }
        widget = UnfoldAdminTextInputWidget(attrs=attrs)
        super().__init__(widget=widget, required=False, label=label, help_text=help_text)

    def prepare_value(self, value: object) -> object:
        return f"{value:.15g}" if isinstance(value, int | float) else value

    def clean(self, value: object) -> int | float | None:
        number: float | None = super().clean(value)
        return int(number) if number is not None and number.is_integer() else number


class LinesField(forms.Field):
    """{name: value}, one line each. `read` and `write` convert the text behind the arrow; `read` raises ValueError with
    what it must be."""

    def __init__(
        self,
        *,
        label: "StrOrPromise",
        help_text: "StrOrPromise",
        example: str,
        read: Callable[[str], Json],
        write: Callable[[Json], str],
    ) -> None:
        attrs = {"rows": 3, "spellcheck": "false", "class": "tg-mono", "placeholder": example}
        super().__init__(
            widget=UnfoldAdminTextareaWidget(attrs=attrs), required=False, label=label, help_text=help_text
        )
        self.example = example
        self.read = read
        self.write = write

    def prepare_value(self, value: object) -> str:
        if not isinstance(value, dict | list):
            return str(value or "")
        return "\n".join(f"{name} {ARROW} {self.write(item)}" for name, item in _merge_rows(value).items())

    def to_python(self, value: object) -> JsonObject:
        rows: JsonObject = {}
        for number, line in enumerate(str(value or "").splitlines(), 1):
            if not line.strip():
                continue
            name, arrow, text = (part.strip() for part in line.partition(ARROW))
            if not name or not arrow or not text:
                raise self._fault(number, _("write it as “%s”") % self.example.splitlines()[0])
            if name in rows:
                raise self._fault(number, _("“%s” has a line already") % name)
            try:
                rows[name] = self.read(text)
            except ValueError as error:
                raise self._fault(number, error) from None
        return rows

    def _fault(self, number: int, problem: object) -> forms.ValidationError:
        return forms.ValidationError(_("Line %(number)d: %(problem)s.") % {"number": number, "problem": problem})

    def has_changed(self, initial: object, data: object) -> bool:
        return str(data or "").strip() != self.prepare_value(initial).strip()


def _merge_rows(value: Json) -> JsonMapping:
    """One mapping of `[{group: …}, …]`."""
    return value if isinstance(value, dict) else {name: item for row in value for name, item in row.items()}


def read_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(_("a name is missing between two commas"))
    return list(dict.fromkeys(names))


def write_names(value: Json) -> str:
    return ", ".join([value] if isinstance(value, str) else value)


def read_alias(text: str) -> Json:
    group = HIDDEN.sub("", text)
    return group if group == text else {"model": group, "hidden": True}


def write_alias(value: Json) -> str:
    if isinstance(value, str):
        return value
    return f"{value['model']} (hidden)" if value.get("hidden") else str(value["model"])


def read_numbers(text: str) -> Mapping[str, int | float]:
    """Reads `name = number, …`."""
    numbers: dict[str, int | float] = {}
    for part in text.split(","):
        name, _equals, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            raise ValueError(_("“%s” is no name = number") % part.strip()) from None
        numbers[name] = int(value) if value.is_integer() else value
    return numbers


def read_after(text: str) -> Json:
    """Reads `p95` or a number of seconds; other text is refused where the settings are checked."""
    try:
        return {"after": float(text.removesuffix("s").strip())}
    except ValueError:
        return {"after": text}


def write_after(value: Json) -> str:
    after = value.get("after", "p95")
    return after if isinstance(after, str) else f"{after:.15g}"


def write_numbers(value: Json) -> str:
    return ", ".join(f"{name} = {number:.15g}" for name, number in value.items() if number is not None)


def pick_numbers(values: Mapping[str, object], prefix: str, names: Sequence[str]) -> JsonObject:
    """{name: number} of the fields `prefix` + name that have one."""
    return {name: values[prefix + name] for name in names if values.get(prefix + name) is not None}
