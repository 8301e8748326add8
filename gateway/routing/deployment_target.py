"""A deployment as the data path sees it, from the fields that config.yaml and the database have for it."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Protocol

from gateway.protocol.abilities import named_capabilities, read_abilities
from gateway.protocol.capabilities import PARAMETERS as FLAG_PARAMETERS
from gateway.protocol.capabilities import Capabilities, apply_flags, default_capabilities
from gateway.protocol.deployment_tags import TAGS, read_tags
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX, Target
from gateway.protocol.secret import Secret
from gateway.protocol.secret_fields import split_secret_texts
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.providers.registry import PROVIDERS

NO_FLAGS = Capabilities()
MIN_SECRET_CHARS = 8  # of a text that is taken out of an upstream's text


class DeploymentUnusable(Exception):
    """The fields are not those of a usable deployment; the message says why."""


class DeploymentFields(Protocol):
    """The fields of a deployment under LiteLLM's meanings: a row of the database, or an item of a model_list."""

    @property
    def id(self) -> str: ...
    @property
    def model_group(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def upstream_model(self) -> str: ...
    @property
    def api_base(self) -> str: ...
    @property
    def parameters(self) -> JsonMapping: ...
    @property
    def model_info(self) -> JsonMapping: ...
    @property
    def weight(self) -> float: ...
    @property
    def order(self) -> int: ...
    @property
    def rpm(self) -> int | None: ...
    @property
    def tpm(self) -> int | None: ...
    @property
    def max_parallel(self) -> int | None: ...


def make_target(
    fields: DeploymentFields,
    credential: Mapping[str, Secret],
    *,
    organization_id: str | None = None,
    price_id: str = "",
    created_s: int = 0,
) -> Target:
    """`credential`: its parts, headers and fields of the body under their prefixes. Raises DeploymentUnusable."""
    provider = PROVIDERS.get(fields.provider)
    if provider is None:
        raise DeploymentUnusable(f"the provider {fields.provider!r} is unknown")
    parts = dict(credential)
    texts = {text for secret in parts.values() for text in split_secret_texts(secret.reveal())}
    parameters = _mapping(fields.parameters, "parameters")
    extra_headers = _mapping(parameters.pop("extra_headers", {}), "extra_headers")
    headers = {name.lower(): str(value) for name, value in extra_headers.items()}
    for name in [name for name in parts if name.startswith(HEADER_PREFIX)]:
        headers[name.removeprefix(HEADER_PREFIX).lower()] = parts.pop(name).reveal()
    tags = read_tags(parameters.pop(TAGS, None))  # one in extra_body is the upstream's
    parameters.update(_mapping(parameters.pop("extra_body", {}), "extra_body"))
    for name in [name for name in parts if name.startswith(BODY_PREFIX)]:
        parameters[name.removeprefix(BODY_PREFIX)] = json.loads(parts.pop(name).reveal())
    info = _mapping(fields.model_info, "model_info")
    flags = named_capabilities(info) | _mapping(info.get("capabilities") or {}, "capabilities")
    for name in FLAG_PARAMETERS:
        if name in parameters:
            flags[name] = parameters.pop(name) or getattr(NO_FLAGS, name)
    base_model = str(parameters.get("base_model") or fields.upstream_model)
    capabilities = apply_flags(flags, default_capabilities(base_model))
    if "base_model" not in provider.own_parameters:
        parameters.pop("base_model", None)
    return Target(
        deployment_id=fields.id,
        model_group=fields.model_group,
        organization_id=organization_id,
        provider=provider,
        upstream_model=fields.upstream_model,
        api_base=fields.api_base,
        credential=parts,
        parameters=parameters,
        headers=headers,
        other_secrets=frozenset(Secret(text) for text in texts if len(text) >= MIN_SECRET_CHARS),
        weight=fields.weight,
        order=fields.order,
        timeouts=_timeouts(fields),
        price_id=price_id,
        rpm=fields.rpm,
        tpm=fields.tpm,
        max_parallel=fields.max_parallel,
        max_input_tokens=_count(info.get("max_input_tokens")),
        mode=str(info.get("mode") or ""),
        abilities=read_abilities(info),
        tags=tags,
        created_s=created_s,
        flags=flags,
        capabilities=capabilities,
        fingerprint=_fingerprint(fields, parameters, headers, capabilities),
    )


def _fingerprint(
    fields: DeploymentFields, parameters: JsonMapping, headers: Mapping[str, str], capabilities: Capabilities
) -> str:
    """A digest of what an answer depends on: not of the weight, the limits, the price and the credential."""
    upstream = [fields.provider, fields.upstream_model, fields.api_base, str(fields.model_info)]
    texts = [*upstream, json.dumps(parameters, sort_keys=True), json.dumps(headers, sort_keys=True), str(capabilities)]
    return sha256(json.dumps(texts).encode()).hexdigest()


def _timeouts(fields: DeploymentFields) -> Timeouts:
    timeouts = Timeouts(*[getattr(fields, name) for name in TIMEOUTS])
    return NO_TIMEOUTS if timeouts == NO_TIMEOUTS else timeouts  # by which the data path knows it at once


def _count(value: Json) -> int | None:
    return value if type(value) is int and value > 0 else None


def _mapping(value: Json, name: str) -> JsonObject:
    if not isinstance(value, dict):
        raise DeploymentUnusable(f"{name} must be an object")
    return dict(value)
