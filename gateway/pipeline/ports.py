"""The ports of the pipeline: the applications around it implement them, and it imports none of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.pipeline.allowed_routes import RouteList
from gateway.pipeline.client_address import Network
from gateway.protocol.abilities import ALL_ABILITIES
from gateway.protocol.cache_control import NO_CONTROL, CacheControl
from gateway.protocol.call import Call, Finish
from gateway.protocol.provider import Target
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts
from gateway.protocol.usage import NO_USAGE, Usage, UsageSource
from gateway.routing.model_patterns import PatternGroups, covers, is_pattern
from gateway.routing.target_group import TargetGroup
from gateway.routing.walk import Step
from gateway.state.unit_of_work import UnitOfWork

Headers = list[tuple[bytes, bytes]]


class Dimension(StrEnum):
    """The unit that a rate limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A rate limit of a scope: at most `limit` of a dimension in any span; parallel calls have no span (0)."""

    counter: str  # its name among all counters
    owner: str  # the scope, as a refusal names it: "key", "team", …
    dimension: Dimension
    limit: int
    span_s: int
    model: str = ""  # the model group that it counts; empty: all together
    is_shadow: bool = False


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget of a scope. The database knows its limit, and holds its windows."""

    budget_id: str
    organization_id: str
    owner: str  # the scope, as a refusal names it
    scope: str
    scope_id: str  # the spender's id among all organizations; several share the budget of a template
    duration: str  # of its windows; empty: for all time
    time_zone: str
    is_hard: bool
    model: str = ""  # the model group that it counts; empty: all together


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits and budgets of one or several scopes."""

    limits: tuple[LimitRule, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.limits or self.budgets)

    def __add__(self, other: "Rules") -> "Rules":
        return Rules(self.limits + other.limits, self.budgets + other.budgets)

    def for_model(self, model: str) -> "Rules":
        """The rules that bind calls of this model group; the model of a rule may end in `*`."""
        return Rules(
            tuple(rule for rule in self.limits if not rule.model or covers((rule.model,), model)),
            tuple(rule for rule in self.budgets if not rule.model or covers((rule.model,), model)),
        )


NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: a virtual key, or the master key (`is_master`), which may call every model."""

    organization_id: str
    key_digest: str
    key_id: str = ""
    key_alias: str = ""
    team_id: str = ""
    user_id: str = ""
    #: Each of these lists narrows what the key may call; an empty one narrows nothing.
    allowed_models: tuple[frozenset[str], ...] = ()
    #: (name that a client asks for, model group that it gets), of the key and its team
    model_aliases: tuple[tuple[str, str], ...] = ()
    allowed_routes: tuple[RouteList, ...] = ()  # each narrows
    allowed_networks: tuple[Network, ...] = ()  # empty: every address
    expires_at_s: float | None = None
    is_master: bool = False
    retention_days: int | None = None  # of stored responses; None: as the gateway's setting says
    tags: frozenset[str] = frozenset()  # of the key and its team, for routing
    rules: Rules = NO_RULES  # of the key, its team, member, user and organization
    refuses_unpriced: bool = True  # calls without a price, under a hard budget
    timeouts: Timeouts = NO_TIMEOUTS  # of the key; they only shorten
    source: str = ""  # of its calls, in the spend log: `probe`; empty: a client's
    cache: CacheControl = NO_CONTROL  # how its calls use the response cache, of the key and its team
    cost_center: str = ""  # of the key's metadata, else of the team's

    def resolve_model(self, model: str) -> str:
        """The model group that stands behind a name. An alias is resolved once: its target is never an alias."""
        return next((group for alias, group in self.model_aliases if alias == model), model)


