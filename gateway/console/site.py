"""The console's AdminSite: sign-in and the pages that belong to no table."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods
from django_scopes import scope, scopes_disabled
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from billing.models import SpendLog
from gateway.console.pages import ConsolePage
from gateway.console.simulate import may_simulate, show_simulation
from gateway.models import Deployment
from gateway.pipeline.client_address import client_address
from tenants.access import count_login_attempt, forget_login_attempts, is_login_link, use_login_link
from tenants.models import User
from tenants.permissions import Area, Reach, caller_of_user, reach_of
from tenants.session_rights import caller_of, readable_rows

#: By name: these pages import screens, which register themselves at this site while they are imported.
PAGES = "gateway.console.money_pages.MONEY_PAGES"
#: The referrer policy of pages with a form. With `no-referrer` a POST has `Origin: null`, which Django refuses.
FORM_REFERRER_POLICY = "same-origin"
MOST_CONSIDERED = 200  # deployments, in search of a model for the snippets
#: Values of `model_info.mode` whose models answer no chat.
SILENT_MODES = frozenset(
    {"embedding", "image_generation", "audio_speech", "audio_transcription", "rerank", "moderation"}
)
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class LoginForm(AuthenticationForm):
    """Answers a wrong password, an unknown user and a user who may not enter with the same error."""

    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": _("The user id or the password is wrong, or this user may not enter the console."),
    }

    wait_s = 0  # of a refusal for too many attempts

    def clean(self) -> dict[str, Any]:
        username, address = str(self.cleaned_data.get("username") or ""), _address_of(self.request)
        self.wait_s = count_login_attempt(username, address) if self.cleaned_data.get("password") else 0
        if self.wait_s:
            minutes = -(-self.wait_s // 60)
            text = ngettext(
                "Too many failed sign-ins. Try again in %d minute.",
                "Too many failed sign-ins. Try again in %d minutes.",
                minutes,
            )
            raise ValidationError(text % minutes, code="throttled")
        cleaned: dict[str, Any] = super().clean()
        if self.get_user() is not None:
            forget_login_attempts(username, address)
        return cleaned

    def confirm_login_allowed(self, user: AbstractBaseUser) -> None:
        if not may_enter(user):
            raise self.get_invalid_login_error()


def _address_of(request: HttpRequest) -> str:
    return client_address(
        request.headers.get("X-Forwarded-For", ""),
        str(request.META.get("REMOTE_ADDR", "")),
        is_behind_proxy=settings.TOLLGATE_TLS,
    )


def may_enter(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Roles that see the spend of an organization as a whole."""
    if not isinstance(user, User) or not user.is_active:
        return False
    return reach_of(caller_of_user(user), Area.SPEND) >= Reach.ORGANIZATION


def first_model(request: HttpRequest) -> str:
    """A model group for the snippets, the built-in one if it is there; empty if none that chats is enabled."""
    enabled = readable_rows(request, Area.MODELS, Deployment.objects.filter(enabled=True)).order_by("model_group")
    # A filter on a member of a JSON column drops the rows that do not have the member
    rows = enabled.values("model_group", "provider", "model_info")[:MOST_CONSIDERED]
    chats = [row for row in rows if row["model_info"].get("mode") not in SILENT_MODES]
    chats.sort(key=lambda row: row["provider"] != "mock")
    return chats[0]["model_group"] if chats else ""


