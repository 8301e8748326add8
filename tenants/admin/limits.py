"""Limits and budgets on the screens of the rows that have them: form fields, bars of what is spent, and list cells."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from django import forms
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django_scopes import scopes_disabled
from unfold.decorators import display
from unfold.views import ChangeList
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from gateway.protocol.amounts import usd_exact, usd_short
from gateway.protocol.json.types import Json, JsonObject
from tenants.admin.console import (
    ConsoleAdmin,
    Context,
    DateTimeLocalField,
    Fieldsets,
    ServiceForm,
    muted_text,
    timestamp,
)
from tenants.budget_fields import MAX_BUDGET_USD, read_budget_duration
from tenants.budget_usage import BudgetUsage, Spender, SpenderUsage, read_usages
from tenants.budget_windows import is_rolling
from tenants.invalid import ArgumentInvalid
from tenants.limits import (
    LIMIT_FIELDS,
    MAX_RATE,
    MODEL_RATE_FIELDS,
    RATE_FIELDS,
    change_limits,
    find_template,
    render_limits,
)
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate, Organization, Scope, Team
from tenants.permissions import Area
from tenants.revision import bump_revision, changed_scope
from tenants.session_rights import readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

WARNING_PERCENT = 80

#: Duration → its name in a sentence. Months begin on the first, weeks on Monday.
DURATION_NAMES: Mapping[str, "StrOrPromise"] = {
    "1h": _("hour"),
    "1d": _("day"),
    "7d": _("week"),
    "1w": _("week"),
    "30d": _("month"),
    "1mo": _("month"),
}
DURATION_CHOICES: Sequence[tuple[str, "StrOrPromise"]] = [
    ("", _("Never: it counts for all time")),
    ("1h", _("Every hour")),
    ("1d", _("Every day")),
    ("7d", _("Every Monday")),
    ("30d", _("On the first of every month")),
    ("rolling 24h", _("Rolling: any 24 hours")),
    ("rolling 7d", _("Rolling: any 7 days")),
    ("rolling 30d", _("Rolling: any 30 days")),
]
#: Words that people write for a duration.
DURATION_WORDS = {"hour": "1h", "day": "1d", "week": "7d", "month": "30d"}

RATE_TITLES: Mapping[str, "StrOrPromise"] = {
    "rpm_limit": _("Requests per minute"),
    "tpm_limit": _("Tokens per minute"),
    "itpm_limit": _("Input tokens per minute"),
    "otpm_limit": _("Output tokens per minute"),
    "rpd_limit": _("Requests per day"),
    "tpd_limit": _("Tokens per day"),
    "max_parallel_requests": _("Parallel requests"),
    "model_rpm_limit": _("Requests per minute"),
    "model_tpm_limit": _("Tokens per minute"),
    "model_itpm_limit": _("Input tokens per minute"),
    "model_otpm_limit": _("Output tokens per minute"),
}

#: (value, title) of a select field.
Choice: TypeAlias = tuple[str, "StrOrPromise"]
#: What a window of the form means: (amount in USD, duration).
Window: TypeAlias = tuple[Decimal, str]

# Form fields


class AmountField(forms.DecimalField):
    """An amount in USD."""

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise" = "") -> None:
        attrs = {
            "class": "tg-amount",
            "inputmode": "decimal",
            "autocomplete": "off",
            "placeholder": _("no limit"),
            "prefix": "$",
        }
        super().__init__(
            label=label,
            help_text=help_text,
            required=False,
            min_value=Decimal(0),
            max_value=Decimal(MAX_BUDGET_USD),
            decimal_places=12,
            widget=UnfoldAdminTextInputWidget(attrs=attrs),
        )

    def to_python(self, value: object) -> Any:
        text = value.replace(",", "").strip().removeprefix("$") if isinstance(value, str) else value
        return super().to_python(text)

    def prepare_value(self, value: object) -> object:
        return plain_amount(value) if isinstance(value, Decimal) else value


class RateField(forms.IntegerField):
    """A number of requests or tokens."""

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise" = "") -> None:
        attrs = {"class": "tg-short", "placeholder": _("no limit"), "inputmode": "numeric"}
        widget = UnfoldAdminIntegerFieldWidget(attrs=attrs)
        super().__init__(
            label=label, help_text=help_text, required=False, min_value=0, max_value=MAX_RATE, widget=widget
        )


class WindowsField(forms.Field):
    """Budgets beside the main one: an amount and a duration on each line."""

    pattern = re.compile(r"\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)\s*(?:per|every|/)?\s*(\S.*)", re.IGNORECASE)

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise") -> None:
        attrs = {"rows": 2, "spellcheck": "false", "class": "tg-mono", "placeholder": _("5 per day")}
        super().__init__(
            widget=UnfoldAdminTextareaWidget(attrs=attrs), required=False, label=label, help_text=help_text
        )

    def to_python(self, value: object) -> list[Window]:
        return [self._read_line(line.strip()) for line in str(value or "").splitlines() if line.strip()]

    def _read_line(self, line: str) -> Window:
        error = forms.ValidationError(_("“%s” is no amount and duration, such as 5 per day.") % line[:100])
        match = self.pattern.fullmatch(line)
        if match is None:
            raise error
        word = match[2].strip().lower()
        try:
            return Decimal(match[1].replace(",", "")), read_budget_duration(DURATION_WORDS.get(word, word))
        except (InvalidOperation, ArgumentInvalid):
            raise error from None

    def prepare_value(self, value: object) -> object:
        if not isinstance(value, list):
            return value
        return "\n".join(f"{plain_amount(amount)} per {DURATION_NAMES.get(name, name)}" for amount, name in value)

    def has_changed(self, initial: list[Window] | None, data: object) -> bool:
        try:
            return sorted(self.to_python(data)) != sorted(initial or [])
        except forms.ValidationError:
            return True


class LimitsForm(ServiceForm):
    """The fields of limits and budgets, under the names of `tenants.limits`. The screen is a LimitsAdmin."""

    max_budget = AmountField(
        label=_("Budget"), help_text=_("Calls that would cost more than what is left are refused.")
    )
    budget_duration = forms.ChoiceField(
        label=_("Starts anew"), choices=DURATION_CHOICES, required=False, widget=UnfoldAdminSelectWidget()
    )
    soft_budget = AmountField(label=_("Soft budget"), help_text=_("Passing it is reported and refuses nothing."))
    rpm_limit = RateField(label=_("Requests per minute"))
    tpm_limit = RateField(label=_("Tokens per minute"), help_text=_("Input and output together."))
    tpd_limit = RateField(label=_("Tokens per day"))
    max_parallel_requests = RateField(label=_("Parallel requests"))
    budget_limits = WindowsField(
        label=_("Further budgets"),
        help_text=_("Beside the budget, one per line: an amount and hour, day, week, month or a duration such as 12h."),
    )
    temp_budget_increase = AmountField(label=_("Raise the budget by"))
    temp_budget_expiry = DateTimeLocalField(label=_("Raised until"))
    rpd_limit = RateField(label=_("Requests per day"))
    itpm_limit = RateField(label=_("Input tokens per minute"))
    otpm_limit = RateField(label=_("Output tokens per minute"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.spender is not None:
            self.initial = {**self.initial, **_read_initial(self.spender)}
        stored = self.initial.get("budget_duration") or ""
        if stored not in dict(DURATION_CHOICES):
            text = stored if is_rolling(stored) else _("Every %s") % DURATION_NAMES.get(stored, stored)
            add_choice(self.fields["budget_duration"], stored, text)

    #: The scope of the row that the form edits; None for a new one. LimitsAdmin sets it on its own subclass.
    spender: Spender | None = None

    def clean(self) -> Context:
        cleaned = super().clean()
        increase, expiry = cleaned.get("temp_budget_increase"), cleaned.get("temp_budget_expiry")
        if increase is not None and expiry is None and "temp_budget_expiry" not in self.errors:
            self.add_error("temp_budget_expiry", _("Enter until when the budget is raised."))
        if expiry is not None and increase is None and "temp_budget_increase" not in self.errors:
            self.add_error("temp_budget_increase", _("Enter by how much the budget is raised."))
        has_main = cleaned.get("max_budget") is not None or "max_budget" in self.errors
        if increase is not None and not has_main:
            self.add_error("temp_budget_increase", _("There is no budget that could be raised."))
        if cleaned.get("budget_duration") and not has_main and cleaned.get("soft_budget") is None:
            self.add_error("max_budget", _("Enter the amount that each window has."))
        return cleaned

    def limit_changes(self) -> JsonObject:
        """The changed limits as `change_limits` takes them."""
        names = LIMIT_FIELDS & set(self.changed_data)
        if names & {"temp_budget_increase", "temp_budget_expiry"}:
            names |= {"temp_budget_increase", "temp_budget_expiry"}
        return {name: _encode(self.cleaned_data.get(name)) for name in names}


def add_choice(field: forms.Field, value: str, title: "StrOrPromise") -> None:
    """Offers a stored value that is not among the usual ones."""
    if isinstance(field, forms.ChoiceField):
        field.choices = [*cast(list[Choice], field.choices), (value, title)]


def _read_initial(spender: Spender) -> Context:
    fields = render_limits(spender.organization, spender.scope, spender.scope_id)
    amounts = ("max_budget", "soft_budget", "temp_budget_increase")
    initial: Context = {name: _read_amount(fields[name]) for name in amounts}
    initial |= {name: fields[name] for name in (*RATE_FIELDS, "budget_duration")}
    initial["budget_limits"] = [
        (_read_amount(entry["max_budget"]), entry["budget_duration"] or "") for entry in fields["budget_limits"]
    ]
    initial["temp_budget_expiry"] = parse_datetime(fields["temp_budget_expiry"] or "")
    return initial


def _encode(value: object) -> Json:
    match value:
        case datetime():
            return value.isoformat()
        case list():
            return [{"max_budget": amount, "budget_duration": duration or None} for amount, duration in value]
    return value if value != "" else None


def _read_amount(value: Json) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def plain_amount(amount: Decimal) -> str:
    """Without exponent and without trailing zeros: `0.5`, `100`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# What is spent


