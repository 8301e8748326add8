"""Station 8 of a response turn, Close: what is stored of it, and how its stream ends whatever happens."""

from collections.abc import Callable
from functools import partial

from gateway.pipeline.ports import Attempt, CloseStep
from gateway.pipeline.responses.ports import Responses
from gateway.pipeline.responses.turn import ResponseTurn
from gateway.protocol.call import Finish
from gateway.protocol.context_overflow import openai_text
from gateway.protocol.dialects.openai.passthrough import DONE
from gateway.protocol.dialects.responses.dialect import ResponsesDialect, failure_code
from gateway.protocol.dialects.responses.event_log import read_events
from gateway.protocol.dialects.responses.stored import CONTINUED, StoredResponse
from gateway.protocol.dialects.responses.stream import encode_frame
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonObject
from gateway.state.unit_of_work import UnitOfWork

OnStored = Callable[[StoredResponse], None]


class TurnClose:
    """Closes the attempts of one turn, and remembers how the latest one ended.

    `responses` is None where another step stores the response. `on_stored` gets each response before the client does,
    also one that is not to be stored.
    """

    def __init__(
        self,
        turn: ResponseTurn,
        now: Callable[[], float],
        responses: Responses | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        self._turn = turn
        self._responses = responses
        self._on_stored = on_stored
        self._dialect = turn.dialect(now)  # of the latest attempt
        self._complete_ending = b""  # of a complete stream, which waits until the response is stored
        self._broken_ending = b""  # of a stream that broke off
        self.has_attempts = False
        self.is_begun = False  # the client may have seen a part of the answer
        self.response: StoredResponse | None = None  # made by the latest attempt

    def step(self, dialect: ResponsesDialect) -> CloseStep:
        """The step of an attempt that was made in this dialect."""
        return partial(self._close, dialect)

    @property
    def ending(self) -> bytes:
        """The frames that end the stream of the latest attempt."""
        return self._complete_ending or self._broken_ending

    def add(self, response: StoredResponse, unit: UnitOfWork) -> None:
        """Adds everything that is written of a response: its row, its items in the conversation, the lease's end."""
        turn = self._turn
        if self._on_stored is not None:
            self._on_stored(response)
        if turn.request.store and self._responses is not None:
            self._responses.add(unit, response)
        if turn.lease is not None:
            if response.status in CONTINUED:
                turn.lease.append(unit, response.items)
            else:
                turn.lease.release(unit)

    def error_event(self, fault: Fault) -> bytes:
        """The end of a stream that has begun: its terminal event."""
        if not self._broken_ending:
            code = failure_code(fault.status)
            self._broken_ending = (
                end_as_failed(self._complete_ending, code, openai_text(fault))
                if self._complete_ending
                else self._dialect.attempt_answer.failure(code, openai_text(fault))
            )
        return self._broken_ending

    def _close(self, dialect: ResponsesDialect, attempt: Attempt, unit: UnitOfWork) -> None:
        """Nothing is stored of an attempt of which the client has seen nothing. An answer that broke off is ended
        here, as the client will see it."""
        answer = dialect.attempt_answer
        self.has_attempts = True
        self._dialect = dialect
        self.is_begun = answer.is_open
        if attempt.finish is not Finish.COMPLETE and attempt.first_token_at is None:
            return
        self._complete_ending = attempt.ending
        if attempt.finish is Finish.CLIENT_GONE:
            self._broken_ending = answer.cancellation()
        elif attempt.finish is not Finish.COMPLETE:
            self._broken_ending = answer.failure(
                failure_code(attempt.status_code), attempt.error_message or "The gateway failed."
            )
        self.response = stored_response(self._turn, answer.response, attempt)
        self.add(self.response, unit)


def stored_response(turn: ResponseTurn, response: JsonObject, attempt: Attempt | None = None) -> StoredResponse:
    target = attempt.target if attempt is not None else None
    return StoredResponse(
        id=turn.response_id,
        owner=turn.owner,
        parent_id=turn.request.previous_response_id,
        conversation_id=turn.request.conversation_id,
        depth=turn.continuation.depth,
        model_group=turn.request.model,
        deployment_id=target.deployment_id if target is not None else "",
        provider=target.provider.name if target is not None else "",
        is_background=turn.is_background,
        is_streamed=turn.request.stream,
        created_s=turn.created_s,
        completed_s=response.get("completed_at"),
        expires_s=turn.created_s + turn.retention_s,
        input=turn.request.input,
        response=response,
        spend_id=attempt.id if attempt is not None else "",
    )


def end_as_failed(frames: bytes, code: str, message: str) -> bytes:
    """The end of a stream whose response could not be stored."""
    *events, last = read_events(frames)
    response = {
        **last["response"],
        "status": "failed",
        "completed_at": None,
        "error": {"code": code, "message": message},
    }
    events.append({**last, "type": "response.failed", "response": response})
    return b"".join(map(encode_frame, events)) + DONE