class ConsoleSite(UnfoldAdminSite):
    index_title = _("Dashboard")
    login_form = LoginForm
    logout_template = "console/logged_out.html"
    empty_value_display = "–"

    def has_permission(self, request: HttpRequest) -> bool:
        return may_enter(request.user)

    def admin_view(self, view: Callable[..., HttpResponse], cacheable: bool = False) -> Callable[..., HttpResponse]:
        """Opens the scope of the user's organization, or of all for those who see all of them.

        Templates are rendered here because their queries need it too.
        """

        @wraps(view)
        def across_organizations(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            caller = caller_of(request)
            sees_all = caller is not None and reach_of(caller, Area.SPEND) == Reach.PLATFORM
            organization_id = caller.organization_id if caller is not None else None
            with scopes_disabled() if sees_all else scope(organization=organization_id):
                response = view(request, *args, **kwargs)
                if isinstance(response, TemplateResponse):
                    response.render()
                response["Referrer-Policy"] = FORM_REFERRER_POLICY
                response.headers.setdefault("Cache-Control", "no-store")
                return response

        guarded: Callable[..., HttpResponse] = super().admin_view(across_organizations, cacheable)
        return guarded

    def extra_urls(self) -> list[URLPattern]:
        by_link = require_http_methods(["GET", "POST"])(csrf_protect(self.login_by_link))
        pages: tuple[ConsolePage, ...] = import_string(PAGES)
        return [
            path("login/link/<str:token>/", by_link, name="login_link"),
            path("first-call/", self.admin_view(self.first_call), name="first_call"),
            path("model-groups/", self.admin_view(self.model_groups), name="model_groups"),
            path("simulate/", self.admin_view(self.simulate), name="simulate"),
            *(page.make_url(self) for page in pages),
        ]

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """The pages that the user may read."""
        screens = {
            reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"): screen
            for model, screen in self._registry.items()
        }
        groups: list[dict[str, Any]] = super().get_sidebar_list(request)
        for group in groups:
            group["items"] = [
                item
                for item in group["items"]
                if str(item["link"]) not in screens or screens[str(item["link"])].has_view_permission(request)
            ]
        return [group for group in groups if group["items"]]

    def first_call(self, request: HttpRequest) -> JsonResponse:
        """Tells the quick start whether a call has come."""
        return JsonResponse({"has_calls": readable_rows(request, Area.SPEND, SpendLog.objects.all()).exists()})

    def simulate(self, request: HttpRequest) -> HttpResponse:
        if not may_simulate(request):
            raise PermissionDenied
        return show_simulation(self, request)

    def each_context(self, request: HttpRequest) -> dict[str, object]:
        # Templates call the function, so that only those that use it cost a query.
        return {**super().each_context(request), "first_model": partial(first_model, request)}

    def login(self, request: HttpRequest, extra_context: dict[str, object] | None = None) -> HttpResponse:
        response: HttpResponse = super().login(request, extra_context)
        response["Cache-Control"], response["Referrer-Policy"] = "no-store", FORM_REFERRER_POLICY
        form = (response.context_data or {}).get("form") if isinstance(response, TemplateResponse) else None
        if isinstance(form, LoginForm) and form.wait_s:
            response.status_code, response["Retry-After"] = 429, str(form.wait_s)
        return response

    def login_by_link(self, request: HttpRequest, token: str) -> HttpResponse:
        """Sign the user of the link in by a click, which a preview does not make, or explain how to get a new link."""
        if request.method == "GET" and is_login_link(token):
            context = {**self.each_context(request), "title": _("Sign in to Tollgate"), "is_usable": True}
            headers = {**PRIVATE, "Referrer-Policy": FORM_REFERRER_POLICY}
            return TemplateResponse(request, "console/login_link.html", context, headers=headers)
        user: User | None = use_login_link(token) if request.method == "POST" else None
        if user is None or not may_enter(user):
            context = {**self.each_context(request), "title": _("This link does not work")}
            return TemplateResponse(request, "console/login_link.html", context, status=403, headers=PRIVATE)
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return HttpResponseRedirect(reverse("admin:index"), headers=PRIVATE)

    def app_index(
        self, request: HttpRequest, app_label: str, extra_context: dict[str, object] | None = None
    ) -> HttpResponse:
        """The console has no page per app."""
        return HttpResponseRedirect(reverse("admin:index"))

    def model_groups(self, request: HttpRequest) -> JsonResponse:
        """The model groups that a form suggests for a key or a team."""
        enabled = readable_rows(request, Area.MODELS, Deployment.objects.filter(enabled=True))
        groups = enabled.order_by().values_list("model_group", flat=True)
        return JsonResponse({"names": sorted(set(groups.distinct()[:1000]))})
