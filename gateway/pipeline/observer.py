"""The port by which the edge and the pipeline tell what happens to requests, for metrics. No call waits or fails."""

from typing import Protocol

from gateway.pipeline.ports import Attempt
from gateway.protocol.errors import Fault
from gateway.protocol.provider import Target


class Observer(Protocol):
    def begin(self, request_id: str, endpoint: str) -> None:
        """A request has come. Closes: `end`, on every path."""

    def note_group(self, request_id: str, target: Target) -> None:
        """The request's model group, by one of its targets. A request that was never begun may have one."""

    def note_attempt(self, attempt: Attempt) -> None:
        """The attempt has ended, or the response cache has answered in its place."""

    def note_fault(self, request_id: str, fault: Fault) -> None:
        """The request is answered with an error, or its stream ends with one. The fault is not kept."""

    def end(self, request_id: str, status: int) -> None:
        """`status`: of the answer's head. Once; later calls do nothing."""


class NoObserver:
    """An Observer that hears nothing."""

    def begin(self, request_id: str, endpoint: str) -> None:
        return None

    def note_group(self, request_id: str, target: Target) -> None:
        return None

    def note_attempt(self, attempt: Attempt) -> None:
        return None

    def note_fault(self, request_id: str, fault: Fault) -> None:
        return None

    def end(self, request_id: str, status: int) -> None:
        return None


NO_OBSERVER = NoObserver()
