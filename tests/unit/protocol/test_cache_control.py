"""Cache controls: what asks for the cache, what only restricts it, and what is refused."""

from typing import Any

import pytest

from gateway.protocol.cache_control import (
    NO_CONTROL,
    CacheControl,
    read_cache_control,
    read_cache_header,
)
from gateway.protocol.errors import BadRequest


@pytest.mark.parametrize(
    ("value", "control"),
    [
        (None, NO_CONTROL),
        ({}, NO_CONTROL),
        ({"use-cache": True}, CacheControl(is_wanted=True)),
        ({"use-cache": False, "ttl": 5}, CacheControl(is_wanted=False, ttl_s=5)),
        ({"ttl": 5}, CacheControl(is_wanted=True, ttl_s=5)),
        ({"ttl": None}, NO_CONTROL),
        ({"s-maxage": 0}, CacheControl(is_wanted=True, max_age_s=0)),
        ({"namespace": "evals"}, CacheControl(is_wanted=True, namespace="evals")),
        ({"no-cache": True}, CacheControl(may_read=False)),
        ({"no-store": True}, CacheControl(may_write=False)),
        ({"no-cache": False, "no-store": False}, NO_CONTROL),
    ],
)
def test_restrictions_alone_do_not_ask_for_the_cache(value: Any, control: CacheControl) -> None:
    assert read_cache_control(value) == control


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ([], "cache"),
        ("no-store", "cache"),
        (True, "cache"),
        ({"nostore": True}, "cache.nostore"),
        ({"ttl": 0}, "cache.ttl"),
        ({"ttl": -1}, "cache.ttl"),
        ({"ttl": "60"}, "cache.ttl"),
        ({"ttl": True}, "cache.ttl"),
        ({"ttl": 1e300}, "cache.ttl"),
        ({"s-maxage": -1}, "cache.s-maxage"),
        ({"no-store": "yes"}, "cache.no-store"),
        ({"no-cache": 1}, "cache.no-cache"),
        ({"namespace": 7}, "cache.namespace"),
        ({"namespace": "n" * 256}, "cache.namespace"),
        ({"namespace": "a\0b"}, "cache.namespace"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(value: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        read_cache_control(value)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("header", "control"),
    [
        (b"", NO_CONTROL),
        (b"no-cache", CacheControl(may_read=False)),
        (b"No-Store", CacheControl(may_write=False)),
        (b"no-cache, no-store", CacheControl(may_read=False, may_write=False)),
        (b"max-age=60", CacheControl(max_age_s=60)),
        (b'max-age="60", no-transform', CacheControl(max_age_s=60)),
        (b"max-age=-1", CacheControl(max_age_s=0)),
        (b"max-age=soon", CacheControl(max_age_s=0)),
        (b"max-age=" + b"9" * 400, CacheControl(max_age_s=0)),
        (b"max-age=\xb2", CacheControl(max_age_s=0)),
        (b"only-if-cached, private, \xff=1", NO_CONTROL),
    ],
)
def test_a_header_only_restricts(header: bytes, control: CacheControl) -> None:
    assert read_cache_header(header) == control


def test_a_request_asks_for_more_but_lifts_no_restriction_of_its_key() -> None:
    key = CacheControl(is_wanted=True, may_write=False, ttl_s=60, max_age_s=30, namespace="team")
    assert key.narrowed_by(NO_CONTROL) == key
    request = CacheControl(is_wanted=None, may_read=False, ttl_s=90, max_age_s=300, namespace="mine")
    assert key.narrowed_by(request) == CacheControl(
        is_wanted=True, may_read=False, may_write=False, ttl_s=90, max_age_s=30, namespace="mine"
    )
    assert key.narrowed_by(CacheControl(is_wanted=False)).is_wanted is False
    assert CacheControl(is_wanted=False).narrowed_by(CacheControl(is_wanted=True)).is_wanted is True
