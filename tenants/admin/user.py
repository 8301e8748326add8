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
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm
from unfold.widgets import UnfoldAdminPasswordWidget

from tenants.admin.console import (
    Context,
    OwnerAdmin,
    ServiceForm,
    badge,
    clipped_text,
    muted_text,
    timestamp,
)
from tenants.models import User
from tenants.users import create_user, delete_user, update_user


class UserForm(ServiceForm):
    checked_by_service = frozenset({"organization"})  # `clean` checks it

    class Meta:
        model = User
        fields = ["username", "email", "first_name", "last_name", "organization", "is_superuser", "is_active"]
        labels = {"is_superuser": _("Platform admin"), "is_active": _("Active")}
        help_texts = {
            "is_superuser": _("Can use this console, with access to all organizations."),
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
        fields = ["username", "email", "organization", "is_superuser"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if password:
            validate_password(password, self.instance)
        return password


admin.site.unregister(Group)  # importing Django's UserAdmin registers it; no permission here depends on groups


@admin.register(User)
class UserAdmin(DjangoUserAdmin, OwnerAdmin):  # type: ignore[type-arg, misc]  # the stubs want an argument that UserAdmin does not take
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["user_id", "mail", "full_name", "organization_display", "role", "status", "last_seen"]
    list_select_related = ["organization"]
    list_filter = ["is_superuser", "is_active"]
    search_fields = ["username", "email", "first_name", "last_name"]
    search_help_text = _("Search by user id, name or email")
    ordering = ["username"]
    filter_horizontal = ()
    actions = None
    add_form_template = None
    add_fieldsets = [(None, {"fields": ["username", "email", "organization", "is_superuser", "password"]})]
    readonly_fields = ["sign_in", "last_seen", "joined", "role", "status"]

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        is_own = obj.pk == request.user.pk  # admins cannot lock themselves out
        access = ["role", "status"] if is_own else ["is_superuser", "is_active"]
        return [
            (None, {"fields": ["username", "first_name", "last_name", "email"]}),
            (_("Access"), {"fields": ["organization", *access, "sign_in"]}),
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
    def role(self, user: User) -> SafeString:
        return badge("info", _("platform admin")) if user.is_superuser else badge("neutral", _("member"))

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

    def save_model(self, request: HttpRequest, obj: User, form: ServiceForm, change: bool) -> None:
        if not change:
            obj.pk = create_user(
                username=obj.username,
                email=obj.email,
                organization=obj.organization,
                is_superuser=obj.is_superuser,
                password=form.cleaned_data["password"],
            ).pk
            return
        update_user(
            obj,
            email=obj.email,
            first_name=obj.first_name,
            last_name=obj.last_name,
            organization=obj.organization,
            is_superuser=obj.is_superuser,
            is_active=obj.is_active,
        )

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.pk != request.user.pk)

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[User]) -> None:
        for user in queryset:
            delete_user(user)
