"""The rules of virtual keys that need no database: key texts, durations, names, models, metadata."""

import hashlib
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tenants import keys
from tenants.access import digest_of
from tenants.durations import read_duration
from tenants.invalid import KeyInvalid
from tenants.keys import (
    IssuedKey,
    allowed_names,
    compute_checksum,
    digest_of_reference,
    merge_tags,
    read_metadata,
    read_models,
    read_name,
)
from tenants.models import VirtualKey


def test_a_new_key_has_256_random_bits_and_a_checksum_that_proves_it():
    texts = {keys._generate_text() for _ in range(200)}
    assert len(texts) == 200
    for text in texts:
        assert len(text) == len("sk-") + keys.KEY_DIGITS + keys.CHECKSUM_DIGITS
        assert text.isascii()
        assert text[3:].isalnum()
        assert compute_checksum(text[3:-4]) == text[-4:]
    assert len(keys.ALPHABET) == 62
    assert 62**keys.KEY_DIGITS > 2**256 > 62 ** (keys.KEY_DIGITS - 1)


def test_base62_is_the_number_written_with_62_digits():
    assert keys._base62(0, 3) == "000"
    assert keys._base62(61, 3) == "00z"
    assert keys._base62(62 * 62 - 1, 3) == "0zz"
    assert keys._base62(2**256 - 1, keys.KEY_DIGITS) != keys._base62(2**256 - 2, keys.KEY_DIGITS)


def test_a_digest_is_the_sha256_of_the_whole_text():
    assert digest_of("sk-1234") == hashlib.sha256(b"sk-1234").hexdigest()


def test_a_reference_is_a_text_or_its_digest():
    digest = digest_of("sk-some-key")
    assert digest_of_reference("sk-some-key") == digest_of_reference(digest) == digest
    assert digest_of_reference(digest.upper()) == digest
    assert digest_of_reference(digest[:-1]) == digest_of(digest[:-1])


def test_an_issued_key_does_not_show_its_text_by_accident():
    issued = IssuedKey("sk-secret-text", VirtualKey(last4="text"))
    assert "secret" not in repr(issued)
    assert "secret" not in f"{issued}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", timedelta(seconds=60)),
        ("10m", timedelta(minutes=10)),
        ("24h", timedelta(hours=24)),
        ("30d", timedelta(days=30)),
        ("1w", timedelta(weeks=1)),
        ("1mo", timedelta(days=30)),
        ("30days", timedelta(days=30)),
        ("1hr", timedelta(hours=1)),
        ("2 weeks", timedelta(weeks=2)),
        ("10min", timedelta(minutes=10)),
        ("3months", timedelta(days=90)),
        (" 1D ", timedelta(days=1)),
        ("daily", timedelta(days=1)),
        ("monthly", timedelta(days=30)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, expected: timedelta):
    assert read_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "30",
        "-5d",
        "+5d",
        "1.5h",
        "5 fortnights",
        "30dx",
        "30d 2h",
        "0s",
        "٣d",
        "1e3d",
        "nan",
        "99999999999d",
        "999999999w",
        "1d\n2",
        "inf",
        None,
        30,
        True,
        1.5,
        Decimal(3),
        ["30d"],
        {},
    ],
)
def test_anything_else_is_no_duration(text: Any):
    with pytest.raises(KeyInvalid) as refused:
        read_duration(text)
    assert refused.value.param == "expires_at"
    assert refused.value.message


def test_names_are_text_that_fits_its_column():
    assert read_name(None, "alias") == ""
    assert read_name("  blue team ", "alias") == "blue team"
    assert read_name("数据组", "alias") == "数据组"
    assert len(read_name("x" * 255, "alias")) == 255
    for wrong in ("x" * 256, "a\0b", "\ud800", 5, True, ["a"], {}, b"a"):
        with pytest.raises(KeyInvalid) as refused:
            read_name(wrong, "alias")
        assert refused.value.param == "alias"


def test_models_are_a_list_of_names_each_once():
    assert read_models(None) == read_models(()) == []
    assert read_models(["gpt", " gpt ", "openai/*"]) == ["gpt", "openai/*"]
    for wrong in (
        "gpt",
        {"gpt": 1},
        5,
        [5],
        [""],
        ["  "],
        [None],
        ["a\0"],
        ["x" * 256],
        [["a"]],
        ["m"] * 1001,
    ):
        with pytest.raises(KeyInvalid):
            read_models(wrong)


@pytest.mark.parametrize("name", ["all-team-models", "all-proxy-models"])
def test_the_names_for_every_model_are_no_restriction(name: str):
    for models in ([name], ["gpt", name]):
        assert read_models(models) == models
        assert allowed_names(models) == allowed_names([]) == frozenset()
    assert allowed_names(["gpt"]) == {"gpt"}


def test_metadata_is_json_that_a_column_can_store():
    assert read_metadata(None) == {}
    metadata = {"a": [1, None, True, {"b": "客"}], "rate": Decimal("0.5")}
    stored = read_metadata(metadata)
    assert stored == {"a": [1, None, True, {"b": "客"}], "rate": 0.5}
    assert type(stored["rate"]) is float


DEEP: Any = {}
for _ in range(70):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "x",
        5,
        {"a": "\0"},
        {"\0": 1},
        {"a": "\ud800"},
        {"a": Decimal("1e999")},
        {"a": Decimal("NaN")},
        {"a": float("inf")},
        {"a": object()},
        {5: 1},
        {"a": {5: 1}},
        {"a": b"x"},
        DEEP,
    ],
)
def test_other_metadata_is_refused(wrong: Any):
    with pytest.raises(KeyInvalid) as refused:
        read_metadata(wrong)
    assert refused.value.param == "metadata"


def test_tags_live_inside_the_metadata():
    assert merge_tags({"a": 1}, ["x", "y"]) == {"a": 1, "tags": ["x", "y"]}
    assert merge_tags({"a": 1, "tags": ["x"]}, None) == {"a": 1}
    assert merge_tags(None, []) == {"tags": []}
    for wrong in ("x", [5], {"x": 1}, 5, ["\0"]):
        with pytest.raises(KeyInvalid) as refused:
            merge_tags({}, wrong)
        assert refused.value.param == "tags"
