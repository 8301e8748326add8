"""Station 4, Admit: may this principal call this model now? Limits and budgets take their tickets here."""

from collections.abc import Mapping
from dataclasses import replace

from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import BadRequest, Forbidden, NotFound
from gateway.protocol.provider import Target
from gateway.protocol.routing_options import FALLBACK_FIELDS, find_fallbacks
from gateway.routing.model_patterns import covers
from gateway.routing.target_group import keep_able

MAX_SHOWN = 255  # characters of a model's name in an error
#: Fields by which an aggregator (OpenRouter) answers with another model or provider than `model` says, which alone is
#: authorised and priced. Source: openrouter.ai/docs/api-reference/parameters.
ROUTING_FIELDS = frozenset({"models", "route", "provider", "plugins", "transforms", "preset"})


def may_call(principal: Principal, model: str) -> bool:
    """Every list of the key and its team must allow the model, or the one that its alias stands for."""
    return _may_call_group(principal, principal.resolve_model(model))


def _may_call_group(principal: Principal, group: str) -> bool:
    return principal.is_master or all(covers(models, group) for models in principal.allowed_models)


def resolve_group(model: str, principal: Principal, catalog: Catalog) -> str:
    """The model group of a name, behind the aliases of the key and those of the installation."""
    return catalog.resolve(principal.organization_id, principal.resolve_model(model))


def name_group(call: Call, principal: Principal, catalog: Catalog) -> Principal:
    """The principal that resolves the call's model to its group, as limits, budgets and the spend log name it."""
    group = resolve_group(call.model, principal, catalog)
    if group == principal.resolve_model(call.model):
        return principal
    return replace(principal, model_aliases=((call.model, group), *principal.model_aliases))


def admit(call: Call, principal: Principal, catalog: Catalog) -> tuple[Target, ...]:
    """The targets of the call's model group that know the operation. Raises NotFound, Forbidden or BadRequest, also for
    a fallback that the call names: the client would not notice one that is passed over.

    A key with a list of models learns nothing of a model outside it, not even whether it exists.
    """
    able = _find_able(call, call.model, "model", principal, catalog)
    if not FALLBACK_FIELDS.isdisjoint(call.body):
        for name, models in _find_named(call, principal, catalog).items():
            for model in models:
                _find_able(call, model, name, principal, catalog)
    if name := _find_routing_field(call):
        able = _keep_routable(able)
        if not able:
            raise BadRequest(
                f"'{name}' is not allowed in a request body: it could choose a model that is not authorised.",
                param=name,
                code="unsupported_parameter",
            )
    return able


def named_fallbacks(call: Call, principal: Principal, catalog: Catalog) -> Mapping[str, tuple[str, ...]]:
    """{field: the model groups that stand in for the call's own}, by the fields of FALLBACK_FIELDS that it sends."""
    return {
        name: tuple(resolve_group(model, principal, catalog) for model in models)
        for name, models in _find_named(call, principal, catalog).items()
    }


def _find_named(call: Call, principal: Principal, catalog: Catalog) -> Mapping[str, tuple[str, ...]]:
    """{field: the models that it names for the call's own}"""
    groups = (call.model, resolve_group(call.model, principal, catalog))
    values = {name: call.body.get(name) for name in sorted(FALLBACK_FIELDS)}
    return {name: find_fallbacks(value, groups) for name, value in values.items() if value is not None}


def _find_able(call: Call, model: str, param: str, principal: Principal, catalog: Catalog) -> tuple[Target, ...]:
    """The targets of a model's group that know the call's operation. Raises Forbidden and NotFound."""
    group, shown = resolve_group(model, principal, catalog), model[:MAX_SHOWN]
    noun = "model" if param == "model" else "fallback model"
    if not may_call(principal, model) and not _may_call_group(principal, group):
        message = f"The requested {noun} '{shown}' is not available for this API key."
        raise Forbidden(message, param=param, code="model_not_found")
    targets = catalog.find(principal.organization_id, group)
    if not targets:
        message = f"The {noun} '{shown}' does not exist or you do not have access to it."
        raise NotFound(message, param=param, code="model_not_found")
    able = keep_able(targets, call.operation)
    if not able:
        message = f"The {noun} '{shown}' does not serve {call.operation} requests."
        raise NotFound(message, param=param, code="model_not_found")
    return able


def find_fallback(call: Call, principal: Principal, catalog: Catalog, group: str) -> tuple[Target, ...]:
    """The targets of a group that stands in for the call's own; none where the caller may not call it. A group that the
    call itself names is admitted, be it by an alias that the key may call."""
    alias, group = group, catalog.resolve(principal.organization_id, group)
    named = named_fallbacks(call, principal, catalog).values()
    may_call = _may_call_group(principal, alias) or _may_call_group(principal, group)
    if not may_call and not any(group in groups for groups in named):
        return ()
    targets = catalog.find(principal.organization_id, group)
    able = keep_able(targets, call.operation)
    return _keep_routable(able) if _find_routing_field(call) else able


def _find_routing_field(call: Call) -> str:
    """A field by which an aggregator chooses another model; empty for none."""
    if ROUTING_FIELDS.isdisjoint(call.body):
        return ""
    return min((name for name in ROUTING_FIELDS if call.body.get(name) is not None), default="")


def _keep_routable(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """The targets whose upstream may choose models as the client says."""
    return tuple(target for target in targets if target.capabilities.routing_fields)
