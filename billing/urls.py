"""Routes of what it cost."""

from django.urls import re_path

from billing.api import SpendLogs

urlpatterns = [re_path(r"^spend/logs/?$", SpendLogs.as_view())]
