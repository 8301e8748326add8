"""URLs that Django itself serves: the console and the management API."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from gateway.rest.unserved import answer_unknown_path

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("console/", admin.site.urls),
    path("", include("billing.rest.urls")),  # before those of tenants, which refuse what is left of /user/ and /team/
    path("", include("tenants.api.urls")),
    path("", include("tenants.rest.urls")),
    path("", include("gateway.rest.urls")),
    re_path(r"^(?!console(?:/|$))", answer_unknown_path),
]
