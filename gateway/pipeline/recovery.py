"""Recovery: a stream that broke after the client had a part of it goes on at a deployment that takes that part as the
beginning of its answer. Once a request, where the settings of its model group say so."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.pipeline.answer_headers import header_text
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt
from gateway.pipeline.visit import BoundCall
from gateway.protocol.answer import StreamRelay, Transcript
from gateway.protocol.call import Call
from gateway.protocol.continuation import JoinedRelay, NotedRelay, continue_call
from gateway.protocol.errors import DeadlineExceeded, UpstreamFault
from gateway.protocol.output_limit import read_output_limit
from gateway.protocol.provider import Target
from gateway.routing.error_class import OF_THE_REQUEST, error_class

#: The fault of a stream that takes longer in all than its limit allows.
TOO_LONG = "upstream_stream_timeout"

#: What an attempt does with the relay of its stream.
WrapRelay = Callable[[StreamRelay], StreamRelay]


def pass_relay(relay: StreamRelay) -> StreamRelay:
    return relay


@dataclass(frozen=True, slots=True)
class Continuation:
    """The rest of a broken stream. `broken`: the attempt that sent `text`; `output_limit`: the tokens that are left of
    the request's limit, None where it has none."""

    transcript: Transcript
    text: str
    broken: Attempt
    output_limit: int | None

    @classmethod
    def of(cls, transcript: Transcript, broken: Attempt, fault: UpstreamFault) -> "Continuation | None":
        """None where nothing may go on."""
        text = transcript.text
        if text is None or isinstance(fault, DeadlineExceeded) or fault.code == TOO_LONG:
            return None
        if error_class(fault) in OF_THE_REQUEST:  # it would end the same way elsewhere, or ought to
            return None
        limit = _limit_of(broken)
        left = None if limit is None else limit - broken.usage.total_output
        return cls(transcript, text, broken, left) if left is None or left > 0 else None

    def may_go_on_at(self, target: Target) -> bool:
        """Without a text the answer is begun anew, which any deployment can."""
        return not self.text.strip() or target.provider.takes_prefill(target)

    async def bind(self, bound: BoundCall) -> BoundCall:
        call = await read_sized(len(bound.call.raw), continue_call, bound.call, self.text, self.output_limit)
        return replace(bound, call=call)

    def wrap(self, relay: StreamRelay, target: Target) -> StreamRelay:
        comment = b": tollgate continued on %s\n\n" % header_text(target.deployment_id)
        return JoinedRelay(relay, self.transcript.join(self.broken.usage), comment)


def _limit_of(attempt: Attempt) -> int | None:
    reserved = attempt.reservation.output_limit if attempt.reservation is not None else None
    limits = [limit for limit in (read_output_limit(attempt.call.body), reserved) if limit is not None]
    return min(limits, default=None)


def find_transcripts(call: Call) -> Callable[[], Transcript] | None:
    """None for a call whose answer cannot be continued."""
    return call.dialect.transcripts(call) if call.stream else None


def note_in(transcript: Transcript) -> WrapRelay:
    def wrap(relay: StreamRelay) -> StreamRelay:
        return NotedRelay(relay, transcript)

    return wrap
