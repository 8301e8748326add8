"""Routes of spend logs and reports."""

from django.urls import re_path

from billing.rest.alerts import AlertChannels, AlertDeliveries, Alerts
from billing.rest.daily_activity import (
    CustomerActivity,
    OrganizationActivity,
    TagActivity,
    TeamActivity,
    UserActivity,
)
from billing.rest.global_spend import GlobalActivity, GlobalModelActivity, GlobalSpendReport, SpendTags
from billing.rest.invoices import InvoiceImports, InvoiceNames, ReconciliationReport
from billing.rest.report_schedules import ReportSchedules
from billing.rest.reports import SpendReport
from billing.rest.spend_log_pages import SpendLogPages
from billing.rest.spend_log_resource import SpendLogRows
from billing.rest.spend_logs import SpendLogs
from tenants.api.urls import READ_COLLECTION, READ_ITEM, routes_of
from tenants.rest.top_spenders import SpendKeys, SpendUsers

READ_OR_DELETE = {"get": "show", "delete": "delete_one"}

urlpatterns = [
    re_path(r"^api/reports/spend/?$", SpendReport.as_view({"get": "report"})),
    re_path(r"^api/reports/reconciliation/?$", ReconciliationReport.as_view({"get": "report"})),
    *routes_of("api/invoice-imports", InvoiceImports, item=READ_OR_DELETE),
    *routes_of("api/invoice-names", InvoiceNames, item=READ_OR_DELETE),
    *routes_of("api/spend-logs", SpendLogRows, collection=READ_COLLECTION, item=READ_ITEM),
    re_path(r"^spend/logs/?$", SpendLogs.as_view()),
    re_path(r"^spend/logs/v2/?$", SpendLogPages.as_view()),
    re_path(r"^spend/keys/?$", SpendKeys.as_view()),
    re_path(r"^spend/users/?$", SpendUsers.as_view()),
    re_path(r"^spend/tags/?$", SpendTags.as_view()),
    re_path(r"^global/spend/report/?$", GlobalSpendReport.as_view()),
    re_path(r"^global/activity/?$", GlobalActivity.as_view()),
    re_path(r"^global/activity/model/?$", GlobalModelActivity.as_view()),
    re_path(r"^user/daily/activity/?$", UserActivity.as_view()),
    re_path(r"^team/daily/activity/?$", TeamActivity.as_view()),
    re_path(r"^tag/daily/activity/?$", TagActivity.as_view()),
    re_path(r"^(?:customer|end_user)/daily/activity/?$", CustomerActivity.as_view()),
    re_path(r"^organization/daily/activity/?$", OrganizationActivity.as_view()),
    re_path(r"^api/alert-channels/(?P<alert_channel_id>[^/]+)/test/?$", AlertChannels.as_view({"post": "test"})),
    re_path(r"^api/alert-channels/(?P<alert_channel_id>[^/]+)/rotate/?$", AlertChannels.as_view({"post": "rotate"})),
    *routes_of("api/alert-channels", AlertChannels),
    re_path(r"^api/report-schedules/(?P<report_schedule_id>[^/]+)/run/?$", ReportSchedules.as_view({"post": "run"})),
    *routes_of("api/report-schedules", ReportSchedules),
    *routes_of("api/alerts", Alerts, collection=READ_COLLECTION, item=READ_ITEM),
    *routes_of("api/alert-deliveries", AlertDeliveries, collection=READ_COLLECTION, item=READ_ITEM),
]
