"""Station 4, Admit: may this principal call this model now? Limits and budgets take their tickets here."""

from gateway.pipeline.ports import Catalog, Principal
from gateway.protocol.call import Call
from gateway.protocol.errors import Forbidden, NotFound
from gateway.protocol.provider import Target

MAX_SHOWN = 255  # characters of a name that nobody has given to a model


def may_call(principal: Principal, model: str) -> bool:
    """Every list of the key and its team must allow the model."""
    return all(_allows(models, model) for models in principal.allowed_models)


def _allows(models: frozenset[str], model: str) -> bool:
    return model in models or any(name.endswith("*") and model.startswith(name[:-1]) for name in models)


def admit(call: Call, principal: Principal, catalog: Catalog) -> tuple[Target, ...]:
    """The targets of the call's model group that know the operation. Raises NotFound or Forbidden."""
    targets = catalog.find(principal.organization_id, call.model)
    if not targets:
        raise NotFound(
            f"The model '{call.model[:MAX_SHOWN]}' does not exist or you do not have access to it.",
            param="model",
            code="model_not_found",
        )
    if not principal.is_master and not may_call(principal, call.model):
        raise Forbidden(
            f"The requested model '{call.model}' is not available for this API key.",
            param="model",
            code="model_not_found",
        )
    able = tuple(target for target in targets if call.operation in target.provider.operations)
    if not able:
        raise NotFound(
            f"The model '{call.model}' does not serve {call.operation} requests.",
            param="model",
            code="model_not_found",
        )
    return able
