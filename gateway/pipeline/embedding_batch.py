"""Batch: an embedding of more texts than its upstream takes at once, as several upstream calls of one attempt.

One attempt is one row: its usage is the sum. The fault of one part is the fault of the whole.
"""

from collections.abc import Awaitable, Callable

from gateway.pipeline.large_bodies import read_sized
from gateway.protocol.answer import AnswerMetadata
from gateway.protocol.call import Call
from gateway.protocol.errors import BadRequest
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage, UsageSource
from gateway.upstream.gather_limited import gather_limited

AT_ONCE = 8  # upstream calls of one attempt
MAX_PARTS = 2048  # as many as OpenAI takes inputs

Answer = tuple[bytes, AnswerMetadata]


class Batch:
    """The parts of a call, and the answers as far as they have come."""

    __slots__ = ("_answers", "_call", "_parts", "_target")

    def __init__(self, call: Call, target: Target, parts: tuple[Call, ...]) -> None:
        """Raises BadRequest for more parts than one request may cause."""
        if len(parts) > MAX_PARTS:
            raise BadRequest(f"This model takes at most {MAX_PARTS} inputs in one request.", param="input")
        self._call = call
        self._target = target
        self._parts = parts
        self._answers: dict[int, Answer] = {}

    async def ask(self, one: Callable[[Call], Awaitable[Answer]]) -> Answer:
        """The joined answer. Raises the fault of the first part that failed; the others are let go."""

        async def ask_part(number: int) -> Answer:
            answer = self._answers[number] = await one(self._parts[number])
            return answer

        answers = await gather_limited(ask_part, range(len(self._parts)), limit=AT_ONCE)
        size = sum(len(body) for body, _ in answers)
        return await read_sized(size, self._target.provider.join, self._call, answers)

    @property
    def has_answers(self) -> bool:
        return bool(self._answers)

    def paid(self) -> tuple[Usage, UsageSource]:
        """The usage of the parts that were answered: an upstream bills them even if others failed."""
        if not self._answers:
            return Usage(), UsageSource.NONE
        usages = [metadata.usage for _, metadata in self._answers.values()]
        estimates = [self._parts[number].input_estimate for number in self._answers]
        tokens = [
            estimate if usage is None else usage.total_input for usage, estimate in zip(usages, estimates, strict=True)
        ]
        return Usage(input_tokens=sum(tokens)), UsageSource.ESTIMATED if None in usages else UsageSource.PROVIDER
