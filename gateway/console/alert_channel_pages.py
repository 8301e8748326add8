"""The pages of an alert channel: a new one, and one that is changed, tested, rotated or deleted."""

from collections.abc import Mapping

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from billing.alerts.channels import (
    ALERT_KINDS,
    MAX_URL,
    ChannelUnusable,
    NewChannel,
    change_channel,
    create_channel,
    delete_channel,
    rotate_secret,
)
from billing.alerts.record import send_test
from billing.models import AlertChannel, AlertKind
from gateway.console.alert_owner import OwnedForm, add_refusal, find_row
from gateway.protocol.errors import RateLimited
from tenants.admin.console import TextListField
from tenants.admin.virtual_key import create_nonce, use_nonce
from tenants.invalid import ArgumentInvalid

KINDS = [(kind, AlertKind(kind).label) for kind in ALERT_KINDS]


class ChannelForm(OwnedForm):
    name = forms.CharField(
        label=_("Name"), max_length=255, widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"})
    )
    kind = forms.ChoiceField(label=_("Kind"), choices=AlertChannel.Kind.choices, widget=UnfoldAdminSelectWidget())
    url = forms.CharField(
        label=_("Address"),
        required=False,
        max_length=MAX_URL,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false", "inputmode": "url"}),
        help_text=_("Of all kinds but e-mail. It is kept secret: pages show its host alone."),
    )
    recipients = TextListField(label=_("Recipients"), help_text=_("Of e-mail: addresses, one a line."))
    secret = forms.CharField(
        label=_("Secret"),
        required=False,
        max_length=255,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text=_("Of Feishu and DingTalk, where their settings have one. A webhook gets its own, shown once."),
    )
    alert_kinds = forms.MultipleChoiceField(
        label=_("Only these alerts; none is all"),
        choices=KINDS,
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
    )
    is_enabled = forms.BooleanField(label=_("enabled"), required=False, initial=True, widget=UnfoldBooleanWidget())

    def __init__(
        self, request: HttpRequest, data: Mapping[str, object] | None, *, row: AlertChannel | None = None
    ) -> None:
        super().__init__(request, data, initial=None if row is None else _initial_of(row))
        if row is None:
            return
        unused = "url" if row.kind == AlertChannel.Kind.EMAIL else "recipients"
        for name in ("kind", "secret", "organization", unused):
            self.fields.pop(name, None)
        for name in self.fields.keys() & {"url", "recipients"}:
            self.fields[name].help_text = _("Empty: it stays at %(hint)s") % {"hint": row.hint}


def _initial_of(row: AlertChannel) -> dict[str, object]:
    return {"name": row.name, "alert_kinds": row.alert_kinds, "is_enabled": row.is_enabled}


def show_new_channel(site: AdminSite, request: HttpRequest) -> HttpResponse:
    """After a creation the page with the secret of a webhook, which no other page shows."""
    form = ChannelForm(request, request.POST or None)
    if request.method == "POST" and form.is_valid() and not use_nonce(request):
        messages.warning(request, _("This form was sent before: the channel is in the list."))
        return HttpResponseRedirect(reverse("admin:alerts"))
    if request.method == "POST" and form.is_valid():
        try:
            made = _create(form)
        except ArgumentInvalid as refusal:
            add_refusal(form, refusal, {})
        else:
            messages.success(request, _("The channel is there. Send a test to see whether it works."))
            return _show_secret(site, request, made.channel, made.secret)
    return _render(site, request, form, None)


def _create(form: ChannelForm) -> NewChannel:
    """Raises ArgumentInvalid."""
    data = form.cleaned_data
    with transaction.atomic():
        return create_channel(
            organization=form.find_owner(),
            **{
                name: data[name]
                for name in ("name", "kind", "url", "recipients", "secret", "alert_kinds", "is_enabled")
            },
        )


def show_channel(site: AdminSite, request: HttpRequest, channel_id: str) -> HttpResponse:
    """POST changes it; with `action` it is tested, rotated or deleted."""
    row = find_row(request, AlertChannel.objects.all(), channel_id, write=True)
    action = request.POST.get("action", "")
    if action == "test":
        _test(request, row)
        return HttpResponseRedirect(reverse("admin:alerts"))
    if action == "delete":
        delete_channel(row)
        messages.success(request, _("The channel is deleted."))
        return HttpResponseRedirect(reverse("admin:alerts"))
    if action == "rotate":
        return _rotate(site, request, row)
    form = ChannelForm(request, request.POST or None, row=row)
    if request.method == "POST" and form.is_valid() and _change(request, form, row):
        messages.success(request, _("The channel is changed."))
        return HttpResponseRedirect(reverse("admin:alerts"))
    return _render(site, request, form, row)


def _change(request: HttpRequest, form: ChannelForm, row: AlertChannel) -> bool:
    data = form.cleaned_data
    try:
        change_channel(
            row,
            name=data["name"],
            url=data.get("url") or None,
            recipients=data.get("recipients") or None,
            alert_kinds=data["alert_kinds"],
            is_enabled=data["is_enabled"],
        )
    except ArgumentInvalid as refusal:
        add_refusal(form, refusal, {})
        return False
    except ChannelUnusable as problem:
        messages.error(request, str(problem))
        return False
    return True


def _rotate(site: AdminSite, request: HttpRequest, row: AlertChannel) -> HttpResponse:
    if not use_nonce(request):
        messages.warning(request, _("This form was sent before: the secret was rotated then."))
        return HttpResponseRedirect(reverse("admin:alerts"))
    try:
        secret = rotate_secret(row, timezone.now())
    except (ArgumentInvalid, ChannelUnusable) as refusal:
        messages.error(request, str(refusal))
        return HttpResponseRedirect(reverse("admin:alerts"))
    return _show_secret(site, request, row, secret)


def _test(request: HttpRequest, row: AlertChannel) -> None:
    try:
        send_test(row, timezone.now())
    except RateLimited as refusal:
        messages.error(request, refusal.message)
    else:
        messages.success(request, _("A test is on its way. The log of alerts tells when it has arrived."))


def _show_secret(site: AdminSite, request: HttpRequest, row: AlertChannel, secret: str) -> HttpResponse:
    """The one page that holds a secret; no message, session or address does."""
    if not secret:
        return HttpResponseRedirect(reverse("admin:alerts"))
    context = {**site.each_context(request), "title": _("Secret of a webhook"), "row": row, "secret": secret}
    return TemplateResponse(request, "console/channel_secret.html", context, headers={"Cache-Control": "no-store"})


def _render(site: AdminSite, request: HttpRequest, form: ChannelForm, row: AlertChannel | None) -> HttpResponse:
    context = {
        **site.each_context(request),
        "title": _("Add a channel") if row is None else _("Alert channel"),
        "form": form,
        "row": row,
        "issue_nonce": create_nonce(request),
    }
    return TemplateResponse(request, "console/alert_channel.html", context)
