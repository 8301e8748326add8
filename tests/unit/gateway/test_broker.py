"""The embedded broker's folder, with a reader that looks at it all the time."""

import json
import threading
from pathlib import Path

from kombu import Connection

from gateway.broker import register

MESSAGES = 40
LARGE = "x" * 3_000_000


def test_a_message_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    register()
    options = {name: str(tmp_path) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    is_done = threading.Event()

    def write() -> None:
        with Connection("folder://", transport_options=options) as connection:
            queue = connection.SimpleQueue("words")
            for number in range(MESSAGES):
                queue.put({"number": number, "text": LARGE})
            queue.close()
        is_done.set()

    seen: set[str] = set()
    writer = threading.Thread(target=write)
    writer.start()
    while not is_done.is_set():
        for path in set(tmp_path.glob("*.msg")) - {tmp_path / name for name in seen}:
            json.loads(path.read_bytes())
            seen.add(path.name)
    writer.join()
    assert len(seen) > 1

    with Connection("folder://", transport_options=options) as connection:
        queue = connection.SimpleQueue("words")
        received = [queue.get(timeout=5) for _ in range(MESSAGES)]
        assert [message.payload["number"] for message in received] == list(range(MESSAGES))
        queue.close()
    assert not list(tmp_path.glob("*.part"))
