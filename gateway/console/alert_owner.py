"""The channels and schedules that a user sees and changes on the pages of alerts: by the same rights as in the API."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django import forms
from django.db import models
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminSelectWidget

from gateway.protocol.errors import ClientFault
from tenants.invalid import ArgumentInvalid
from tenants.models import Organization
from tenants.permissions import Area, Reach, Row, writable_rows
from tenants.session_rights import caller_of, reach_of_user, readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

MAX_OWNERS = 500  # organizations, in the list of a form


def may_see_alerts(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.ALERTS) >= Reach.ORGANIZATION


def may_change_alerts(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.ALERTS, write=True) >= Reach.ORGANIZATION


def sees_all(request: HttpRequest) -> bool:
    return reach_of_user(request, Area.ALERTS) == Reach.PLATFORM


def may_choose_owner(request: HttpRequest) -> bool:
    """The forms of new things let platform admins choose the owner."""
    return reach_of_user(request, Area.ALERTS, write=True) == Reach.PLATFORM


def find_row(request: HttpRequest, rows: models.QuerySet[Row], key: str, *, write: bool) -> Row:
    """Raises Http404 for a row that the user may not see, or not change."""
    caller = caller_of(request)
    if caller is None or "\0" in key:
        raise Http404
    allowed = writable_rows(caller, Area.ALERTS, rows) if write else readable_rows(request, Area.ALERTS, rows)
    row = allowed.filter(pk=key).first()
    if row is None:
        raise Http404
    return row


class OwnedForm(forms.Form):
    """A form of a new thing, with a choice of its organization for those who write those of all."""

    def __init__(
        self, request: HttpRequest, data: Mapping[str, object] | None, initial: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(data, initial=dict(initial or {}))
        self._caller = caller_of(request)
        if may_choose_owner(request):
            places = Organization.objects.order_by("name").values_list("id", "name")[:MAX_OWNERS]
            choices: list[tuple[str, StrOrPromise]] = [("", _("The platform: all organizations")), *places]
            self.fields["organization"] = forms.ChoiceField(
                label=_("Organization"),
                choices=choices,
                required=False,
                widget=UnfoldAdminSelectWidget(),
                help_text=_("The first %d by name; the API takes any.") % MAX_OWNERS
                if len(places) == MAX_OWNERS
                else "",
            )
            self.order_fields(["organization"])

    def find_owner(self) -> Organization | None:
        """None: the platform's. Of others than platform admins their own organization, whatever the form says."""
        is_platform = "organization" in self.fields
        if is_platform and not self.cleaned_data["organization"]:
            return None
        own = self._caller.organization_id if self._caller is not None else None
        owner = self.cleaned_data["organization"] if is_platform else own
        return get_object_or_404(Organization, pk=owner)  # never the platform's where it was deleted meanwhile


def add_refusal(form: forms.Form, refusal: ArgumentInvalid | ClientFault, fields: Mapping[str, str]) -> None:
    """`fields`: the parameter of the service → the field of the form, where the names differ."""
    param, _dot, part = (refusal.param or "").partition(".")
    name, text = fields.get(param, param), refusal.message
    if part and part not in text:
        text = f"{part} {text}"
    text = text[:1].upper() + text[1:]
    form.add_error(name if name in form.fields else None, text)
