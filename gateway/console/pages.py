"""A page of the console that belongs to no table: its address, who may open it, and the function that answers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """`route` and `name` are those of Django's URLs, under the console and in the namespace `admin`. `show` gets the
    site, the request, and by their names the parts of the address that vary."""

    route: str
    name: str
    may_open: Callable[[HttpRequest], bool]
    show: Callable[..., HttpResponseBase]

    def open(self, site: AdminSite, request: HttpRequest, **arguments: str) -> HttpResponseBase:
        """Raises PermissionDenied."""
        if not self.may_open(request):
            raise PermissionDenied
        return self.show(site, request, **arguments)

    def make_url(self, site: AdminSite) -> URLPattern:
        return path(self.route, site.admin_view(partial(self.open, site)), name=self.name)
