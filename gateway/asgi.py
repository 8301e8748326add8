"""The ASGI application: the data plane's endpoints by exact path, Django for everything else."""

from django.conf import settings

from gateway.edge.django_setup import django_application

# isort: split
from gateway import api
from gateway.edge.asgi_types import App
from gateway.edge.body_limit import BodyLimit
from gateway.edge.data_plane import DataPlane
from gateway.edge.request_guard import RequestGuard
from gateway.protocol.registry import scan

data_plane = DataPlane(scan(api, "ENDPOINT"), BodyLimit(django_application))
application: App = RequestGuard(data_plane, trusted_origins=settings.CSRF_TRUSTED_ORIGINS)