@dataclass(frozen=True, slots=True)
class BudgetBar:
    """A budget as a page shows it. Percents are of the limit, or of the soft limit where there is no other."""

    model: str
    span: "StrOrPromise"
    spent_pusd: int
    held_pusd: int
    limit_pusd: int | None
    soft_limit_pusd: int | None
    ends_at: datetime | None
    notes: Sequence[str]
    is_rolling: bool = False

    @property
    def title(self) -> str:
        return f"{self.model or _('All models')} · {self.span}"

    @property
    def resets(self) -> SafeString | str:
        return timestamp(self.ends_at, is_complete=True) if self.ends_at else ""

    @property
    def whole_pusd(self) -> int:
        return (self.limit_pusd if self.limit_pusd is not None else self.soft_limit_pusd) or 0

    @property
    def percent(self) -> int:
        """Used and held; may exceed 100."""
        used = self.spent_pusd + self.held_pusd
        return 100 * used // self.whole_pusd if self.whole_pusd else 100

    @property
    def spent_width(self) -> float:
        return min(100.0, round(100 * self.spent_pusd / self.whole_pusd, 2)) if self.whole_pusd else 100.0

    @property
    def held_width(self) -> float:
        width = round(100 * self.held_pusd / self.whole_pusd, 2) if self.whole_pusd else 0.0
        return min(100.0 - self.spent_width, width)

    @property
    def soft_left(self) -> float | None:
        """The place of the soft limit on the bar."""
        if self.soft_limit_pusd is None or not self.limit_pusd or self.soft_limit_pusd >= self.limit_pusd:
            return None
        return round(100 * self.soft_limit_pusd / self.limit_pusd, 2)

    @property
    def kind(self) -> str:
        if self.percent >= 100:
            return "danger"
        is_soft_passed = self.soft_limit_pusd is not None and self.spent_pusd > self.soft_limit_pusd
        return "warning" if self.percent >= WARNING_PERCENT or is_soft_passed else ""

    @property
    def spent(self) -> SafeString:
        return render_amount(self.spent_pusd)

    @property
    def held(self) -> SafeString:
        return render_amount(self.held_pusd)

    @property
    def left(self) -> SafeString | None:
        """The amount that is left of the hard limit."""
        if self.limit_pusd is None:
            return None
        return render_amount(max(0, self.limit_pusd - self.spent_pusd - self.held_pusd))

    @property
    def whole(self) -> SafeString:
        return render_amount(self.whole_pusd)

    @property
    def is_soft(self) -> bool:
        return self.limit_pusd is None

    @property
    def meter(self) -> SafeString:
        return render_meter(self)


