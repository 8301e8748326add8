"""RouterModels: the deployments of a Router, which may change between two calls."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gateway.config.model_list import DeploymentEntry
from gateway.pipeline.ports import Catalog
from gateway.protocol.errors import BadRequest
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.routing.settings import RoutingSettings
from gateway.sdk.deployments import DirectDeployments, target_of
from gateway.sdk.prices import PriceBook
from gateway.sdk.request import Request

AUTOMATIC = "config-"  # the beginning of an id that no configuration has given
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
#: Headers of a call that the client of the upstream sets itself.
FRAMING = frozenset({"host", "connection", "content-length", "content-type", "transfer-encoding", "accept-encoding"})


class RouterModels:
    """Any thread may change it; a call keeps the catalog that it has begun with. Raises ValueError, and BadRequest for
    entries that cannot be served."""

    def __init__(self, entries: Iterable[DeploymentEntry], settings: RoutingSettings, prices: PriceBook) -> None:
        self.settings = settings
        self._prices = prices
        self._lock = threading.Lock()
        self._entries: dict[str, DeploymentEntry] = {}
        self._targets: dict[str, Target] = {}
        self._catalog = Catalog()
        for entry in entries:
            self._put(entry)
        self._publish()

    @property
    def entries(self) -> Sequence[DeploymentEntry]:
        return tuple(self._entries.values())

    def add(self, entry: DeploymentEntry) -> str:
        """Returns the id, which another deployment of the same parameters does not share."""
        with self._lock:
            number, own_id = 1, entry.id
            while entry.id in self._entries:
                if not own_id.startswith(AUTOMATIC):
                    raise ValueError(f"There is a deployment {own_id!r} already.")
                number += 1
                entry = replace(entry, id=f"{own_id}-{number}")
            self._put(entry)
            self._publish()
        return entry.id

    def remove(self, deployment_id: str) -> DeploymentEntry | None:
        with self._lock:
            entry = self._entries.pop(deployment_id, None)
            self._targets.pop(deployment_id, None)
            self._publish()
        return entry

    def find_catalog(self, request: Request, direct: DirectDeployments) -> Catalog:
        """Raises BadRequest for headers or fields that no upstream may get."""
        catalog = self._catalog
        if not request.deployment:
            return catalog
        headers = _read_headers(request.deployment.get("extra_headers"))
        fields = request.deployment.get("extra_body") or {}
        if not isinstance(fields, Mapping) or "model" in fields:
            raise BadRequest("'extra_body' must be an object without a model.", param="extra_body")
        groups = {
            name: tuple(
                replace(target, headers={**target.headers, **headers}, parameters={**target.parameters, **fields})
                for target in targets
            )
            for name, targets in catalog.groups.items()
        }
        return replace(catalog, groups=groups)

    def _put(self, entry: DeploymentEntry) -> None:
        if entry.budget.get("max_budget") is not None:
            raise ValueError(f"{entry.place}.litellm_params.max_budget: the SDK enforces no budgets; leave it out.")
        self._targets[entry.id] = target_of(entry, self._prices)
        self._entries[entry.id] = entry

    def _publish(self) -> None:
        groups: dict[tuple[str | None, str], list[Target]] = defaultdict(list)
        for target in sorted(self._targets.values(), key=lambda target: (target.order, target.deployment_id)):
            groups[None, target.model_group].append(target)
        self._catalog = Catalog(
            {name: tuple(targets) for name, targets in groups.items()},
            self.settings.aliases,
            self.settings.hidden_aliases,
        )


def describe(entry: DeploymentEntry) -> dict[str, object]:
    """The deployment as an item of a model_list, without its credentials."""
    own = {name: getattr(entry, name) for name in ("weight", "order", "rpm", "tpm")}
    timeouts = {name.removesuffix("_s"): getattr(entry, name) for name in TIMEOUTS}
    params = {
        "model": f"{entry.provider}/{entry.upstream_model}",
        "api_base": entry.api_base or None,
        "max_parallel_requests": entry.max_parallel,
        **own,
        **timeouts,
        **entry.parameters,
    }
    return {
        "model_name": entry.model_group,
        "litellm_params": {name: value for name, value in params.items() if value is not None},
        "model_info": {**entry.model_info, "id": entry.id},
    }


def _read_headers(value: object) -> dict[str, str]:
    """Names in lower case. Raises BadRequest."""
    headers: dict[str, str] = {}
    for name, text in value.items() if isinstance(value, Mapping) else () if value is None else ((value, value),):
        is_name = isinstance(name, str) and HEADER_NAME.fullmatch(name) and name.lower() not in FRAMING
        if not is_name or not isinstance(text, str) or not text.isprintable():
            raise BadRequest("'extra_headers' must be an object of header names and values.", param="extra_headers")
        headers[str(name).lower()] = text
    return headers
