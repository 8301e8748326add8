"""Routes of spend logs."""

from django.urls import re_path

from billing.rest.spend_logs import SpendLogs
from tenants.rest.views import UnknownRoute

urlpatterns = [
    re_path(r"^spend/logs/?$", SpendLogs.as_view()),
    re_path(r"^spend/", UnknownRoute.as_view()),
]
