"""Wake-ups of the worker. A message carries nothing else: the database says what is to be done."""

import logging
import threading
import time
from collections.abc import Callable

from kombu.exceptions import OperationalError as BrokerError

logger = logging.getLogger(__name__)

PAUSE_S = 1.0  # between two messages


class TaskPublisher:
    """Publishes one message for any number of wake-ups, from a thread, since publishing blocks for 1 to 2 ms. The
    schedule makes good for a message that fails. Closes: the owner, with `close()`."""

    def __init__(self, name: str, publish: Callable[[], object]) -> None:
        self._publish = publish
        self._event = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=f"publisher of {name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        if not self._event.is_set():
            self._event.set()

    def close(self) -> None:
        self._is_closing = True
        self._event.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while self._event.wait() and not self._is_closing:
            self._event.clear()
            try:
                self._publish()
            except (BrokerError, OSError) as error:
                logger.warning("the broker is away, the beat will wake", extra={"why": type(error).__name__})
            time.sleep(PAUSE_S)