def make_bar(usage: BudgetUsage) -> BudgetBar:
    budget, state = usage.budget, usage.state
    notes = []
    if budget.soft_limit_pusd is not None and state.limit_pusd is not None:
        notes.append(_("soft budget %s") % usd_exact(budget.soft_limit_pusd))
    if state.limit_pusd is not None and state.limit_pusd != budget.limit_pusd and budget.increase_ends_at:
        until = f"{timezone.localtime(budget.increase_ends_at):%Y-%m-%d %H:%M}"
        raised = {"amount": usd_exact(budget.increase_pusd), "until": until}
        notes.append(_("raised by %(amount)s until %(until)s") % raised)
    if budget.scope == Scope.TEMPLATE:
        notes.append(_("from the template %s") % budget.scope_id)
    name = DURATION_NAMES.get(budget.duration, budget.duration)
    span = _("per %s") % name if budget.duration else _("for all time")
    if state.is_rolling:
        span = _("in any %s") % budget.duration.removeprefix("rolling ")
    return BudgetBar(
        model=budget.model,
        span=span,
        spent_pusd=max(0, state.spent_pusd),
        held_pusd=state.leased_pusd,
        limit_pusd=state.limit_pusd,
        soft_limit_pusd=budget.soft_limit_pusd,
        ends_at=state.ends_at,
        is_rolling=state.is_rolling,
        notes=notes,
    )


