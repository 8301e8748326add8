"""Models whose calls have no price: what they would cost is waiting to be known."""

import difflib
import operator
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce

from django.db.models import Count, F, Max, Min, Sum
from django.db.models.expressions import Combinable
from django_scopes import scopes_disabled

from billing.models import Price, SpendLog
from billing.pricing import COUNTS, INPUTS
from billing.repricing import WITHOUT_COST
from gateway.protocol.json.types import JsonObject

MAX_MODELS = 500
MAX_SUGGESTIONS = 20  # a look for one takes up to 50 ms, and callers of a pattern choose the names
#: What a name has beside that of its model: a path, a region, a version of the API, a date.
_BESIDE = re.compile(
    r"^.*/|^(?:us|eu|apac|au|jp|global|us-gov)\.|^[a-z0-9]+\.(?=[a-z])|[-@]20\d{6}|-v\d+(?::\d+)?$|:latest$"
)
SIMILAR = 0.75


@dataclass(frozen=True, slots=True)
class UnpricedModel:
    """Calls of one deployment without a cost. `suggestion`: a model of the catalogue that may stand behind it, for a
    person to confirm; empty where none is alike, and behind the first MAX_SUGGESTIONS."""

    model_group: str
    deployment_id: str
    provider: str
    upstream_model: str
    requests: int
    input_tokens: int
    output_tokens: int
    first_at: datetime
    last_at: datetime
    suggestion: str

    def render(self) -> JsonObject:
        return asdict(self) | {"first_at": self.first_at.isoformat(), "last_at": self.last_at.isoformat()}


def find_unpriced() -> list[UnpricedModel]:
    """The deployments whose calls wait for a price, most requests first."""
    names = ("model_group", "deployment_id", "provider", "upstream_model")
    inputs, outputs = COUNTS[:INPUTS], COUNTS[INPUTS:]
    with scopes_disabled():  # the platform's prices span all organizations
        rows = (
            SpendLog.objects.filter(WITHOUT_COST)
            .order_by()
            .values(*names)
            .annotate(
                requests=Count("id"),
                inputs=Sum(_add(inputs)),
                outputs=Sum(_add(outputs)),
                first_at=Min("started_at"),
                last_at=Max("started_at"),
            )
            .order_by("-requests", *names)[:MAX_MODELS]
        )
        found = list(rows)
    catalogue = _Catalogue() if found else None
    return [
        UnpricedModel(
            **{name: row[name] for name in names},
            requests=row["requests"],
            input_tokens=row["inputs"],
            output_tokens=row["outputs"],
            first_at=row["first_at"],
            last_at=row["last_at"],
            suggestion=catalogue.suggest(row["provider"], row["upstream_model"])
            if catalogue is not None and place < MAX_SUGGESTIONS
            else "",
        )
        for place, row in enumerate(found)
    ]


def _add(columns: Iterable[str]) -> Combinable:
    return reduce(operator.add, (F(name) for name in columns))


class _Catalogue:
    """The names of the catalogue by what is the model in them."""

    def __init__(self) -> None:
        rows = Price.objects.filter(status=Price.Status.ACTIVE, organization_id="").exclude(model="")
        self._names: dict[str, list[tuple[str, str]]] = {}
        for provider, model in rows.order_by("provider", "model").values_list("provider", "model").distinct():
            self._names.setdefault(reduce_name(model), []).append((provider, model))

    def suggest(self, provider: str, upstream_model: str) -> str:
        """`provider/model` of the most alike name, of the same provider if it has one."""
        name = reduce_name(upstream_model)
        own = {key for key, names in self._names.items() if any(owner == provider for owner, _ in names)}
        for keys in (own, self._names.keys()):
            if close := _closest(name, keys):
                names = self._names[close]
                owner, model = next((one for one in names if one[0] == provider), names[0])
                return f"{owner}/{model}"
        return ""


def _closest(name: str, keys: Collection[str]) -> str:
    if name in keys:
        return name
    return next(iter(difflib.get_close_matches(name, keys, n=1, cutoff=SIMILAR)), "")


def reduce_name(name: str) -> str:
    """The model in a name: `us.anthropic.claude-sonnet-4-5-20250929-v1:0` is `claude-sonnet-4-5`."""
    reduced = name.lower()
    while (shorter := _BESIDE.sub("", reduced, count=1)) != reduced and shorter:
        reduced = shorter
    return reduced.replace(".", "-").replace("_", "-")
