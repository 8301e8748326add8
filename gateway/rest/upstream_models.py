"""The models that the upstream of a deployment offers, for the management API and the console."""

from django.conf import settings

from gateway.models import Deployment
from gateway.protocol.errors import BadRequest
from gateway.stores.deployment_probe import usable_target
from gateway.upstream.listing import list_models
from gateway.upstream.proxy import ProxyRules


def list_upstream_models(deployment: Deployment) -> list[str]:
    """Asks the upstream now. Raises Fault, whose message may reach the client."""
    target = usable_target(deployment)
    names = list_models(
        target,
        connect_timeout_s=settings.TOLLGATE_CONNECT_TIMEOUT_S,
        proxies=ProxyRules(settings.UPSTREAM_PROXIES, settings.UPSTREAM_NO_PROXY),
    )
    if names is None:
        message = f"{target.provider.title} offers no list of models here."
        raise BadRequest(message, code="not_offered", param="model_id")
    return names
