"""The embedded broker's folder, with a reader that looks at it all the time."""

import json
import threading
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue

from gateway.server.folder_broker import Transport, register

MESSAGES = 40
LARGE = "x" * 3_000_000


@pytest.fixture(autouse=True)
def fresh() -> None:
    """kombu remembers for all folders together what was bound."""
    Transport.global_state.clear()


def options_of(folder: Path) -> dict[str, str]:
    register()
    return {name: str(folder) for name in ("data_folder_in", "data_folder_out", "control_folder")}


def test_a_message_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    options = options_of(tmp_path)
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


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("left", [b"", b'[["", "", "wor', b"null", b"[7]"], ids=["nothing", "half", "null", "junk"])
def test_a_file_that_was_left_half_written_loses_no_message(tmp_path: Path, left: bytes, is_restarted: bool) -> None:
    def pass_one(text: str) -> None:
        with Connection("folder://", transport_options=options_of(tmp_path)) as connection:
            queue = connection.SimpleQueue("words")
            queue.put(text)
            message = queue.get(timeout=5)
            assert message.payload == text
            message.ack()
            queue.close()

    pass_one("before")
    [table] = tmp_path.glob("*.exchange")
    whole = table.read_bytes()
    table.write_bytes(left)
    if is_restarted:
        Transport.global_state.clear()
    pass_one("after")
    assert not is_restarted or table.read_bytes() == whole


def test_queues_that_are_bound_at_once_are_all_bound(tmp_path: Path) -> None:
    names = [f"q{number}" for number in range(12)]

    def bind(name: str) -> None:
        with Connection("folder://", transport_options=options_of(tmp_path)) as connection:
            Queue(name, Exchange("all"), routing_key=name).bind(connection.default_channel).declare()

    threads = [threading.Thread(target=bind, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Connection("folder://", transport_options=options_of(tmp_path)) as connection:
        bound = connection.default_channel.get_table("all")
        assert sorted(binding.queue for binding in bound) == sorted(names)
        Queue(names[0], Exchange("all"), routing_key=names[0]).bind(connection.default_channel).delete()
        assert len(connection.default_channel.get_table("all")) == len(names) - 1
