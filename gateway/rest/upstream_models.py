"""The models that the upstream of a deployment offers, for the management API and the console."""

from django.conf import settings

from gateway.models import Deployment
from gateway.models.encryption import CredentialUnusable
from gateway.protocol.errors import BadRequest
from gateway.stores.catalog import DeploymentUnusable, target_of
from gateway.upstream.listing import list_models
from gateway.upstream.proxy import ProxyRules


def list_upstream_models(deployment: Deployment) -> list[str]:
    """Asks the upstream now. Raises Fault, whose message may reach the client."""
    try:
        target = target_of(deployment)
    except CredentialUnusable:
        message = "The stored credential cannot be opened here; give it again."
        raise BadRequest(message, code="model_unusable", param="model_id") from None
    except DeploymentUnusable as error:
        raise BadRequest(f"The model cannot be used: {error}.", code="model_unusable", param="model_id") from None
    names = list_models(
        target,
        connect_timeout_s=settings.TOLLGATE_CONNECT_TIMEOUT_S,
        proxies=ProxyRules(settings.UPSTREAM_PROXIES, settings.UPSTREAM_NO_PROXY),
    )
    if names is None:
        message = f"{target.provider.title} offers no list of models here."
        raise BadRequest(message, code="not_offered", param="model_id")
    return names
