"""A large body's members: released, they can still be read."""

import orjson

from gateway.protocol.json.large_body import LARGE_BYTES, LargeBody, body_of

MEMBERS = {"model": "m", "n": None, "stream": True, "messages": [{"content": "x" * LARGE_BYTES}], "prompt": "y" * 1000}
RAW = orjson.dumps(MEMBERS)


def test_a_small_body_is_its_members() -> None:
    members = {"model": "m"}
    assert body_of(orjson.dumps(members), members) is members


def test_a_released_body_reads_as_before() -> None:
    body = body_of(RAW, dict(MEMBERS))
    assert isinstance(body, LargeBody)
    for _ in range(2):
        assert dict(body) == MEMBERS
        assert (list(body), len(body)) == (list(MEMBERS), len(MEMBERS))
        assert ("messages" in body, "absent" in body, body.get("absent")) == (True, False, None)
        body.release()


def test_short_members_are_read_without_the_rest() -> None:
    body = LargeBody(b"is not parsed", dict(MEMBERS))
    body.release()
    assert (body["model"], body.get("n", 1), body["stream"]) == ("m", None, True)


def test_a_release_amid_a_read_disturbs_it_not() -> None:
    body = LargeBody(RAW, dict(MEMBERS))

    class Name(str):
        """A name whose look-up lets another thread release the body."""

        def __hash__(self) -> int:
            body.release()
            return str.__hash__(self)

        __eq__ = str.__eq__

    assert body[Name("messages")] == MEMBERS["messages"]
