"""The embedded broker: kombu's folder transport with files that appear whole.

kombu writes into a file that readers already see. A reader may then read half a message, and a full disk, or a kill,
leaves half a file for ever. The worker dies of either.
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

from gateway.protocol.json.types import JsonObject

logger = logging.getLogger(__name__)

SCHEME = "folder"
Binding = filesystem.exchange_queue_t


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: JsonObject, **kwargs: object) -> None:  # type: ignore[override]  # two names in kombu
        folder = Path(self.data_folder_out)
        _write_whole(folder / f"{round(time.monotonic() * 1000)}_{uuid.uuid4().hex}.{queue}.msg", payload)

    def get_table(self, exchange: str) -> list[Any]:
        """The queues bound to the exchange; where its file is damaged, those that this process has bound."""
        table = self._read_table(exchange)
        if table is None:
            logger.error("a file of the embedded broker was damaged", extra={"exchange": exchange})
            own_keys = [key for key in self.state.bindings or () if key.exchange == exchange]
            return [Binding(key.routing_key or "", "", key.queue) for key in own_keys]
        return table

    def _read_table(self, exchange: str) -> list[Binding] | None:
        try:
            table: list[Binding] = super().get_table(exchange)
        except (ValueError, TypeError):
            return None
        return table

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        binding = Binding(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: table if binding in table else [binding, *table])

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *args: object, **kwargs: object
    ) -> None:
        self._purge(queue)
        binding = Binding(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: [entry for entry in table if entry != binding])

    def _change(self, exchange: str, change: Callable[[list[Binding]], list[Binding]]) -> None:
        file: Path = self._exchange_file(exchange)  # type: ignore[attr-defined]  # newer than the stubs
        file.parent.mkdir(exist_ok=True)
        with _locked(file.with_suffix(".lock")):
            table = change(self.get_table(exchange))
            if table != self._read_table(exchange) or not file.exists():
                _write_whole(file, table)


class Transport(filesystem.Transport):
    Channel = Channel


def register() -> None:
    """Registers `folder://` as the address of a broker."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"


def _write_whole(path: Path, value: object) -> None:
    part = path.with_name(f"{uuid.uuid4().hex}.part")  # no queue reads this name
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
