"""The ports of the pipeline: the applications around it implement them, and it imports none of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.protocol.call import Call, Finish
from gateway.protocol.provider import Target
from gateway.protocol.usage import NO_USAGE, Usage, UsageSource
from gateway.state.unit_of_work import UnitOfWork

Headers = list[tuple[bytes, bytes]]


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
    expires_at_s: float | None = None
    is_master: bool = False
    retention_days: int | None = None  # of stored responses; None: as the gateway's setting says


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
    first_token_at: float | None = None
    ended_at: float | None = None
    dropped: tuple[str, ...] = ()  # parameters that the provider cannot express
    upstream_s: float = 0  # the upstream's time for a whole answer
    is_sent: bool = False  # the upstream may have received the request
    finish: Finish = Finish.COMPLETE
    status_code: int = 200
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


#: Adds to the unit what is written together with the spend row of an attempt that ends.
CloseStep = Callable[[Attempt, UnitOfWork], None]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The deployments, frozen: {(organization id or None, model group): targets}."""

    groups: Mapping[tuple[str | None, str], tuple[Target, ...]] = field(default_factory=dict)

    def find(self, organization_id: str, model: str) -> tuple[Target, ...]:
        """An organization's own group hides a shared one of the same name."""
        own = self.groups.get((organization_id, model))
        return own if own is not None else self.groups.get((None, model), ())

    def names(self, organization_id: str) -> dict[str, Target]:
        """{public name: its first target} of what the organization can reach."""
        return {
            name: targets[0]
            for (owner, name), targets in sorted(self.groups.items(), key=lambda group: group[0][0] is not None)
            if owner is None or owner == organization_id
        }


class ClientStalled(Exception):
    """The client has stopped reading: no answer can reach it."""


class Directory(Protocol):
    async def find(self, key: str) -> Principal | None:
        """The holder of a presented key; None for one that is unknown, blocked or expired.

        Raises GatewayFault (503) while the answer cannot be known.
        """


class Ledger(Protocol):
    """The ledger of spend. Both calls return when the row is durable: `open` against the death of this process, `close`
    against the loss of power as well. Raises GatewayFault when neither the database nor the spool takes the row."""

    async def open(self, attempt: Attempt) -> None: ...

    async def close(self, attempt: Attempt) -> None:
        """Runs the attempt's steps in order, and writes the spend row and all that they add in one transaction. The
        spend row is written whatever becomes of the rest; a fault tells that the rest was refused."""


class Reply(Protocol):
    """The way back to the client. Every call waits while the client reads slower than the upstream writes."""

    async def send_body(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start_stream(self, headers: Headers) -> None:
        """Once; later calls do nothing."""

    async def send_events(self, events: bytes) -> None: ...

    async def end_stream(self, events: bytes) -> None: ...
