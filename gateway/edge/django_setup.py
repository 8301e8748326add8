"""Django, set up, and its ASGI application. asgi.py imports this module before any that needs models."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
django_application = get_asgi_application()