def render_amount(pusd: int) -> SafeString:
    """Rounded; the tooltip is exact."""
    return format_html('<span class="tg-number" title="{}">{}</span>', usd_exact(pusd), usd_short(pusd))


def render_cell(usage: SpenderUsage) -> SafeString:
    """The main budget as `spent / budget` over a thin bar; without one, what was spent in all."""
    main = usage.main
    if main is None or (main.state.limit_pusd is None and main.budget.soft_limit_pusd is None):
        return format_html('<span class="tg-muted">{}</span>', render_amount(usage.total_pusd))
    return render_spent(make_bar(main))


def render_spent(bar: BudgetBar) -> SafeString:
    return format_html(
        '<span class="tg-spent" title="{}"><span class="tg-number">{} / {}</span>{}</span>',
        bar.title,
        usd_short(bar.spent_pusd),
        usd_short(bar.whole_pusd),
        render_meter(bar),
    )


def render_meter(bar: BudgetBar) -> SafeString:
    """The bar alone; the text beside it says the same."""
    held = format_html('<i class="tg-meter-held" style="width:{}%"></i>', bar.held_width) if bar.held_pusd else ""
    soft = format_html('<i class="tg-meter-soft" style="left:{}%"></i>', bar.soft_left) if bar.soft_left else ""
    return format_html(
        '<span class="tg-meter{}" aria-hidden="true"><i style="width:{}%"></i>{}{}</span>',
        f" tg-meter-{bar.kind}" if bar.kind else "",
        bar.spent_width,
        held,
        soft,
    )


@dataclass(frozen=True, slots=True)
class RateLine:
    title: "StrOrPromise"
    model: str
    value: str


def list_rates(fields: JsonObject) -> list[RateLine]:
    """The rate limits that are set, from the fields of `render_limits`."""
    lines = [RateLine(RATE_TITLES[name], "", f"{fields[name]:,}") for name in RATE_FIELDS if fields[name] is not None]
    for name in MODEL_RATE_FIELDS:
        lines += [RateLine(RATE_TITLES[name], model, f"{value:,}") for model, value in fields[name].items()]
    return lines


def find_shared_templates() -> models.QuerySet[BudgetTemplate]:
    """All templates but those that hold the limits of a team's members."""
    return BudgetTemplate.objects.exclude(pk__in=Team.objects.exclude(member_template=None).values("member_template"))


def find_offered_templates(request: HttpRequest) -> models.QuerySet[BudgetTemplate]:
    """The templates that the signed-in user may name: the platform's, and those of the user's organizations."""
    with scopes_disabled():  # the filter below takes the place of the scope, which has no platform's templates
        rows = find_shared_templates()
    own = readable_rows(request, Area.ORGANIZATIONS, Organization.objects.all())
    return rows.filter(models.Q(organization__in=own) | models.Q(organization=DEFAULT_ORGANIZATION))


