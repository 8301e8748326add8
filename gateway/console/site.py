"""The console's AdminSite: who enters, and the pages that belong to no table."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET
from django_scopes import scopes_disabled
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from gateway.models import Deployment
from tenants.access import use_login_link
from tenants.models import User

#: Pages with a form: without any referrer browsers send `Origin: null` with a POST, and Django refuses that.
WITH_FORM = "same-origin"
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class LoginForm(AuthenticationForm):
    """Wrong password, unknown user, and a user who may not enter: one answer."""

    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": _("The user id or the password is wrong, or this user may not enter the console."),
    }

    def confirm_login_allowed(self, user: Any) -> None:
        if not may_enter(user):
            raise self.get_invalid_login_error()


def may_enter(user: Any) -> bool:
    """Platform admins only, until the console knows roles."""
    return bool(user.is_active and user.is_superuser)


def first_model() -> str:
    """A model group that answers a chat, for the snippets; empty where there is none."""
    enabled = Deployment.objects.filter(enabled=True).exclude(model_info__mode="embedding").order_by("model_group")
    names = enabled.values_list("model_group", flat=True)
    return names.filter(provider="mock").first() or names.first() or ""


class ConsoleSite(UnfoldAdminSite):
    index_title = _("Dashboard")
    login_form = LoginForm
    logout_template = "console/logged_out.html"
    empty_value_display = "–"

    def has_permission(self, request: HttpRequest) -> bool:
        return may_enter(request.user)

    def admin_view(self, view: Callable[..., HttpResponse], cacheable: bool = False) -> Callable[..., HttpResponse]:
        """The one place where the console leaves the tenants' scopes: who gets past `has_permission` is a platform
        admin and sees all organizations. Templates are rendered here, because their queries need it as well."""

        @wraps(view)
        def across_organizations(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            with scopes_disabled():
                response = view(request, *args, **kwargs)
                if isinstance(response, TemplateResponse):
                    response.render()
                response["Referrer-Policy"] = WITH_FORM
                response.headers.setdefault("Cache-Control", "no-store")
                return response

        guarded: Callable[..., HttpResponse] = super().admin_view(across_organizations, cacheable)
        return guarded

    def extra_urls(self) -> list[URLPattern]:
        return [
            path("login/link/<str:token>/", require_GET(self.login_by_link), name="login_link"),
            path("model-groups/", self.admin_view(self.model_groups), name="model_groups"),
        ]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        # Uncalled: templates call it where they use it, and cost no query elsewhere.
        return {**super().each_context(request), "first_model": first_model}

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response: HttpResponse = super().login(request, extra_context)
        response["Cache-Control"], response["Referrer-Policy"] = "no-store", WITH_FORM
        return response

    def login_by_link(self, request: HttpRequest, token: str) -> HttpResponse:
        """A link works once; whoever comes with a spent one learns how to get another."""
        user: User | None = use_login_link(token)
        if user is None or not may_enter(user):
            context = {**self.each_context(request), "title": _("This link does not work")}
            return TemplateResponse(request, "console/login_link.html", context, status=403, headers=PRIVATE)
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return HttpResponseRedirect(reverse("admin:index"), headers=PRIVATE)

    def app_index(
        self, request: HttpRequest, app_label: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Apps are how the code is cut; the sidebar is how the console is."""
        return HttpResponseRedirect(reverse("admin:index"))

    def model_groups(self, request: HttpRequest) -> JsonResponse:
        """The names that a key or a team can be limited to."""
        groups = Deployment.objects.filter(enabled=True).order_by().values_list("model_group", flat=True)
        return JsonResponse({"names": sorted(set(groups.distinct()[:1000]))})
