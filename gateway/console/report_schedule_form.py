"""The form of a scheduled report, and the words for its time."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from django import forms
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from billing.models import AlertChannel, ReportSchedule
from billing.report_schedules.writes import DEFAULT_HOUR, FORMATS, Settings
from billing.reports.query import DIMENSIONS, FILTERS, MARGIN
from gateway.console.alert_owner import OwnedForm, sees_all
from gateway.console.report_choice import COLUMNS
from gateway.console.spend_report import TITLES

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

PERIODS: Mapping[str, "StrOrPromise"] = {
    "yesterday": _("Yesterday"),
    "last_7_days": _("The last 7 days"),
    "last_30_days": _("The last 30 days"),
    "last_week": _("Last week, Monday to Sunday"),
    "last_month": _("Last month"),
}
WEEKDAYS: Mapping[str, "StrOrPromise"] = {
    "monday": _("Monday"),
    "tuesday": _("Tuesday"),
    "wednesday": _("Wednesday"),
    "thursday": _("Thursday"),
    "friday": _("Friday"),
    "saturday": _("Saturday"),
    "sunday": _("Sunday"),
}
FREQUENCIES: Mapping[str, "StrOrPromise"] = {
    "daily": _("Every day"),
    "weekly": _("Every week"),
    "monthly": _("Every month"),
}
GROUPS = [(name, TITLES.get(name, name)) for name in DIMENSIONS]
#: The parameter of a refusal → the field of the form.
FIELD_OF_PARAM = {"group_by": "group_first", "tz": "time_zone"}


class FiltersField(forms.Field):
    """`DIMENSION=MEMBER`, one a line."""

    def to_python(self, value: object) -> dict[str, str]:
        filters: dict[str, str] = {}
        for number, line in enumerate(str(value or "").splitlines(), 1):
            name, equals, member = (part.strip() for part in line.partition("="))
            if name in filters:
                text = _("Line %(number)d: a report has one member of %(name)s.")
                raise forms.ValidationError(text % {"number": number, "name": name})
            if equals:
                filters[name] = member
            elif name:
                raise forms.ValidationError(_("Line %d: write it as “team=red”.") % number)
        return filters


class ScheduleForm(OwnedForm):
    name = forms.CharField(
        label=_("Name"), max_length=255, widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"})
    )
    period = forms.ChoiceField(label=_("Period"), choices=list(PERIODS.items()), widget=UnfoldAdminSelectWidget())
    group_first = forms.ChoiceField(label=_("By"), choices=GROUPS, initial="team", widget=UnfoldAdminSelectWidget())
    group_second = forms.ChoiceField(
        label=_("And by"), choices=[("", "–"), *GROUPS], required=False, widget=UnfoldAdminSelectWidget()
    )
    filters = FiltersField(
        label=_("Only"),
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2, "spellcheck": "false", "placeholder": "team=red"}),
        help_text=_("The rows of these members alone, one a line: %s.") % ", ".join(FILTERS),
    )
    measures = forms.ChoiceField(
        label=_("Columns"), choices=list(COLUMNS.items()), required=False, widget=UnfoldAdminSelectWidget()
    )
    format = forms.ChoiceField(
        label=_("File in a mail"), choices=[(name, name.upper()) for name in FORMATS], widget=UnfoldAdminSelectWidget()
    )
    frequency = forms.ChoiceField(
        label=_("How often"), choices=list(FREQUENCIES.items()), widget=UnfoldAdminSelectWidget()
    )
    weekday = forms.ChoiceField(
        label=_("Day of the week"),
        choices=list(WEEKDAYS.items()),
        required=False,
        widget=UnfoldAdminSelectWidget(),
        help_text=_("Of a report of every week."),
    )
    day = forms.IntegerField(
        label=_("Day of the month"),
        min_value=1,
        max_value=31,
        required=False,
        initial=1,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text=_("Of a report of every month; the last day of a shorter one."),
    )
    hour = forms.IntegerField(
        label=_("Hour"), min_value=0, max_value=23, initial=DEFAULT_HOUR, widget=UnfoldAdminIntegerFieldWidget()
    )
    time_zone = forms.CharField(
        label=_("Time zone"),
        max_length=64,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=_("Of the hour, and of the days of the report."),
    )
    channels = forms.MultipleChoiceField(
        label=_("Send to"),
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        required=False,
        error_messages={"invalid_choice": _("Choose among the channels that stand here: those of the report's owner.")},
    )
    is_enabled = forms.BooleanField(label=_("enabled"), required=False, initial=True, widget=UnfoldBooleanWidget())

    def __init__(
        self,
        request: HttpRequest,
        data: Mapping[str, object] | None,
        channels: Iterable[AlertChannel],
        *,
        row: ReportSchedule | None = None,
        initial: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(request, data, initial=initial if row is None else _initial_of(row))
        if row is not None:
            self.fields.pop("organization", None)
        field = self.fields["channels"]
        assert isinstance(field, forms.MultipleChoiceField)
        has_owners = "organization" in self.fields
        if not sees_all(request):
            measures = self.fields["measures"]
            assert isinstance(measures, forms.ChoiceField)
            measures.choices = [(name, title) for name, title in COLUMNS.items() if MARGIN not in name]
        field.choices = [(channel.id, _name_channel(channel, has_owner=has_owners)) for channel in channels]

    def settings(self) -> Settings:
        """The values of a form that is valid."""
        data = self.cleaned_data
        return Settings(
            name=data["name"],
            group_by=",".join(name for name in (data["group_first"], data["group_second"]) if name),
            period=data["period"],
            time_zone=data["time_zone"],
            format=data["format"],
            frequency=data["frequency"],
            weekday=data["weekday"] or None if data["frequency"] == ReportSchedule.Frequency.WEEKLY else None,
            day=data["day"] if data["frequency"] == ReportSchedule.Frequency.MONTHLY else None,
            hour=data["hour"],
            channel_ids=data["channels"],
            is_enabled=data["is_enabled"],
            filters=data["filters"],
            measures=data["measures"],
        )


def _initial_of(row: ReportSchedule) -> dict[str, object]:
    first, _comma, second = row.group_by.partition(",")
    return {
        "name": row.name,
        "period": row.period,
        "group_first": first,
        "group_second": second,
        "format": row.format,
        "frequency": row.frequency,
        "weekday": row.weekday,
        "day": row.day or 1,
        "hour": row.hour,
        "time_zone": row.time_zone,
        "channels": row.channel_ids,
        "is_enabled": row.is_enabled,
        "filters": "\n".join(f"{name}={member}" for name, member in row.filters.items()),
        "measures": row.measures,
    }


def _name_channel(channel: AlertChannel, *, has_owner: bool) -> str:
    name = f"{channel.name} ({channel.get_kind_display()})"
    if not has_owner:
        return name
    return f"{channel.organization.name if channel.organization is not None else _('Platform')}: {name}"


def describe_timing(row: ReportSchedule) -> str:
    """`Every week, Monday 08:00 Europe/Berlin`."""
    day = str(WEEKDAYS[row.weekday]) if row.weekday else f"{_('day')} {row.day}" if row.day is not None else ""
    often = f"{FREQUENCIES[row.frequency]}, {day}".removesuffix(", ")
    return f"{often} {row.hour:02}:00 {row.time_zone}" if day else f"{often}, {row.hour:02}:00 {row.time_zone}"
