"""DirectModels: every name is `provider/name`, and its deployment is what the arguments of the call say."""

from collections.abc import Iterator, Mapping

from gateway.pipeline.ports import Catalog
from gateway.protocol.routing_options import FALLBACK_FIELDS
from gateway.routing.settings import DEFAULT_SETTINGS, RoutingSettings
from gateway.sdk.deployments import DirectDeployments
from gateway.sdk.environment import environment
from gateway.sdk.request import Request

NO_PARAMS: Mapping[str, object] = {}


class DirectModels:
    settings: RoutingSettings = DEFAULT_SETTINGS

    def find_catalog(self, request: Request, direct: DirectDeployments) -> Catalog:
        """The deployment of the call, and those of its fallbacks: their credentials are their own, or of the
        environment. Raises BadRequest."""
        environ = environment()
        targets = {request.model: direct.find(request.model, request.deployment, environ)}
        for name in sorted(FALLBACK_FIELDS & request.body.keys()):
            for model in _names(request.body[name]):
                if model not in targets:
                    upstream_model, params = request.fallbacks.get(model, (model, NO_PARAMS))
                    targets[model] = direct.find(upstream_model, params, environ)
        return Catalog({(None, name): (target,) for name, target in targets.items()})


def _names(value: object) -> Iterator[str]:
    """The models that a value of fallbacks names, whatever its form; the pipeline checks the form itself."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        if isinstance(value.get("model"), str):
            yield value["model"]
        else:
            for item in value.values():
                yield from _names(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)
