"""Unfold's settings: colours, icons and the sidebar. The settings import it before the app registry exists."""

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse, reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from gateway.version import VERSION


def _item(title: Promise, icon: str, url: str) -> dict[str, object]:
    return {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{url}")}


def _account_link(request: HttpRequest) -> str:
    return reverse("admin:tenants_user_change", args=[request.user.pk])


UNFOLD: dict[str, object] = {
    "SITE_TITLE": "Tollgate",
    "SITE_HEADER": "Tollgate",
    "SITE_SUBHEADER": f"v{VERSION}",
    "SITE_URL": None,
    "SITE_ICON": lambda request: static("console/logo.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("console/logo.svg")},
    ],
    "STYLES": [lambda request: static("console/tollgate.css")],
    "DASHBOARD_CALLBACK": "gateway.console.dashboard.dashboard",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": True,
    "BORDER_RADIUS": "8px",
    "COLORS": {
        "primary": {
            "50": "oklch(98.4% .014 180.72)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(66% .125 184)",
            "600": "oklch(51.1% .096 186.391)",
            "700": "oklch(43.7% .078 188.216)",
            "800": "oklch(38.6% .063 188.416)",
            "900": "oklch(32% .05 190)",
            "950": "oklch(27.7% .046 192.524)",
        },
    },
    "ACCOUNT": {"navigation": [{"title": _("Your account"), "link": _account_link}]},
    "COMMAND": {
        # Spend logs are left out: their page finds them by exact id, and a search over all of them is slow.
        "search_models": [
            "tenants.virtualkey",
            "tenants.team",
            "tenants.organization",
            "tenants.user",
            "gateway.deployment",
        ],
    },
    "SIDEBAR": {
        "show_search": False,
        "command_search": True,
        "show_all_applications": False,
        "navigation": [
            {
                "title": _("Observe"),
                "items": [
                    _item(_("Dashboard"), "space_dashboard", "index"),
                    {
                        **_item(_("Spend report"), "bar_chart", "spend_report"),
                        "permission": "gateway.console.spend_report.may_report",
                    },
                    {
                        **_item(_("Alerts"), "notifications", "alerts"),
                        "permission": "gateway.console.alert_owner.may_see_alerts",
                    },
                    _item(_("Spend logs"), "receipt_long", "billing_spendlog_changelist"),
                    _item(_("Stored responses"), "forum", "gateway_storedresponse_changelist"),
                    _item(_("Conversations"), "chat", "gateway_conversation_changelist"),
                ],
            },
            {
                "title": _("Build"),
                "items": [
                    {
                        **_item(_("Simulate"), "alt_route", "simulate"),
                        "permission": "gateway.console.simulate.may_simulate",
                    },
                    _item(_("Virtual keys"), "key", "tenants_virtualkey_changelist"),
                    _item(_("Budgets"), "account_balance_wallet", "tenants_budget_changelist"),
                    _item(_("Budget templates"), "content_copy", "tenants_budgettemplate_changelist"),
                ],
            },
            {
                "title": _("Manage"),
                "items": [
                    _item(_("Deployments"), "dns", "gateway_deployment_changelist"),
                    {
                        **_item(_("Prices"), "sell", "price_list"),
                        "permission": "gateway.console.price_list.may_list_prices",
                    },
                    {
                        **_item(_("Calls without a price"), "money_off", "unpriced_models"),
                        "permission": "gateway.console.unpriced_models.may_see_prices",
                    },
                    {
                        **_item(_("Repricing"), "price_change", "reprice_jobs"),
                        "permission": "gateway.console.unpriced_models.may_see_prices",
                    },
                    {
                        **_item(_("Reconciliation"), "balance", "reconciliation"),
                        "permission": "gateway.console.unpriced_models.may_see_prices",
                    },
                    _item(_("Routing"), "alt_route", "gateway_routersettings_changelist"),
                    _item(_("Organizations"), "domain", "tenants_organization_changelist"),
                    _item(_("Teams"), "groups", "tenants_team_changelist"),
                    _item(_("Users"), "person", "tenants_user_changelist"),
                    _item(_("End users"), "face", "tenants_enduser_changelist"),
                    _item(_("Audit"), "history", "tenants_auditentry_changelist"),
                ],
            },
        ],
    },
}
