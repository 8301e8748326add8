"""Idempotency-Key: a create that is sent twice is answered once.

The first request claims the key. A later one with the same body gets the stored response, or waits for it; where none
will come, because the claim's process is gone or the client left and cut its answer off, the later request takes the
claim over and is answered. A response that is not stored is protected while it is being made.

A claim stands for a response that the pipeline has handed over, even while the database does not have it: after an
outage the response may be in a spool, and its claim must not go meanwhile.
"""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from gateway.pipeline.ports import Attempt, CloseStep
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.ports import Responses
from gateway.protocol.call import Finish
from gateway.protocol.dialects.responses.stored import Owner, StoredResponse
from gateway.protocol.errors import BadRequest, ClientFault
from gateway.state.unit_of_work import UnitOfWork

HEADER = b"idempotency-key"
MAX_CHARACTERS = 255
POLL_S = 0.15
#: A claim's process counts as dead after so long without a heartbeat: after an outage of the database a living process
#: needs a moment to beat again.
DEAD_S = 3.0


@dataclass(frozen=True, slots=True)
class Claim:
    """`key` and `body` are digests. `is_own`: the request that asked for the claim is to answer."""

    owner: Owner
    key: str
    body: str
    response_id: str
    writer_id: str
    is_own: bool = False
    is_answered: bool = False
    is_alive: bool = True  # the process that answers


class Claims(Protocol):
    """The store of claims. Raises GatewayFault while it is away. A claim is void after a day."""

    async def claim(self, owner: Owner, key: str, body: str, response_id: str) -> Claim:
        """The existing claim, or a new one of this process."""

    async def take_over(self, claim: Claim, response_id: str) -> bool:
        """Makes the claim this process's, for a new response; False where another process was quicker."""

    async def settle(self, claim: Claim, *, is_kept: bool) -> None:
        """Ends this process's work on the claim: the claim stands for the response once the response is there, or goes
        once the store can be reached. Raises nothing, and waits for neither."""


def read_key(headers: dict[bytes, bytes]) -> str:
    """The key; empty where the request has none. Raises BadRequest."""
    value = headers.get(HEADER)
    if value is None:
        return ""
    text = value.decode("latin-1")
    if not 0 < len(text) <= MAX_CHARACTERS or not text.isascii() or not text.isprintable():
        raise BadRequest(
            f"Idempotency-Key must have 1 to {MAX_CHARACTERS} printable ASCII characters.",
            param="Idempotency-Key",
            code="invalid_value",
        )
    return text


async def claim_or_result(
    claims: Claims,
    responses: Responses,
    owner: Owner,
    *,
    key: str,
    body: str,
    response_id: str,
    is_stored: bool,
    patience_s: float,
) -> Claim | StoredResponse:
    """The response that the key stands for, or the claim under which to answer now. Raises ClientFault where the key
    was used with another body, where a response that is not stored uses it, or after `patience_s` of waiting."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    dead_since: float | None = None
    while True:
        claim = await claims.claim(owner, key, body, response_id)
        if claim.is_own:
            return claim
        if claim.body != body:
            raise ClientFault(
                "This Idempotency-Key was used with another body.",
                status=422,
                param="Idempotency-Key",
                code="idempotency_key_mismatch",
            )
        stored = await responses.find(owner, claim.response_id) if is_stored else None
        if stored is not None and not _is_cut_off(stored):
            return stored
        dead_since = None if claim.is_alive else dead_since or loop.time()
        is_dead = dead_since is not None and loop.time() - dead_since >= DEAD_S
        if stored is not None or claim.is_answered or is_dead:
            if await claims.take_over(claim, response_id):
                return Claim(owner, key, body, response_id, writer_id="", is_own=True)
            continue
        if not is_stored and claim.is_alive:
            raise _in_use(b"false")
        if loop.time() >= end:
            raise _in_use(b"true")
        await asyncio.sleep(POLL_S)


def _in_use(should_retry: bytes) -> ClientFault:
    return ClientFault(
        "A request with this Idempotency-Key is being answered.",
        status=409,
        param="Idempotency-Key",
        code="idempotency_conflict",
        headers=((b"x-should-retry", should_retry),),
    )


def _is_cut_off(stored: StoredResponse) -> bool:
    """The response ended because its client left: a request that comes again wants a whole one."""
    return stored.status == "cancelled" and not stored.is_background


class Settlement:
    """The time in which a claim is answered. Closes: as a context manager. The claim is settled once, where possible
    before the client can know of the answer, which it may then ask for again, or delete."""

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self._claims = claims
        self._claim = claim
        self._unit: UnitOfWork | None = None  # with the response that the claim stands for
        self._settling: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "Settlement":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.settle()

    def stand_for(self, unit: UnitOfWork) -> None:
        """The claim stands for the response in the unit, and is settled once the unit is safe."""
        self._unit = unit
        unit.follow_up(self.settle)

    def step(self, close: TurnClose, *, is_stored: bool) -> CloseStep:
        """The step behind `close`. The claim of a response that is not stored ends with the attempt that answers."""

        def add(attempt: Attempt, unit: UnitOfWork) -> None:
            if is_stored:
                if close.response is not None:
                    self.stand_for(unit)
            elif attempt.finish is Finish.COMPLETE:
                unit.follow_up(self.settle)

        return add

    async def settle(self) -> None:
        """Goes on to its end, also when this task is being cancelled once more."""
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())
        await asyncio.shield(self._settling)

    async def _settle(self) -> None:
        is_kept = False
        writing = self._unit.done if self._unit is not None else None
        if writing is not None:
            await asyncio.wait([writing])
            is_kept = not writing.cancelled() and writing.exception() is None
        await self._claims.settle(self._claim, is_kept=is_kept)