class UsageChangeList(ChangeList):
    """A list that reads the usage of its page's rows with three queries."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.model_admin.read_usages(self.result_list)


class LimitsAdmin(ConsoleAdmin):
    """Rows with limits and budgets. Their form is a LimitsForm, their list may show `spent`."""

    change_form_outer_before_template = "console/usage.html"
    refusal_fields: Mapping[str, str] = {"budget_id": "budget_template"}
    #: False where the row itself spends nothing.
    has_usage = True

    def formfield_for_foreignkey(
        self, db_field: "models.ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> "forms.ModelChoiceField[Any] | None":
        """Templates that the row's organization may use; for a new row, the service decides."""
        if db_field.name == "budget_template":
            kwargs["queryset"] = find_offered_templates(request)
            kwargs["label"], kwargs["empty_label"] = _("Budget template"), _("none")
            kwargs["help_text"] = _("Fills in the budgets and limits that are empty here.")
        field: forms.ModelChoiceField[Any] | None = super().formfield_for_foreignkey(db_field, request, **kwargs)
        return field

    def find_spender(self, row: Any) -> Spender | None:
        """The scope of a row; None where it cannot have limits."""
        raise NotImplementedError

    def get_changelist(self, request: HttpRequest, **kwargs: object) -> type[ChangeList]:
        return UsageChangeList

    def read_usages(self, rows: Sequence[Any]) -> None:
        """Gives each row its usage, for `spent`."""
        spenders = {row.pk: spender for row in rows if (spender := self.find_spender(row)) is not None}
        usages = dict(zip(spenders, read_usages(list(spenders.values())), strict=True))
        for row in rows:
            row.usage = usages.get(row.pk)

    @display(description=_("spent / budget"))
    def spent(self, row: Any) -> SafeString:
        return render_cell(row.usage) if row.usage is not None else muted_text("–")

    def get_form(
        self, request: HttpRequest, obj: models.Model | None = None, change: bool = False, **kwargs: object
    ) -> type[ServiceForm]:
        form = super().get_form(request, obj, change, **kwargs)
        if issubclass(form, LimitsForm):
            form.spender = self.find_spender(obj) if obj is not None else None
        return form

    def render_change_form(
        self, request: HttpRequest, context: Context, *args: object, **kwargs: object
    ) -> HttpResponse:
        row = kwargs.get("obj")
        spender = self.find_spender(row) if row is not None else None
        if spender is not None and self.has_usage:
            context |= describe_usage(spender)
        return super().render_change_form(request, context, *args, **kwargs)

    def limit_fieldsets(self, request: HttpRequest, row: models.Model | None) -> Fieldsets:
        """Who only reads sees the limits above the form."""
        return LIMIT_FIELDSETS if row is None or self.has_change_permission(request, row) else []

    def save_limits(self, row: Any, form: LimitsForm) -> None:
        """Store the changed limits. Within the transaction that stores the row."""
        changes, spender = form.limit_changes(), self.find_spender(row)
        if not changes or spender is None:
            return
        change_limits(spender.organization, spender.scope, spender.scope_id, changes)
        bump_revision(changed_scope(spender.organization.id, spender.scope, spender.scope_id))


def describe_usage(spender: Spender) -> Context:
    """The variables of console/usage.html."""
    (usage,) = read_usages([spender])
    fields = render_limits(spender.organization, spender.scope, spender.scope_id)
    if spender.template_id is not None:
        template = find_template(spender.template_id, spender.organization)
        fields = _fill_in(fields, render_limits(template.organization, Scope.TEMPLATE, template.pk))
    return {
        "usage_bars": [make_bar(entry) for entry in usage.budgets],
        "usage_rates": list_rates(fields),
        "usage_total": render_amount(usage.total_pusd),
    }


def _fill_in(fields: JsonObject, template: JsonObject) -> JsonObject:
    """The rate limits, with those of the template where a scope has none itself."""
    rates = {name: template[name] if fields[name] is None else fields[name] for name in RATE_FIELDS}
    return rates | {name: {**template[name], **fields[name]} for name in MODEL_RATE_FIELDS}


BUDGET_FIELDS = ["max_budget", "budget_duration", "soft_budget"]
#: The fieldsets of a LimitsForm for a row that takes over no template.
TEMPLATE_FIELDSETS: Fieldsets = [
    (_("Budget"), {"fields": BUDGET_FIELDS}),
    (_("Rate limits"), {"fields": ["rpm_limit", "tpm_limit", "tpd_limit", "max_parallel_requests"]}),
    (
        _("More limits"),
        {
            "classes": ["collapse"],
            "fields": [
                "budget_limits",
                "temp_budget_increase",
                "temp_budget_expiry",
                "rpd_limit",
                "itpm_limit",
                "otpm_limit",
            ],
        },
    ),
]
#: The fieldsets of a LimitsForm.
LIMIT_FIELDSETS: Fieldsets = [(_("Budget"), {"fields": [*BUDGET_FIELDS, "budget_template"]}), *TEMPLATE_FIELDSETS[1:]]
