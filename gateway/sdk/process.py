"""PROCESS: the event loop and the stored responses, which all calls of a process share."""

import atexit
import os
import time

from gateway.sdk.background_loop import BackgroundLoop
from gateway.sdk.background_runs import BackgroundRuns
from gateway.sdk.calls import Calls
from gateway.sdk.direct_models import DirectModels
from gateway.sdk.engine import Engine, Models
from gateway.sdk.environment import find_proxies
from gateway.sdk.prices import PriceBook
from gateway.sdk.sessions import MemoryStore, SessionStore
from gateway.sdk.store_address import open_store


class Process:
    """Closes: itself, at the exit of the process. A forked child begins with a loop of its own."""

    def __init__(self) -> None:
        self.background = BackgroundLoop()
        self.runs = BackgroundRuns()
        self.store: SessionStore = MemoryStore()
        atexit.register(self.background.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        """After a fork: what the parent makes in the background is not the child's."""
        self.background.forget()
        self.runs.forget()

    def configure(self, *, store: str | None = None) -> None:
        """`store`: where responses are kept from now on: `sqlite:///sessions.db` or
        `postgresql://user:password@host/database`, which several processes may share, or None for the memory of the
        process. Raises ValueError, or OSError where the database cannot be opened; then nothing changes."""
        new: SessionStore = MemoryStore() if store is None else open_store(store, self.background)
        self.background.run(new.prepare())
        old, self.store = self.store, new
        self.background.run(old.close())

    def make_engine(self, models: Models, prices: PriceBook) -> Engine:
        return Engine(models, prices, self.find_store, find_proxies, self.background, self.runs)

    def find_store(self) -> SessionStore:
        return self.store


PROCESS = Process()
configure = PROCESS.configure
DIRECT_CALLS = Calls(PROCESS.make_engine(DirectModels(), PriceBook(time.time)), PROCESS.background, PROCESS.find_store)
