"""The database side of the data plane's ports: the deployments as a frozen Catalog, and their prices."""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django_scopes import scopes_disabled

from billing.models import Price
from billing.pricing import PriceLines
from gateway.models import Deployment
from gateway.models.encryption import CredentialUnusable, unseal
from gateway.pipeline.ports import Catalog
from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX, Target
from gateway.providers.registry import PROVIDERS

logger = logging.getLogger(__name__)


class DeploymentUnusable(Exception):
    """A row is not a usable deployment; the message says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The deployments and their prices at one revision."""

    catalog: Catalog = field(default_factory=Catalog)
    prices: Mapping[str, PriceLines] = field(default_factory=dict)


#: The snapshot before a process has read the database for the first time.
NOT_LOADED = Snapshot()


def load_snapshot() -> Snapshot:
    """Loads every enabled deployment. A deployment that cannot be used is left out and named in the log."""
    groups: dict[tuple[str | None, str], list[Target]] = defaultdict(list)
    with scopes_disabled():  # the catalog itself keeps organizations apart
        deployments = list(Deployment.objects.filter(enabled=True))
    for deployment in deployments:
        try:
            groups[(deployment.organization_id, deployment.model_group)].append(target_of(deployment))
        except (CredentialUnusable, DeploymentUnusable) as error:
            logger.error("a deployment cannot be used", extra={"deployment": deployment.id, "why": str(error)})
    used = {deployment.price_id for deployment in deployments if deployment.price_id}
    prices: dict[str, PriceLines] = {}
    for price in Price.objects.filter(id__in=used):
        try:
            prices[price.id] = PriceLines.read(price.lines)
        except ValueError as error:
            logger.error("a price cannot be read", extra={"price": price.id, "why": str(error)})
    return Snapshot(Catalog({name: tuple(targets) for name, targets in groups.items() if targets}), prices)


def target_of(deployment: Deployment) -> Target:
    """Raises CredentialUnusable or DeploymentUnusable."""
    provider = PROVIDERS.get(deployment.provider)
    if provider is None:
        raise DeploymentUnusable(f"the provider {deployment.provider!r} is unknown")
    credential = unseal(context=deployment.id, sealed=deployment.credential)
    parameters = _mapping(deployment.parameters, "parameters")
    extra_headers = _mapping(parameters.pop("extra_headers", {}), "extra_headers")
    headers = {name.lower(): str(value) for name, value in extra_headers.items()}
    for name in [name for name in credential if name.startswith(HEADER_PREFIX)]:
        headers[name.removeprefix(HEADER_PREFIX).lower()] = credential.pop(name).reveal()
    parameters.update(_mapping(parameters.pop("extra_body", {}), "extra_body"))
    for name in [name for name in credential if name.startswith(BODY_PREFIX)]:
        parameters[name.removeprefix(BODY_PREFIX)] = json.loads(credential.pop(name).reveal())
    info = _mapping(deployment.model_info, "model_info")
    flags = _mapping(info.get("capabilities") or {}, "capabilities")
    if "tool_call_parser" in parameters:
        flags["tool_call_parser"] = parameters.pop("tool_call_parser") or ""
    return Target(
        deployment_id=deployment.id,
        model_group=deployment.model_group,
        organization_id=deployment.organization_id,
        provider=provider,
        upstream_model=deployment.upstream_model,
        api_base=deployment.api_base,
        credential=credential,
        parameters=parameters,
        headers=headers,
        weight=deployment.weight,
        order=deployment.order,
        timeout_s=deployment.timeout_s,
        stream_timeout_s=deployment.stream_timeout_s,
        price_id=deployment.price_id,
        mode=str(info.get("mode") or ""),
        created_s=int(deployment.created_at.timestamp()),
        capabilities=apply_flags(
            flags, default_capabilities(str(parameters.get("base_model") or deployment.upstream_model))
        ),
    )


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DeploymentUnusable(f"{name} must be an object")
    return dict(value)
