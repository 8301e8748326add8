"""The departure of a client whose request Django still answers: work in a thread learns of it, and ends.

Django's handler notices that a client has left, and drops the answer, but a view in a thread goes on to its end.
"""

import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from rest_framework.request import Request

SCOPE_KEY = "tollgate.client_departure"


class ClientDeparture:
    """One request's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_left = False
        self._stop: Callable[[], object] | None = None

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """A block that `stop`, called from another thread, brings to its end. It is called within the block alone."""
        with self._lock:
            self._stop = stop
        try:
            yield
        finally:
            with self._lock:
                self._stop = None

    def note(self) -> None:
        """The client has left. The event loop may call it: what stops a block, and may wait for a network, has a thread
        of its own."""
        self._has_left = True
        if self._stop is not None:
            threading.Thread(target=self._stop_block, name="client departure", daemon=True).start()

    def _stop_block(self) -> None:
        with self._lock:  # the block does not end meanwhile
            if self._stop is not None:
                self._stop()

    @property
    def has_left(self) -> bool:
        return self._has_left


def add_departure(scope: MutableMapping[str, Any]) -> ClientDeparture:
    """Puts one into the scope of a request."""
    departure = ClientDeparture()
    scope[SCOPE_KEY] = departure
    return departure


def departure_of(request: Request | HttpRequest) -> ClientDeparture:
    """That of the request; a new one, which nothing notes, for a request that came by another way."""
    inner = request._request if isinstance(request, Request) else request
    found = inner.scope.get(SCOPE_KEY) if isinstance(inner, ASGIRequest) else None
    return found if isinstance(found, ClientDeparture) else ClientDeparture()