@dataclass(slots=True)
class Attempt:
    """One try at one upstream, as the spend log will show it. Instants are seconds since the epoch."""

    id: str  # UUID
    request_id: str  # UUID
    number: int
    principal: Principal
    call: Call
    target: Target
    started_at: float
    fallbacks: int = 0  # other deployments that were tried before
    retries: int = 0  # earlier tries at this one
    is_hedge: bool = False  # made beside another one that was silent
    has_lost: bool = False  # another one that was made at the same time has answered first
    first_token_at: float | None = None
    ended_at: float | None = None
    step: Step | None = None  # the choice of its target
    error_class: str = ""  # of its failure
    upstream_status: int = 0  # as the upstream answered; 0 where it did not
    dropped: tuple[str, ...] = ()  # parameters that the provider cannot express
    upstream_limits: Headers = field(default_factory=list)  # the upstream's rate limits, as its answer told them
    upstream_s: float = 0  # the upstream's time for a whole answer
    is_sent: bool = False  # the upstream may have received the request
    finish: Finish = Finish.COMPLETE
    status_code: int = 200  # of the outcome
    error_code: str = ""
    error_message: str = ""  # as the client got it
    served_model: str = ""
    upstream_id: str = ""
    service_tier: str = ""
    usage: Usage = NO_USAGE
    usage_source: UsageSource = UsageSource.NONE
    raw_usage: Mapping[str, object] | None = None
    cost_pusd: int | None = None  # set by Ledger.close; None: no price covers the usage
    ending: bytes = b""  # the frames of a stream that leave after Ledger.close
    steps: "Sequence[CloseStep]" = ()
    reservation: "Reservation | None" = None
    deployment_hold: "BudgetHold | None" = None  # of the budgets of its deployment
    is_begun: bool = False  # the client has the head of its stream
    is_cached: bool = False  # no upstream was asked: the response cache has answered
    continues: "Attempt | None" = None  # whose stream broke, and goes on here

    @property
    def windows(self) -> tuple[str, ...]:
        """The budget windows that its cost is settled in."""
        own = self.deployment_hold.windows if self.deployment_hold is not None else ()
        return (*(self.reservation.windows if self.reservation is not None else ()), *own)

    @property
    def client_status(self) -> int:
        """The status that the client got: a stream that breaks off, or cannot be stored, has begun with 200."""
        return 200 if self.is_begun and self.finish is not Finish.CLIENT_GONE else self.status_code


