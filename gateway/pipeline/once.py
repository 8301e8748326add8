"""Idempotency-Key: a create that is sent twice is made once.

The first request claims the key. A later one with the same body is told the stored result, or waits for it; where
there will be none, because the claim's process is gone, or the client left and its answer was cut off, it takes the
claim over and runs. What is not stored is protected while it is being made, and nothing is kept of it.
"""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from gateway.pipeline.ports import Attempt, Books
from gateway.pipeline.respond import Responses
from gateway.protocol.call import Finish
from gateway.protocol.errors import BadRequest, ClientFault
from gateway.protocol.stored import Owner, StoredResponse

HEADER = b"idempotency-key"
MAX_CHARACTERS = 255
POLL_S = 0.15
#: How long a claim's process must look dead: after an outage of the database the living need a moment to beat again.
DEAD_S = 3.0


@dataclass(frozen=True, slots=True)
class Claim:
    """`key` and `body` are digests. `is_own`: whoever asked for it is to answer."""

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
        """The claim that there is, or a new one of this process."""

    async def take_over(self, claim: Claim, response_id: str) -> bool:
        """Makes it this process's, for a new response; False where somebody else was quicker."""

    async def settle(self, claim: Claim) -> None:
        """This process is done: the claim stands for what is stored, and goes where nothing is."""


def read_key(headers: dict[bytes, bytes]) -> str:
    """Empty where there is none. Raises BadRequest."""
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
) -> Claim | StoredResponse:
    """What the key stands for, or the claim under which to answer now. Raises ClientFault where the key was used for
    something else, or is in use by what will not be stored."""
    loop = asyncio.get_running_loop()
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
            raise ClientFault(
                "A request with this Idempotency-Key is being answered.",
                status=409,
                param="Idempotency-Key",
                code="idempotency_conflict",
                headers=((b"x-should-retry", b"false"),),
            )
        await asyncio.sleep(POLL_S)


def _is_cut_off(stored: StoredResponse) -> bool:
    """The client left, and the response ended there: that is nothing to give to one who asks again."""
    return stored.status == "cancelled" and not stored.is_background


class SettlingBooks:
    """Books that settle a claim before the last byte leaves: what is not stored may be asked for again at once."""

    def __init__(self, books: Books, claims: Claims, claim: Claim) -> None:
        self._books = books
        self._claims = claims
        self._claim = claim

    async def open(self, attempt: Attempt) -> None:
        await self._books.open(attempt)

    async def close(self, attempt: Attempt) -> None:
        await self._books.close(attempt)
        if attempt.finish is Finish.COMPLETE:
            await self._claims.settle(self._claim)


class Settling:
    """The time in which a claim is answered. Closes: as a context manager."""

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self._claims = claims
        self._claim = claim

    async def __aenter__(self) -> Claim:
        return self._claim

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Shielded: also when this task is being cancelled once more
        await asyncio.shield(self._claims.settle(self._claim))
