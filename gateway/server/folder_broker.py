"""The embedded broker: kombu's folder transport, whose files appear whole.

kombu writes into the file that readers already see. One that looks in between reads half a message, and a disk that is
full, or a kill, leaves half a file for ever: the worker dies of either.
"""

import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

logger = logging.getLogger(__name__)

SCHEME = "folder"
Binding = filesystem.exchange_queue_t


class Channel(filesystem.Channel):
    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:  # type: ignore[override]  # kombu names it in two ways
        folder = Path(self.data_folder_out)
        _write_whole(folder / f"{round(time.monotonic() * 1000)}_{uuid.uuid4().hex}.{queue}.msg", message)

    def get_table(self, exchange: str) -> list[Any]:
        """The queues bound to the exchange; where its file cannot be read, those that this process has bound."""
        stored = self._stored(exchange)
        if stored is None:
            logger.error("a file of the embedded broker was damaged", extra={"exchange": exchange})
            mine = [key for key in self.state.bindings or () if key.exchange == exchange]
            return [Binding(key.routing_key or "", "", key.queue) for key in mine]
        return stored

    def _stored(self, exchange: str) -> list[Any] | None:
        try:
            table: list[Any] = super().get_table(exchange)
        except (ValueError, TypeError):
            return None
        return table

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        binding = Binding(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: table if binding in table else [binding, *table])

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        binding = Binding(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: [one for one in table if one != binding])

    def _change(self, exchange: str, change: Callable[[list[Any]], list[Any]]) -> None:
        file: Path = self._exchange_file(exchange)  # type: ignore[attr-defined]  # newer than its types
        file.parent.mkdir(exist_ok=True)
        with _locked(file.with_suffix(".lock")):
            table = change(self.get_table(exchange))
            if table != self._stored(exchange) or not file.exists():
                _write_whole(file, table)


class Transport(filesystem.Transport):
    Channel = Channel


def register() -> None:
    """Makes `folder://` a broker's address."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"


def _write_whole(path: Path, value: Any) -> None:
    part = path.with_name(f"{uuid.uuid4().hex}.part")  # which is no queue's
    try:
        part.write_text(dumps(value))
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
