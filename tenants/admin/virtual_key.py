"""Screens of the virtual keys. Only the page that follows the creation of a key shows its text."""

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget

from tenants.admin.console import (
    BlockableAdmin,
    Context,
    DateTimeLocalField,
    Fieldsets,
    JSONObjectField,
    NamesField,
    TextListField,
    badge,
    clipped_text,
    code,
    console_request,
    make_block_action,
    muted_text,
    name_list,
    timestamp,
    two_lines,
)
from tenants.admin.limits import LimitsAdmin, LimitsForm, add_choice
from tenants.budget_usage import Spender
from tenants.grants import check_key
from tenants.keys import IssuedKey, allowed_names, delete_keys, issue_key, rotate_key, set_key_blocked, update_key
from tenants.limits import LIMIT_FIELDS, find_template
from tenants.models import BudgetTemplate, KeyType, Organization, Scope, VirtualKey
from tenants.permissions import Area
from tenants.session_rights import caller_of

if TYPE_CHECKING:
    pass

EXPIRIES = {
    "never": (_("Never"), None),
    "1h": (_("In 1 hour"), timedelta(hours=1)),
    "1d": (_("In 24 hours"), timedelta(days=1)),
    "7d": (_("In 7 days"), timedelta(days=7)),
    "30d": (_("In 30 days"), timedelta(days=30)),
    "90d": (_("In 90 days"), timedelta(days=90)),
    "365d": (_("In a year"), timedelta(days=365)),
    "date": (_("On a date …"), None),
}

ROTATIONS = [
    ("", _("Never")),
    ("7d", _("Every 7 days")),
    ("30d", _("Every 30 days")),
    ("90d", _("Every 90 days")),
    ("365d", _("Every year")),
]
#: How long the former text of a rotated key works.
GRACES = {
    "none": (_("Stops at once"), None),
    "1h": (_("Works for 1 hour more"), timedelta(hours=1)),
    "24h": (_("Works for 24 hours more"), timedelta(days=1)),
    "7d": (_("Works for 7 days more"), timedelta(days=7)),
    "30d": (_("Works for 30 days more"), timedelta(days=30)),
}
KEY_TYPES = [
    (KeyType.DEFAULT, _("Calls models, and the management API with the rights of a member")),
    (KeyType.LLM_API, _("Calls models only")),
    (KeyType.MANAGEMENT, _("Management API only, with all rights of its user")),
    (KeyType.READ_ONLY, _("Reads the management API only")),
]

#: The fields that the service takes as `fields`.
LATER_FIELDS = [
    "type",
    "allowed_routes",
    "allowed_networks",
    "model_aliases",
    "timeouts",
    "rotation_interval",
    "budget_template",
]
#: The read-only fields of an existing key.
READ_ONLY_FIELDS = ["key_display", "status", "organization", "created_at_display", "issued_by"]


