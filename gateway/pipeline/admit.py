"""Station 4, Admit: may this principal call this model now? Limits and budgets take their tickets here."""

from dataclasses import replace

from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import BadRequest, Forbidden, NotFound
from gateway.protocol.provider import Target

MAX_SHOWN = 255  # characters of a model's name in an error
#: Fields by which an aggregator (OpenRouter, LiteLLM) answers with another model or provider than `model` says, which
#: alone is authorised and priced. Sources: openrouter.ai/docs/api-reference/parameters,
#: docs.litellm.ai/docs/proxy/reliability.
ROUTING_FIELDS = frozenset(
    {"models", "route", "provider", "plugins", "transforms", "preset", "fallbacks", "context_window_fallbacks"}
)


def may_call(principal: Principal, model: str) -> bool:
    """Every list of the key and its team must allow the model, or the one that its alias stands for."""
    return _may_call_group(principal, principal.resolve_model(model))


def _may_call_group(principal: Principal, group: str) -> bool:
    return principal.is_master or all(_allows(models, group) for models in principal.allowed_models)


def _allows(models: frozenset[str], model: str) -> bool:
    return model in models or any(name.endswith("*") and model.startswith(name[:-1]) for name in models)


def resolve_group(call: Call, principal: Principal, catalog: Catalog) -> str:
    """The model group that a call asks for, behind the aliases of its key and those of the installation."""
    return catalog.resolve(principal.organization_id, principal.resolve_model(call.model))


def name_group(call: Call, principal: Principal, catalog: Catalog) -> Principal:
    """The principal that resolves the call's model to its group, as limits, budgets and the spend log name it."""
    group = resolve_group(call, principal, catalog)
    if group == principal.resolve_model(call.model):
        return principal
    return replace(principal, model_aliases=((call.model, group), *principal.model_aliases))


def admit(call: Call, principal: Principal, catalog: Catalog) -> tuple[Target, ...]:
    """The targets of the call's model group that know the operation. Raises NotFound, Forbidden or BadRequest.

    A key with a list of models learns nothing of a model outside it, not even whether it exists.
    """
    model = call.model[:MAX_SHOWN]
    group = resolve_group(call, principal, catalog)
    if not may_call(principal, call.model) and not _may_call_group(principal, group):
        raise Forbidden(
            f"The requested model '{model}' is not available for this API key.", param="model", code="model_not_found"
        )
    targets = catalog.find(principal.organization_id, group)
    if not targets:
        raise NotFound(
            f"The model '{model}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )
    able = tuple(target for target in targets if call.operation in target.provider.operations)
    if not able:
        raise NotFound(
            f"The model '{model}' does not serve {call.operation} requests.", param="model", code="model_not_found"
        )
    if not ROUTING_FIELDS.isdisjoint(call.body):
        return _routed_elsewhere(call, able)
    return able


def find_fallback(call: Call, principal: Principal, catalog: Catalog, group: str) -> tuple[Target, ...]:
    """The targets of a group that stands in for the call's own; none where the caller may not call it."""
    if not _may_call_group(principal, group):
        return ()
    targets = catalog.find(principal.organization_id, group)
    return tuple(target for target in targets if call.operation in target.provider.operations)


def _routed_elsewhere(call: Call, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """The targets whose upstream may choose models as the client says. Raises BadRequest where there is none."""
    name = min((name for name in ROUTING_FIELDS if call.body.get(name) is not None), default="")
    allowing = tuple(target for target in targets if target.capabilities.routing_fields)
    if name and not allowing:
        raise BadRequest(
            f"'{name}' is not allowed in a request body: it could choose a model that is not authorised.",
            param=name,
            code="unsupported_parameter",
        )
    return allowing if name else targets
