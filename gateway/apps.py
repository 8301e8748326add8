"""App configuration of the gateway: the shell, the data plane and the deployments."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "gateway"
    verbose_name = "Gateway"

    def ready(self) -> None:
        from gateway import celery  # noqa: F401, PLC0415 - registers the Celery app that shared tasks bind to
