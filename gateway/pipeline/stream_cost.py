"""The cost of a streamed answer, for a client that wants it. The headers leave before the cost is known, so the usage
at the end of the stream has it: the cost of the attempt that answers, as its spend row gets it, and that of the one
whose stream it continues.
"""

from collections.abc import Mapping
from dataclasses import replace

from gateway.pipeline.ports import Attempt
from gateway.protocol.amounts import usd_text
from gateway.protocol.answer import AnswerCost
from gateway.protocol.call import Call
from gateway.protocol.errors import BadRequest

HEADER = b"x-tollgate-include-cost"
_ANSWERS = {b"true": True, b"false": False}


def ask_cost(call: Call, headers: Mapping[bytes, bytes], *, by_default: bool) -> Call:
    """The call, with `tells_cost` where the client wants the cost of its stream. Raises BadRequest for a header that
    says neither true nor false."""
    wants_cost = by_default
    if HEADER in headers:
        answer = _ANSWERS.get(headers[HEADER].strip().lower())
        if answer is None:
            raise BadRequest("x-tollgate-include-cost must be true or false.", param=HEADER.decode())
        wants_cost = answer
    return replace(call, tells_cost=True) if wants_cost and call.stream and call.include_usage else call


def add_cost(attempt: Attempt, ending: bytes) -> bytes:
    """The end of the stream with the cost; as it is where the attempt has none, which is not $0."""
    first = attempt.continues
    if attempt.cost_pusd is None or (first is not None and first.cost_pusd is None):
        return ending
    cost = AnswerCost(
        usd=usd_text(attempt.cost_pusd + (first.cost_pusd or 0 if first is not None else 0)),
        usage=attempt.usage if first is None else first.usage + attempt.usage,
        answer_id=(first or attempt).upstream_id or (first or attempt).id,
        created_s=int((first or attempt).started_at),
    )
    return attempt.call.dialect.with_cost(attempt.call, ending, cost)
