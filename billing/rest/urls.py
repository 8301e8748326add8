"""Routes of spend logs and reports."""

from django.urls import re_path

from billing.rest.reports import SpendReport
from billing.rest.spend_log_resource import SpendLogRows
from billing.rest.spend_logs import SpendLogs
from tenants.api.urls import READ_COLLECTION, READ_ITEM, routes_of
from tenants.rest.views import UnknownRoute

urlpatterns = [
    re_path(r"^api/reports/spend/?$", SpendReport.as_view({"get": "report"})),
    *routes_of("api/spend-logs", SpendLogRows, collection=READ_COLLECTION, item=READ_ITEM),
    re_path(r"^spend/logs/?$", SpendLogs.as_view()),
    re_path(r"^spend/", UnknownRoute.as_view()),
]
