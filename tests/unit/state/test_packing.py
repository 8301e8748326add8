"""Bodies as they are stored: nothing is inflated beyond what it may have."""

import tracemalloc
from typing import Any

import orjson
import pytest

from gateway.state.packing import (
    DEFLATED_FROM_BYTES,
    TooManyBytes,
    pack,
    pack_response,
    unpack,
    unpack_all,
    unpack_response,
)
from tests.fakes.memory import play

SMALL: Any = {"text": "ü" * 100}
LARGE: Any = {"text": "x" * DEFLATED_FROM_BYTES}


def size(*values: Any) -> int:
    return sum(len(orjson.dumps(value)) for value in values)


async def all_of(bodies: list[bytes], most: int) -> list[Any]:
    return await unpack_all(bodies, most)


@pytest.mark.parametrize("value", [SMALL, LARGE, [SMALL, LARGE]])
def test_what_was_packed_is_unpacked(value: Any) -> None:
    assert unpack(pack(value)) == value
    assert unpack(memoryview(pack(value))) == value


@pytest.mark.parametrize("item", [SMALL, LARGE])
def test_a_response_is_whole_again_with_its_members_in_their_order(item: Any) -> None:
    response = {"id": "resp_1", "output": [item], "metadata": {}}
    body, head = pack_response((item,), response)
    asked, found = unpack_response(memoryview(body), memoryview(head))
    assert (asked, list(found.items())) == ([item], list(response.items()))
    assert unpack(body) == {"input": [item], "output": [item]}
    assert orjson.dumps(item) not in head


def test_large_bodies_are_deflated() -> None:
    assert len(pack(LARGE)) < DEFLATED_FROM_BYTES
    assert pack(SMALL) == orjson.dumps(SMALL)


@pytest.mark.parametrize("values", [[SMALL], [LARGE], [SMALL, LARGE], [LARGE, SMALL], [LARGE, LARGE]])
def test_bodies_may_have_as_many_bytes_as_was_said_and_not_one_more(values: list[Any]) -> None:
    bodies = [pack(value) for value in values]
    assert play(all_of(bodies, size(*values))) == values
    with pytest.raises(TooManyBytes):
        play(all_of(bodies, size(*values) - 1))


def test_where_nothing_is_left_a_deflated_body_is_not_inflated_without_end() -> None:
    with pytest.raises(TooManyBytes):
        play(all_of([pack(SMALL), pack(LARGE)], size(SMALL)))


def test_a_body_that_inflates_to_far_more_takes_no_memory() -> None:
    body = pack({"text": "x" * 20_000_000})
    tracemalloc.start()
    try:
        with pytest.raises(TooManyBytes):
            play(all_of([body], 10_000))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
