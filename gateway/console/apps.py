"""App configuration of the console: makes its AdminSite the default one."""

from django.contrib.admin.apps import AdminConfig


class ConsoleConfig(AdminConfig):
    default_site = "gateway.console.site.ConsoleSite"