#: Adds to the unit what is written together with the spend row of an attempt that ends.
CloseStep = Callable[[Attempt, UnitOfWork], None]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The deployments, frozen: {(organization id or None, model group): targets}. `aliases`: other names of groups, for
    all organizations; `hidden` ones are not in the list of models. A group whose name has a `*` serves the names that
    no other group has."""

    groups: Mapping[tuple[str | None, str], tuple[Target, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    patterns: PatternGroups = field(init=False, repr=False, compare=False)  # of `groups`
    lacking: frozenset[str] = field(init=False, repr=False, compare=False)  # the abilities that some target lacks
    group_names: frozenset[str] = field(init=False, repr=False, compare=False)  # of all organizations

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", {place: TargetGroup.of(targets) for place, targets in self.groups.items()})
        abilities = {target.abilities for targets in self.groups.values() for target in targets}
        object.__setattr__(self, "group_names", frozenset(name for _, name in self.groups))
        object.__setattr__(self, "patterns", PatternGroups(self.groups))
        object.__setattr__(self, "lacking", frozenset().union(*(ALL_ABILITIES - some for some in abilities)))

    def resolve(self, organization_id: str, model: str) -> str:
        """The model group that stands behind a name; a group hides an alias of the same name."""
        if (organization_id, model) in self.groups or (None, model) in self.groups:
            return model
        return self.aliases.get(model, model)

    def find(self, organization_id: str, model: str) -> tuple[Target, ...]:
        """An organization's own group hides a shared one of the same name; a name without a group is served by the most
        specific pattern."""
        model = self.resolve(organization_id, model)
        targets = self.groups.get((organization_id, model)) or self.groups.get((None, model))
        if targets is None:
            return self.patterns.find(organization_id, model)
        return () if is_pattern(model) else targets

    def names(self, organization_id: str, *, with_patterns: bool = False) -> dict[str, Target]:
        """{public name: its first target} of what the organization can reach."""
        names = {
            alias: targets[0]
            for alias in self.aliases.keys() - self.hidden
            if (targets := self.find(organization_id, alias))
        }
        return names | {
            name: targets[0]
            for (owner, name), targets in sorted(self.groups.items(), key=lambda group: group[0][0] is not None)
            if owner in (None, organization_id) and (with_patterns or not is_pattern(name))
        }


class ClientStalled(Exception):
    """The client has stopped reading: no answer can reach it."""


class Directory(Protocol):
    async def find(self, key: str) -> Principal | None:
        """The holder of a presented key; None for one that is unknown, blocked or expired.

        Raises GatewayFault (503) while the answer cannot be known.
        """


class Ledger(Protocol):
    """The ledger of spend. Each call returns when the row is durable: `open` against the death of this process, `close`
    against the loss of power as well. Raises GatewayFault when neither the database nor the spool takes the row."""

    async def open(self, attempt: Attempt) -> None: ...

    async def record(self, attempt: Attempt) -> None:
        """Writes the whole row of a call that the response cache answers, as durably as `close`. It costs nothing."""

    async def close(self, attempt: Attempt) -> None:
        """Runs the attempt's steps in order, and writes the spend row and all that they add in one transaction. The
        spend row is written whatever becomes of the rest; a fault tells that the rest was refused."""


class BudgetHold(Protocol):
    """The amounts that one attempt has reserved of the budgets of its deployment."""

    @property
    def windows(self) -> tuple[str, ...]:
        """The windows that its cost is settled in."""

    def settle(self, cost_pusd: int) -> None:
        """Replaces the reserved amounts by the cost. Once; later calls do nothing."""


class Reservation(Protocol):
    """The amounts that a request has taken from its rate limits and budgets until its cost is known."""

    @property
    def headers(self) -> Headers:
        """`x-ratelimit-*` of the tightest limits."""

    @property
    def windows(self) -> tuple[str, ...]:
        """The budget windows that the costs of its attempts are settled in."""

    @property
    def output_limit(self) -> int | None:
        """The tokens of output that the budgets still pay, where these are fewer than the request asks for: every
        attempt gets this limit."""

    async def extend(self, call: Call, target: Target, running: Sequence[Attempt] = ()) -> bool:
        """Before a further attempt: reserves what this target may cost beside the attempts that have ended, and those
        that are `running` still. False where a budget does not allow it."""

    def add(self, attempt: Attempt) -> None:
        """Counts the usage and cost of an attempt that has ended. Several may end."""

    async def settle(self) -> None:
        """Gives back what was reserved and not used. Once; later calls do nothing."""


class Admission(Protocol):
    """The walls: rate limits and budgets. All of them admit a request, or none is touched."""

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        """None where nothing limits the call. A request that is exchanged again (`is_repeat`) counts as one request.
        Raises ClientFault (429), or GatewayFault (503) where a hard budget is unknown."""

    async def charge(self, principal: Principal, call: Call, target: Target) -> Headers:
        """Takes the rate limits of a call that a worker will answer, for good; the worker reserves its slots and its
        budgets. Returns the headers of the limits. Raises like `reserve`."""

    async def charge_request(self, principal: Principal, call: Call) -> Headers:
        """Takes the limits of requests, for good, for a call that the response cache answers: it needs no tokens, no
        slot and no budget. Returns the headers of these limits. Raises like `reserve`."""


class Unlimited:
    """An Admission without limits."""

    async def reserve(
        self, principal: Principal, call: Call, target: Target, *, is_repeat: bool = False
    ) -> Reservation | None:
        return None

    async def charge(self, principal: Principal, call: Call, target: Target) -> Headers:
        return []

    async def charge_request(self, principal: Principal, call: Call) -> Headers:
        return []


class Reply(Protocol):
    """The way back to the client. Every call waits while the client reads slower than the upstream writes."""

    @property
    def is_started(self) -> bool:
        """The client has the head of its answer."""

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start_stream(self, headers: Headers) -> None:
        """Once; later calls do nothing."""

    async def send_events(self, events: bytes) -> None: ...

    async def end_stream(self, events: bytes) -> None: ...
