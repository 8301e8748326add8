"""Screens of the users."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget

from tenants.admin.console import (
    Context,
    NamesField,
    OwnerAdmin,
    badge,
    clipped_text,
    muted_text,
    timestamp,
)
from tenants.admin.limits import LIMIT_FIELDSETS, LimitsAdmin, LimitsForm
from tenants.budget_usage import Spender
from tenants.models import Role, Scope, User
from tenants.permissions import Area, Reach
from tenants.users import create_user, delete_users, update_user

ROLES = [
    (Role.MEMBER, _("Member: own keys and teams, by API")),
    (Role.MEMBER_VIEWER, _("Member who only reads")),
    (Role.ORGANIZATION_ADMIN, _("Admin of the organization")),
    (Role.BILLING_VIEWER, _("Reads spend and budgets of the organization")),
    (Role.PLATFORM_VIEWER, _("Reads everything on the platform")),
]
ROLE_BADGES = {
    Role.MEMBER: _("member"),
    Role.MEMBER_VIEWER: _("member, reads"),
    Role.ORGANIZATION_ADMIN: _("org. admin"),
    Role.BILLING_VIEWER: _("billing viewer"),
    Role.PLATFORM_VIEWER: _("platform viewer"),
}


class UserForm(LimitsForm):
    checked_by_service = frozenset({"organization"})  # `clean` checks it
    role = forms.ChoiceField(
        label=_("Role"),
        choices=ROLES,
        required=False,
        help_text=_("What a user may do who is no platform admin."),
        widget=UnfoldAdminSelectWidget(),
    )
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that keys of this user may call, one per line. Leave empty for all."),
    )

    class Meta:
        model = User
        fields = [
            *("username", "email", "first_name", "last_name", "organization"),
            *("is_superuser", "role", "may_view_content", "allowed_models", "is_active"),
        ]
        labels = {
            "is_superuser": _("Platform admin"),
            "is_active": _("Active"),
            "may_view_content": _("Reads prompts and answers"),
        }
        help_texts = {
            "is_superuser": _("Can use this console, with access to all organizations."),
            "may_view_content": _("Of those who use what the role lets this user see, not only their own."),
            "is_active": _("Clear this instead of deleting the user."),
        }

    def clean(self) -> Context:
        cleaned = super().clean()
        if not cleaned.get("is_superuser") and not cleaned.get("organization") and "is_superuser" in self.fields:
            self.add_error("organization", _("Choose an organization. Only a platform admin can do without."))
        return cleaned


class NewUserForm(UserForm):
    password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        help_text=_("For platform admins. Leave empty for other users."),
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )

    class Meta(UserForm.Meta):
        fields = ["username", "email", "organization", "is_superuser", "role"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if password:
            validate_password(password, self.instance)
        return password


admin.site.unregister(Group)  # importing Django's UserAdmin registers it; no permission here depends on groups


@admin.register(User)
class UserAdmin(DjangoUserAdmin, OwnerAdmin, LimitsAdmin):  # type: ignore[type-arg, misc]  # the stubs want an argument that UserAdmin does not take
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    area = Area.USERS
    least_write_reach = Reach.PLATFORM  # roles and passwords give rights, so an organization's admin reads only
    list_display = [
        "user_id",
        "mail",
        "full_name",
        "organization_display",
        "role_display",
        "spent",
        "status",
        "last_seen",
    ]
    list_select_related = ["organization"]
    list_filter = ["is_superuser", ("role", ChoicesDropdownFilter), "is_active"]
    search_fields = ["username", "email", "first_name", "last_name"]
    search_help_text = _("Search by user id, name or email")
    ordering = ["username"]
    filter_horizontal = ()
    actions = None
    add_form_template = None
    add_fieldsets = [
        (None, {"fields": ["username", "email", "organization", "is_superuser", "role", "password"]}),
        *LIMIT_FIELDSETS,
    ]
    readonly_fields = ["sign_in", "last_seen", "joined", "role_display", "status"]

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        is_own = obj.pk == request.user.pk  # admins cannot lock themselves out
        access = ["role_display", "status"] if is_own else ["is_superuser", "role", "is_active"]
        return [
            (None, {"fields": ["username", "first_name", "last_name", "email"]}),
            (_("Access"), {"fields": ["organization", *access, "may_view_content", "allowed_models", "sign_in"]}),
            *(self.limit_fieldsets(request, obj) if obj.organization_id else []),
            (None, {"fields": ["last_seen", "joined"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        """Spend logs hold the user id by value, so it cannot change."""
        return [*self.readonly_fields, "username"] if obj else self.readonly_fields

    @display(description=_("password"))
    def sign_in(self, user: User) -> SafeString:
        has_password = user.has_usable_password()
        return format_html(
            '{} · <a class="tg-link" href="{}">{}</a>',
            _("set") if has_password else _("none"),
            reverse("admin:auth_user_password_change", args=[user.pk]),
            _("Change") if has_password else _("Set"),
        )

    @display(description=_("user id"), ordering="username")
    def user_id(self, user: User) -> SafeString:
        return clipped_text(user.username)

    @display(description=_("email"), ordering="email")
    def mail(self, user: User) -> SafeString:
        return clipped_text(user.email)

    @display(description=_("name"))
    def full_name(self, user: User) -> SafeString:
        return clipped_text(user.get_full_name())

    @display(description=_("organization"), ordering="organization__name")
    def organization_display(self, user: User) -> SafeString:
        return clipped_text(user.organization, default=_("all"))

    @display(description=_("role"))
    def role_display(self, user: User) -> SafeString:
        if user.is_superuser:
            return badge("info", _("platform admin"))
        return badge("neutral", ROLE_BADGES[Role(user.role)])

    @display(description=_("status"))
    def status(self, user: User) -> SafeString:
        return badge("success", _("active")) if user.is_active else badge("danger", _("inactive"))

    @display(description=_("last login"), ordering="last_login")
    def last_seen(self, user: User) -> SafeString | str:
        return timestamp(user.last_login) if user.last_login else muted_text(_("never"))

    @display(description=_("created"), ordering="date_joined")
    def joined(self, user: User) -> SafeString | str:
        return timestamp(user.date_joined)

    @method_decorator(sensitive_post_parameters())
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Context | None = None) -> HttpResponse:
        """Django's view without its transaction (see `ConsoleAdmin.changeform_view`)."""
        response: HttpResponse = self._add_view(request, form_url, extra_context)
        return response

    def find_spender(self, user: User) -> Spender | None:
        if user.organization is None:
            return None
        return Spender(user.organization, Scope.USER, user.username, user.budget_template_id)

    def save_model(self, request: HttpRequest, obj: User, form: LimitsForm, change: bool) -> None:
        names = ["role", "may_view_content", "allowed_models"]
        if change:
            names += ["email", "first_name", "last_name", "organization", "is_superuser", "is_active"]
        if obj.is_superuser:
            names.remove("role")  # it would take the place of the platform admin's
        changes: dict[str, object] = {name: getattr(obj, name) for name in names}
        if obj.organization is not None:
            changes["budget_id"] = obj.budget_template_id
        if change:
            update_user(obj, changes=changes, limits=form.limit_changes())
            return
        obj.pk = create_user(
            username=obj.username,
            email=obj.email,
            organization=obj.organization,
            is_superuser=obj.is_superuser,
            password=form.cleaned_data["password"],
            changes=changes,
            limits=form.limit_changes(),
        ).pk

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.pk != request.user.pk)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[User]) -> None:
        delete_users(list(queryset))
