"""The details of a call that its answer has no place for: what it cost, and who answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.pipeline.ports import Attempt
from gateway.protocol.amounts import usd_text
from gateway.protocol.errors import Fault
from gateway.protocol.usage import UsageSource

#: Where the answers of the SDK carry their Details. LiteLLM's name beside it has a mapping.
DETAILS = "_details"
HIDDEN_PARAMS = "_hidden_params"


@dataclass(frozen=True, slots=True)
class AttemptDetails:
    """One try at one deployment. `cost`: USD; None where no price covers its usage. Durations are seconds."""

    deployment: str
    provider: str
    model: str  # the upstream's name of it
    status_code: int
    error_code: str
    duration_s: float
    cost: Decimal | None
    usage_estimated: bool
    dropped_params: tuple[str, ...]

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptDetails":
        return cls(
            deployment=attempt.target.deployment_id,
            provider=attempt.target.provider.name,
            model=attempt.target.upstream_model,
            status_code=attempt.status_code,
            error_code=attempt.error_code,
            duration_s=(attempt.ended_at or attempt.started_at) - attempt.started_at,
            cost=None if attempt.cost_pusd is None else Decimal(usd_text(attempt.cost_pusd)),
            usage_estimated=attempt.usage_source in {UsageSource.PARTIAL, UsageSource.ESTIMATED},
            dropped_params=attempt.dropped,
        )


@dataclass(frozen=True, slots=True)
class Details:
    """`attempts`: in the order in which they ended. The last one answered, or is the one whose error was raised."""

    attempts: tuple[AttemptDetails, ...] = ()

    @property
    def cost(self) -> Decimal | None:
        """USD, of all attempts together; None where the price of one is not known."""
        costs = [attempt.cost for attempt in self.attempts]
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) and costs else None

    @property
    def usage_estimated(self) -> bool:
        """True where the upstream has not reported all counts, and the cost is of estimates."""
        return any(attempt.usage_estimated for attempt in self.attempts)

    @property
    def deployment(self) -> str:
        return self.attempts[-1].deployment if self.attempts else ""

    @property
    def provider(self) -> str:
        return self.attempts[-1].provider if self.attempts else ""

    @property
    def dropped_params(self) -> tuple[str, ...]:
        """The parameters that the provider cannot express, and that were left out."""
        return self.attempts[-1].dropped_params if self.attempts else ()

    @property
    def hidden_params(self) -> dict[str, object]:
        """The members of LiteLLM's `_hidden_params` that have a counterpart."""
        cost = self.cost
        return {
            "response_cost": None if cost is None else float(cost),
            "model_id": self.deployment,
            "custom_llm_provider": self.provider,
        }


NO_DETAILS = Details()


class CallFailed(Exception):
    """A call that no deployment has answered, on its way from the loop to the caller."""

    def __init__(self, fault: Fault, attempts: Sequence[AttemptDetails] = ()) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.details = Details(tuple(attempts))


def details(result: object) -> Details:
    """The details of an answer, of a stream that has ended, or of an error. Raises TypeError for anything else."""
    value = getattr(result, DETAILS, None)
    if not isinstance(value, Details):
        raise TypeError(f"There are no details of {type(result).__name__}: the SDK has not made it.")
    return value
