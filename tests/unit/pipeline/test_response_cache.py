"""The response cache: two calls share an answer only where the same answer is right for both."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.ports import Principal
from gateway.pipeline.response_cache import (
    IRRELEVANT,
    CachedAnswer,
    CacheScope,
    CacheSettings,
    CacheSlot,
    ResponseCache,
    has_long_number,
    is_self_contained,
)
from gateway.protocol.cache_control import CacheControl
from gateway.protocol.call import Call
from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.anthropic.client import DIALECT as MESSAGES
from gateway.protocol.errors import BadRequest
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage, UsageSource
from gateway.routing.request import PLAIN, RoutingRequest
from gateway.state.memory_answer_store import MemoryAnswerStore
from tests.fakes.memory import PRINCIPAL, chat, decode, target

SETTINGS = CacheSettings(secret=b"s" * 32)
WANTED = CacheControl(is_wanted=True)
ANSWER = CachedAnswer(
    deployment_id="first",
    created_at=1000.0,
    body=b'{"a":1}\nsecond line\0\xff',
    usage=Usage(input_tokens=7, cache_read_tokens=2, reasoning_tokens=1, is_inconsistent=True),
    usage_source=UsageSource.PARTIAL,
    served_model="private-1",
    upstream_id="chatcmpl-1",
    service_tier="flex",
    dropped=("top_k",),
)


def cache(settings: CacheSettings | None = SETTINGS) -> ResponseCache:
    return ResponseCache(MemoryAnswerStore(1024 * 1024), settings)


def slot_of(
    call: Call,
    *,
    principal: Principal = PRINCIPAL,
    targets: tuple[Target, ...] = (target(fingerprint="f"),),
    request: RoutingRequest = PLAIN,
    settings: CacheSettings = SETTINGS,
    control: CacheControl = WANTED,
) -> CacheSlot | None:
    return cache(settings).find_slot(call, control, principal, targets, request)


def key_of(call: Call, **changes: Any) -> str:
    slot = slot_of(call, **changes)
    assert slot is not None
    return slot.key


# Keys


def test_the_caller_and_the_call_are_not_in_the_key() -> None:
    named = chat(
        user="ann",
        safety_identifier="ann",
        metadata={"k": "v"},
        tags=["a"],
        cache={"ttl": 5},
        prompt_cache_key="x",
        litellm_session_id="1",
    )
    assert key_of(named) == key_of(chat())


def test_the_order_and_the_blanks_of_the_first_level_do_not_count() -> None:
    one = decode(b'{"model":"public","messages":[{"role":"user","content":"a"}],"seed":1}')
    other = decode(b'{ "seed": 1, "messages": [{"role": "user", "content": "\\u0061"}], "model": "public" }')
    assert key_of(one) == key_of(other)


BASE = chat(temperature=1, seed=1)
OTHERS: dict[str, Call] = {
    "model": chat(temperature=1, seed=1, model="other"),
    "message": chat(temperature=1, seed=1, messages=[{"role": "user", "content": "say hello "}]),
    "role": chat(temperature=1, seed=1, messages=[{"role": "system", "content": "say hello"}]),
    "number": chat(temperature=1.0, seed=1),
    "absent": chat(temperature=1),
    "null": chat(temperature=1, seed=None),
    "bool": chat(temperature=1, seed=1, logprobs=True),
    "unknown member": chat(temperature=1, seed=1, vendor_switch=0),
    "stream": chat(temperature=1, seed=1, stream=True),
    "usage": chat(temperature=1, seed=1, stream=True, usage=True),
    "tools": chat(temperature=1, seed=1, tools=[{"type": "function", "function": {"name": "f"}}]),
    "completion": decode({"model": "public", "prompt": "say hello"}, "completion"),
    "messages": MESSAGES.decode(
        orjson.dumps({"model": "public", "max_tokens": 5, "messages": [{"role": "user", "content": "say hello"}]}),
        Hints(),
    ),
    "betas": replace(BASE, betas=("context-1m",)),
}


def test_all_that_an_answer_depends_on_is_in_the_key() -> None:
    keys = [key_of(call) for call in (BASE, *OTHERS.values())]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"18446744073709551617", b"18446744073709551618"),  # both read as the same float
        (b"0.1000000000000000055", b"0.1"),
        (b"1e-330", b"1e-340"),
        (b"-9007199254740993.0", b"-9007199254740992.0"),
    ],
)
def test_numbers_that_only_look_equal_once_they_are_read_are_others(one: bytes, other: bytes) -> None:
    def call(number: bytes) -> Call:
        return decode(b'{"model":"public","messages":[{"role":"user","content":"a"}],"vendor": ' + number + b"}")

    assert key_of(call(one)) != key_of(call(other))


def test_another_group_deployment_or_configuration_has_other_keys() -> None:
    call, first = chat(), target(fingerprint="f")
    alias = replace(PRINCIPAL, model_aliases=(("public", "elsewhere"),))
    variants: list[dict[str, Any]] = [
        {},
        {"principal": alias},
        {"targets": (replace(first, fingerprint="g"),)},
        {"targets": (first, target("second", fingerprint="f"))},
        {"targets": (target("second", fingerprint="f"),)},
        {"request": RoutingRequest(region="eu")},
        {"control": replace(WANTED, namespace="evals")},
        {"settings": replace(SETTINGS, secret=b"t" * 32)},
    ]
    keys = [key_of(call, **variant) for variant in variants]
    assert len(set(keys)) == len(keys)
    both = (first, target("second", fingerprint="f"))
    assert key_of(call, targets=both) == key_of(call, targets=both[::-1])


def test_tags_count_where_they_choose_the_deployment() -> None:
    call, tagged = chat(), (target(tags=frozenset({"paid"})),)
    paid, free = (RoutingRequest(tags=frozenset({name})) for name in ("paid", "free"))
    assert key_of(call, request=paid) == key_of(call, request=free)
    of_key = RoutingRequest(key_tags=frozenset({"paid"}))
    assert len({key_of(call, request=request, targets=tagged) for request in (PLAIN, paid, free, of_key)}) == 4


HOME_A = replace(PRINCIPAL, team_id="a", key_id="k1", user_id="u1")
CALLERS = {
    "same key": (HOME_A, {CacheScope.ORGANIZATION, CacheScope.TEAM, CacheScope.KEY}),
    "same team": (replace(HOME_A, key_id="k2", user_id="u2"), {CacheScope.ORGANIZATION, CacheScope.TEAM}),
    "other team": (replace(HOME_A, team_id="b", key_id="k3"), {CacheScope.ORGANIZATION}),
    "no team": (replace(HOME_A, team_id="", key_id="k4"), {CacheScope.ORGANIZATION}),
    "other organization": (replace(HOME_A, organization_id="abroad"), set[CacheScope]()),
}


@pytest.mark.parametrize("scope", CacheScope)
@pytest.mark.parametrize("name", CALLERS)
def test_only_the_callers_of_one_scope_share_answers(name: str, scope: CacheScope) -> None:
    caller, shares = CALLERS[name]
    settings = replace(SETTINGS, scope=scope)
    is_same = key_of(chat(), principal=HOME_A, settings=settings) == key_of(chat(), principal=caller, settings=settings)
    assert is_same == (scope in shares)


def test_keys_without_a_team_share_the_answers_of_their_user() -> None:
    settings = replace(SETTINGS, scope=CacheScope.TEAM)
    one, two, three = (
        key_of(chat(), principal=replace(PRINCIPAL, team_id="", user_id=user, key_id=key), settings=settings)
        for user, key in (("u1", "k1"), ("u1", "k2"), ("", "k1"))
    )
    assert one == two != three


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "seed_", "user", "metadata_", "tags", "x", "y"])
MEMBERS = st.dictionaries(NAMES.map(lambda name: f"v-{name}"), JSON, max_size=4)


@given(
    one=MEMBERS,
    other=MEMBERS,
    caller=st.sampled_from(sorted(IRRELEVANT - {"metadata", "litellm_metadata", "cache", "tags"})),
)
def test_keys_are_equal_exactly_where_the_relevant_members_are_written_alike(
    one: dict[str, Any], other: dict[str, Any], caller: str
) -> None:
    def written(members: dict[str, Any]) -> list[tuple[str, bytes]]:
        return [(name, orjson.dumps(value)) for name, value in sorted(members.items())]

    one, other = dict(sorted(one.items())), dict(sorted(other.items()))
    are_equal = key_of(chat(**one)) == key_of(chat(**other))
    assert are_equal == (written(one) == written(other))
    if not any(character.isdigit() for character in str(one)):  # a long number makes the whole text count
        assert key_of(chat(**one, **{caller: "x"})) == key_of(chat(**one))


@given(texts=st.lists(st.text(), min_size=4, max_size=4), others=st.lists(st.text(), min_size=4, max_size=4))
def test_no_text_of_one_part_of_the_key_can_stand_for_another_part(texts: list[str], others: list[str]) -> None:
    def key(parts: list[str]) -> str:
        organization, namespace, fingerprint, region = parts
        return key_of(
            chat(),
            principal=replace(PRINCIPAL, organization_id=organization),
            control=replace(WANTED, namespace=namespace),
            targets=(target(fingerprint=fingerprint),),
            request=RoutingRequest(region=region),
        )

    assert (key(texts) == key(others)) == (texts == others)


# Calls that are always made


def parts(*contents: Any) -> Call:
    return chat(messages=[{"role": "user", "content": list(contents)}])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (chat(), True),
        (parts({"type": "text", "text": "look at https://example.com"}), True),
        (parts({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}), True),
        (parts({"type": "image_url", "image_url": {"url": "https://example.com/now.png"}}), False),
        (parts({"type": "image_url", "image_url": "HTTP://example.com/now.png"}), False),
        (parts({"type": "file", "file": {"file_data": "gs://bucket/file"}}), False),
        (parts({"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}), True),
        (parts({"type": "file", "file": {"file_id": "file-1"}}), False),
        (parts({"type": "tool_result", "content": [{"source": {"type": "url", "url": "https://a.example"}}]}), False),
        (chat(store=True), False),
        (chat(store=False), True),
        (chat(mcp_servers=[{"url": "https://a.example"}]), False),
        (chat(container="c1"), False),
        (
            chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"url": "https://a.example"}}}]),
            True,
        ),
        (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 20_000}]), False),
    ],
)
def test_a_call_that_refers_to_more_than_it_holds_is_always_made(call: Call, expected: bool) -> None:
    assert is_self_contained(call) == expected
    assert (slot_of(call) is not None) == expected


# Controls


def control_of(body: Any = None, header: bytes = b"", key: CacheControl | None = None) -> CacheControl | None:
    principal = replace(PRINCIPAL, cache=key) if key is not None else PRINCIPAL
    call = chat(cache=body) if body is not None else chat()
    return cache().find_control(call, {b"cache-control": header} if header else {}, principal)


def test_nothing_is_cached_unless_the_request_or_its_key_asks() -> None:
    assert control_of() is None
    assert control_of(header=b"max-age=60") is None
    assert control_of({"no-store": True}) is None
    assert control_of({"use-cache": True}) == WANTED
    assert control_of(key=WANTED) == WANTED
    assert control_of({"use-cache": False}, key=WANTED) is None
    assert control_of({"ttl": 5}, b"no-store") == CacheControl(is_wanted=True, ttl_s=5, may_write=False)
    assert control_of({"ttl": 5}, b"no-store, no-cache") is None


def test_a_control_that_cannot_be_read_is_refused_with_and_without_a_cache() -> None:
    for one in (cache(), cache(None)):
        with pytest.raises(BadRequest) as refusal:
            one.find_control(chat(cache={"ttl": "long"}), {}, PRINCIPAL)
        assert refusal.value.param == "cache.ttl"


def test_without_a_cache_nobody_has_one() -> None:
    assert cache(None).find_control(chat(cache={"ttl": 5}), {}, replace(PRINCIPAL, cache=WANTED)) is None


@pytest.mark.parametrize(("asked_s", "kept_s"), [(None, 600), (5, 5), (10**9, 86_400)])
def test_no_answer_outlives_the_longest_time(asked_s: float | None, kept_s: float) -> None:
    slot = slot_of(chat(), control=replace(WANTED, ttl_s=asked_s))
    assert slot is not None
    assert slot.ttl_s == kept_s


# Entries


def slot(**control: Any) -> CacheSlot:
    found = slot_of(chat(), control=replace(WANTED, **control))
    assert found is not None
    return found


TARGETS = (target(),)


async def test_an_answer_comes_back_as_it_was() -> None:
    one = cache()
    assert await one.read(slot(), TARGETS, 1001.0) is None
    await one.write(slot(), ANSWER)
    assert await one.read(slot(), TARGETS, 1001.0) == ANSWER


async def test_a_control_may_forbid_reading_writing_or_age() -> None:
    one = cache()
    await one.write(slot(may_write=False), ANSWER)
    assert await one.read(slot(), TARGETS, 1001.0) is None
    await one.write(slot(), ANSWER)
    assert await one.read(slot(may_read=False), TARGETS, 1001.0) is None
    assert await one.read(slot(max_age_s=5), TARGETS, 1005.0) == ANSWER
    assert await one.read(slot(max_age_s=5), TARGETS, 1005.1) is None
    assert await one.read(slot(max_age_s=0), TARGETS, 1000.0) is None


async def test_an_answer_of_a_deployment_that_is_not_the_calls_is_none() -> None:
    one = cache()
    await one.write(slot(), ANSWER)
    assert await one.read(slot(), (target("second"),), 1001.0) is None


async def test_an_answer_above_the_bound_is_not_kept() -> None:
    settings = replace(SETTINGS, max_entry_bytes=2048)
    one = cache(settings)
    await one.write(slot(), replace(ANSWER, body=b"x" * 2048))
    assert await one.read(slot(), TARGETS, 1001.0) is None
    await one.write(slot(), replace(ANSWER, body=b"x" * 1500))
    assert await one.read(slot(), TARGETS, 1001.0) is not None


async def test_an_entry_of_another_release_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cache()
    later = b'{"usage": {"input_tokens": 1, "new": 2}, "usage_source": "provider"}'
    for line in (later, b'{"usage": {}}', b"[]", b"x"):
        monkeypatch.setattr(CachedAnswer, "encode", lambda _, line=line: line + b"\n{}")
        await one.write(slot(), ANSWER)
        assert await one.read(slot(), TARGETS, 1001.0) is None


@pytest.mark.parametrize("seed", range(40))
async def test_an_entry_that_was_changed_moved_or_cut_is_a_miss(seed: int) -> None:
    store = MemoryAnswerStore(1024 * 1024)
    one = ResponseCache(store, SETTINGS)
    await one.write(slot(), ANSWER)
    raw = await store.get(slot().key, 10**6)
    assert raw is not None
    place = seed * len(raw) // 40
    for broken in (raw[:place], raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :], raw + b"x", b"{}\n"):
        await store.put(slot().key, broken, owner="home", ttl_s=60)
        assert await one.read(slot(), TARGETS, 1001.0) is None
    await store.put(slot(namespace="other").key, raw, owner="home", ttl_s=60)
    assert await one.read(slot(namespace="other"), TARGETS, 1001.0) is None
    foreign = ResponseCache(store, replace(SETTINGS, secret=b"t" * 32))
    await store.put(slot().key, raw, owner="home", ttl_s=60)
    assert await foreign.read(slot(), TARGETS, 1001.0) is None


@given(
    sign=st.sampled_from(["", "-"]),
    digits=st.text("0123456789", min_size=1, max_size=20),
    fraction=st.text("0123456789", max_size=20),
    exponent=st.sampled_from(["", "e5", "e15", "E+300", "e-07"]),
    before=st.sampled_from([":", ",", "[", ": "]),
)
def test_every_number_that_a_float_may_not_keep_is_noticed(
    sign: str, digits: str, fraction: str, exponent: str, before: str
) -> None:
    number = f"{sign}{digits}{'.' if fraction else ''}{fraction}"
    is_long = len(number.removeprefix("-")) >= 16 or len(exponent) > 2
    assert has_long_number(f'{{"a"{before}{number}{exponent}}}'.encode()) == is_long
