"""The names under which the catalogue may have the price of a deployment's model. Pure; nothing is guessed by prefix.

A deployment may say which model stands behind its own name (`base_model`). Then this name alone counts. Otherwise it is
the name at the upstream, as it is or without the path that the provider's API puts before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

#: The paths that an API puts before the name of a model. Sources: AWS, "Amazon Bedrock model IDs" (ARNs of foundation
#: models and of inference profiles; an application's own profile names no model); Gemini API, `models.list`; Vertex AI.
_PATHS = (":foundation-model/", ":inference-profile/", "/models/", "models/")


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A model of which a price is looked for. `provider` empty: of whichever provider, if only one has the name."""

    provider: str
    model: str


def find_names(
    provider: str, upstream_model: str, base_model: str, prefixes: Mapping[str, str]
) -> tuple[PricedModel, ...]:
    """The models whose price the deployment may have, the first choice first. `prefixes`: LiteLLM's prefix → the name
    of the provider."""
    if base_model:
        prefix, slash, name = base_model.partition("/")
        named = (PricedModel(prefixes[prefix], name),) if slash and prefix in prefixes else ()
        return (*named, PricedModel(provider, base_model), PricedModel("", base_model))
    names = [PricedModel(provider, upstream_model)]
    for path in _PATHS:
        before, found, name = upstream_model.rpartition(path)
        if found and name and (not path.startswith("models") or not before):
            names.append(PricedModel(provider, name))
    return tuple(dict.fromkeys(names))
