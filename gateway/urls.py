"""URLs that Django itself serves: the console and the management API."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("console/", admin.site.urls),
    path("", include("tenants.rest.urls")),
    path("", include("billing.rest.urls")),
    path("", include("gateway.rest.urls")),
]