class VirtualKeyForm(LimitsForm):
    checked_by_service = frozenset({"alias"})
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that this key may call, one per line. Leave empty for all that its team may call."),
    )
    expiry = forms.ChoiceField(
        label=_("Expires"),
        choices=[(value, title) for value, (title, _span) in EXPIRIES.items()],
        widget=UnfoldAdminSelectWidget(),
    )
    expires_at = DateTimeLocalField(label=_("Expires on"))
    type = forms.ChoiceField(label=_("Purpose"), choices=KEY_TYPES, required=False, widget=UnfoldAdminSelectWidget())
    allowed_routes = TextListField(
        label=_("Routes"),
        help_text=_("Paths that this key may call, such as /v1/chat/completions or /v1/*. Leave empty for all."),
    )
    allowed_networks = TextListField(
        label=_("Networks"),
        help_text=_("Addresses that may call with this key, such as 10.0.0.0/8. Leave empty for all."),
    )
    model_aliases = JSONObjectField(
        label=_("Other model names"),
        help_text=_('Names that clients ask for and the model groups that they get: {"gpt-4": "gpt-4o"}.'),
    )
    timeouts = JSONObjectField(
        label=_("Time limits"),
        help_text=_('Seconds that its calls may take at most: {"timeout": 30, "stream_timeout": 10}.'),
    )
    rotation_interval = forms.ChoiceField(
        label=_("Rotates"), choices=ROTATIONS, required=False, widget=UnfoldAdminSelectWidget()
    )
    metadata = JSONObjectField(label=_("Metadata"), help_text=_("A JSON object."))

    class Meta:
        model = VirtualKey
        # Within a request, the admin adds the fields of its fieldsets. django-scopes refuses a field of teams here,
        # because no scope is active.
        fields = ["alias", "allowed_models", "metadata"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.digest:  # the key exists
            self.initial["expires_at"] = self.instance.expires_at
            self.initial["expiry"] = "date" if self.instance.expires_at else "never"
            interval = self.instance.rotation_interval
            if interval not in dict(ROTATIONS) and "rotation_interval" in self.fields:
                add_choice(self.fields["rotation_interval"], interval, _("Every %s") % interval)
            for name in {"team", "user"} & self.fields.keys():
                self.fields[name].widget.attrs["data-organization"] = self.instance.organization_id
        if "expires_at" in self.fields:
            self.fields["expires_at"].help_text = _("Time zone: %s.") % timezone.get_current_timezone_name()

    def clean(self) -> Context:
        super().clean()
        cleaned = self.cleaned_data
        expiry = cleaned.get("expiry")
        if expiry == "date":
            if not cleaned.get("expires_at") and "expires_at" not in self.errors:
                self.add_error("expires_at", _("Enter the date and time when the key expires."))
        elif expiry is not None:
            span = EXPIRIES[expiry][1]
            cleaned["expires_at"] = timezone.now() + span if span else None
        return cleaned


class RotationForm(forms.Form):
    grace = forms.ChoiceField(
        label=_("The present text"),
        choices=[(value, title) for value, (title, _span) in GRACES.items()],
        initial="24h",
        widget=UnfoldAdminSelectWidget(),
    )


class StatusFilter(DropdownFilter):
    """Filters by the status that a call meets, as `VirtualKeyAdmin.status` shows it."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: "VirtualKeyAdmin") -> list[tuple[str, object]]:
        return [("active", _("active")), ("blocked", _("blocked")), ("expired", _("expired"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> models.QuerySet[VirtualKey]:
        expired = models.Q(expires_at__lte=timezone.now())
        blocked = models.Q(blocked=True) | models.Q(organization__blocked=True) | models.Q(team__blocked=True)
        match self.value():
            case "active":
                return queryset.exclude(expired).exclude(blocked)
            case "blocked":
                return queryset.filter(blocked)
            case "expired":
                return queryset.filter(expired).exclude(blocked)
        return queryset


@admin.register(VirtualKey)
class VirtualKeyAdmin(BlockableAdmin[VirtualKey], LimitsAdmin):
    form = VirtualKeyForm
    area = Area.KEYS
    list_display = [
        "title",
        "team_display",
        "user_display",
        "callable_models",
        "spent",
        "status",
        "created",
        "expires",
    ]
    list_select_related = ["organization", "team", "user"]
    search_fields = ["alias", "last4__exact", "team__alias", "user__username"]
    search_help_text = _("Search by alias, last four, team or user")
    list_filter = [StatusFilter, ("organization", RelatedDropdownFilter)]
    block = make_block_action(_("Block the selected keys"), blocked=True)
    unblock = make_block_action(_("Unblock the selected keys"), blocked=False)
    autocomplete_fields = ["team", "user"]
    actions_detail = ["rotate"]
    conditional_fields = {"expires_at": "expiry == 'date'"}
    change_form_before_template = "console/issue_key_nonce.html"

    class Media:
        js = [
            forms.Script("console/suggestions.js", type="module"),
            forms.Script("console/key_owner.js", type="module"),
        ]

    # Lists

    @display(description=_("key"), ordering="alias")
    def title(self, key: VirtualKey) -> SafeString:
        return two_lines(clipped_text(key.alias, default=_("no alias")), code(key.masked_text))

    @display(description=_("key"))
    def key_display(self, key: VirtualKey) -> SafeString:
        return code(key.masked_text)

    @display(description=_("team"), ordering="team__alias")
    def team_display(self, key: VirtualKey) -> SafeString:
        return two_lines(clipped_text(key.team), clipped_text(key.organization))

    @display(description=_("user"), ordering="user__username")
    def user_display(self, key: VirtualKey) -> SafeString:
        return clipped_text(key.user and key.user.username)

    @display(description=_("models"))
    def callable_models(self, key: VirtualKey) -> SafeString:
        return name_list(key.allowed_models, default=_("all"), limit=1)

    @display(description=_("status"))
    def status(self, key: VirtualKey) -> SafeString:
        """The status that a call with this key meets; a blocked team or organization blocks the key."""
        if key.blocked:
            return badge("danger", _("blocked"))
        if key.organization.blocked:
            return badge("danger", _("org. blocked"), _("Its organization is blocked."))
        if key.team is not None and key.team.blocked:
            return badge("danger", _("team blocked"), _("Its team is blocked."))
        if key.expires_at is not None and key.expires_at <= timezone.now():
            return badge("warning", _("expired"))
        return badge("success", _("active"))

    @display(description=_("expires"), ordering="expires_at")
    def expires(self, key: VirtualKey) -> SafeString | str:
        return timestamp(key.expires_at) if key.expires_at else muted_text(_("never"))

    @display(description=_("expires"))
    def expires_display(self, key: VirtualKey) -> SafeString | str:
        return timestamp(key.expires_at, is_complete=True) if key.expires_at else muted_text(_("never"))

    @display(description=_("issued by"))
    def issued_by(self, key: VirtualKey) -> str:
        return key.created_by or "–"

    # Issue and edit

    def find_spender(self, key: VirtualKey) -> Spender:
        return Spender(key.organization, Scope.KEY, key.pk, key.budget_template_id)

    def get_fieldsets(self, request: HttpRequest, obj: VirtualKey | None = None) -> Fieldsets:
        is_editable = obj is None or self.has_change_permission(request, obj)
        expiry = ["expiry", "expires_at"] if is_editable else ["expires_display"]
        access: Fieldsets = [
            (_("Access"), {"fields": ["type", "allowed_models", *expiry]}),
            *self.limit_fieldsets(request, obj),
            (
                _("More"),
                {"fields": [*LATER_FIELDS[1:-1], "metadata"]},
            ),
        ]
        if obj is None:
            return [(_("Owner"), {"fields": ["alias", "organization", "team", "user"]}), *access]
        return [
            (None, {"fields": READ_ONLY_FIELDS}),
            (_("Owner"), {"fields": ["alias", "team", "user", "blocked"]}),
            *access,
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: VirtualKey | None = None) -> list[str]:
        return [*READ_ONLY_FIELDS, "expires_display"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> Context:
        initial = super().get_changeform_initial_data(request)
        return {"organization": self.initial_organization(request), "expiry": "never", **initial}

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Context | None = None) -> HttpResponse:
        """Each form issues one key only: a browser that reloads the page of a new key sends the form again."""
        if request.method == "POST" and not use_nonce(request):
            text = _("The form has issued its key already. The key cannot be shown again.")
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(request.path)
        context = {
            **(extra_context or {}),
            "title": _("Issue a virtual key"),
            "issue_nonce": create_nonce(request),
        }
        response: HttpResponse = super().add_view(request, form_url, context)
        return response

    def save_model(self, request: HttpRequest, obj: VirtualKey, form: VirtualKeyForm, change: bool) -> None:
        data = form.cleaned_data
        if change:
            changed = {"expires_at" if name == "expiry" else name for name in form.changed_data}
            self.check_template(data, obj.organization)
            with transaction.atomic():
                self.check_rights(request, obj.pk)
                update_key(obj, changes={name: data[name] for name in changed - LIMIT_FIELDS})
                self.save_limits(obj, form)
                self.check_rights(request, obj.pk)
            return
        self.check_template(data, data["organization"])
        with transaction.atomic():
            issued = issue_key(
                organization=data["organization"],
                alias=data["alias"],
                allowed_models=data["allowed_models"],
                team=data["team"],
                user=data["user"],
                metadata=data["metadata"],
                expires_at=data["expires_at"],
                created_by=request.user.get_username(),
                fields={name: data[name] for name in LATER_FIELDS},
            )
            self.save_limits(issued.key, form)
            self.check_rights(request, issued.key.pk)
        obj.pk, obj.last4 = issued.key.pk, issued.key.last4
        console_request(request).issued = issued

    @action(description=_("Rotate"), url_path="rotate", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks how long the present text still works, gives the key a new one, and shows that once."""
        key = self.get_object(request, unquote(object_id))
        if key is None or not self.has_change_permission(request, key):
            redirect: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return redirect
        form = RotationForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            if not use_nonce(request):
                self.message_user(
                    request, _("The key was rotated already. Its text cannot be shown again."), messages.WARNING
                )
                return HttpResponseRedirect(reverse("admin:tenants_virtualkey_change", args=[key.pk]))
            grace = GRACES[form.cleaned_data["grace"]][1]
            self.check_rights(request, key.pk)
            issued = rotate_key(key, grace=grace)
            self.log_change(request, issued.key, str(_("Rotated.")))
            until = timestamp(timezone.now() + grace, is_complete=True) if grace else None
            return self.render_issued(
                request, issued, {"title": _("Virtual key rotated"), "is_rotated": True, "former_until": until}
            )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("Rotate a virtual key"),
            "key": key,
            "form": form,
            "issue_nonce": create_nonce(request),
        }
        return TemplateResponse(request, "console/rotate_key.html", context)

    def response_add(self, request: HttpRequest, obj: VirtualKey, post_url_continue: str | None = None) -> HttpResponse:
        return self.render_issued(request, console_request(request).issued, {"title": _("Virtual key issued")})

    def render_issued(self, request: HttpRequest, issued: IssuedKey, context: Context) -> HttpResponse:
        """The one page that holds the key's text. No message, session, table or address does."""
        key = VirtualKey.objects.select_related("organization", "team", "user").get(pk=issued.key.pk)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "key": key,
            "own_model": next((name for name in sorted(allowed_names(key.allowed_models)) if "*" not in name), ""),
            "issued_text": issued.text,
            "base_url": request.build_absolute_uri("/v1"),
            **context,
        }
        headers = {"Cache-Control": "no-store"}
        return TemplateResponse(request, "console/key_issued.html", context, headers=headers)

    def check_rights(self, request: HttpRequest, key_id: str) -> None:
        """Raises Forbidden or NotFound unless the user may issue or take over the key as it is stored."""
        caller = caller_of(request)
        if caller is not None:
            check_key(caller, VirtualKey.objects.select_related("organization", "team", "user").get(pk=key_id))

    def check_template(self, data: Context, organization: Organization) -> None:
        """Raises KeyInvalid for a template that is another organization's."""
        template = data.get("budget_template")
        if isinstance(template, BudgetTemplate):
            find_template(template.pk, organization)

    # Block and delete

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> None:
        delete_keys(list(queryset))

    def set_blocked(self, rows: models.QuerySet[VirtualKey], *, blocked: bool) -> None:
        for key in rows:
            set_key_blocked(key, blocked=blocked)


NONCES = "console_issue_nonces"


def create_nonce(request: HttpRequest) -> str:
    nonce = secrets.token_urlsafe(12)
    request.session[NONCES] = [*request.session.get(NONCES, []), nonce][-20:]
    return nonce


def use_nonce(request: HttpRequest) -> bool:
    """Use up the form's nonce. Returns False if it was used before."""
    unused = request.session.get(NONCES, [])
    nonce = request.POST.get("issue_nonce", "")
    if nonce not in unused:
        return False
    request.session[NONCES] = [other for other in unused if other != nonce]
    return True
