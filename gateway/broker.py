"""The embedded broker: kombu's folder transport, whose messages appear whole.

kombu writes a message into the file that readers already see; one that looks in between reads half a message, and the
worker dies of it.
"""

import os
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps

SCHEME = "folder"


class Channel(filesystem.Channel):
    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:  # type: ignore[override]  # kombu names it in two ways
        folder = Path(self.data_folder_out)
        name = uuid.uuid4().hex
        part = folder / f"{name}.part"  # which is no queue's
        part.write_text(dumps(message))
        os.replace(part, folder / f"{round(time.monotonic() * 1000)}_{name}.{queue}.msg")


class Transport(filesystem.Transport):
    Channel = Channel


def register() -> None:
    """Makes `folder://` a broker's address."""
    TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{Transport.__name__}"
