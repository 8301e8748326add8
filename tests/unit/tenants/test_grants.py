"""A giver always gives a part of what it has: keys in 10,000 random pairs, and the table of roles."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from gateway.pipeline.admit import may_call
from gateway.pipeline.ports import Principal
from tenants.grants import KeyRights, find_excess
from tenants.models import KeyType
from tenants.permissions import TABLE, Area, CallerRole, Reach

PAIRS = 10_000
MODELS = ["gpt-4o", "gpt-4o-mini", "claude", "claude-haiku", "qwen/72b", "qwen/7b", "o1"]
PATTERNS = [*MODELS, "gpt*", "gpt-4o*", "claude*", "qwen/*", "*", "o*"]
ROUTES = ["/v1/chat/completions", "/v1/embeddings", "/v1/models", "/key/info"]
ROUTE_PATTERNS = [*ROUTES, "/v1/*", "/v1/chat/*", "/key/*", "*"]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.168.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32"]
ADDRESSES = ["10.0.0.1", "10.1.9.9", "10.1.2.3", "192.168.3.4", "8.8.8.8", "2001:db8::7", "2002::1"]
NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAYS = [None, 1, 7, 30]


def choose(source: random.Random, names: list[str], *, most: int = 3) -> frozenset[str]:
    return frozenset(source.sample(names, source.randint(0, most)))


def draw(source: random.Random) -> KeyRights:
    lists = tuple(names for _ in range(source.randint(0, 2)) if (names := choose(source, PATTERNS)))
    days = source.choice(DAYS)
    return KeyRights(
        type=source.choice([KeyType.DEFAULT, KeyType.MANAGEMENT, KeyType.LLM_API, KeyType.READ_ONLY]),
        team_id=source.choice(["", "research", "sales"]),
        models=lists,
        routes=choose(source, ROUTE_PATTERNS, most=2),
        networks=tuple(choose(source, NETWORKS, most=2)),
        expires_at=None if days is None else NOW + timedelta(days=days),
        has_limits=source.random() < 0.1,
    )


def abilities(rights: KeyRights) -> set[tuple[str, str]]:
    """Everything that a holder may do, by trying each thing."""
    principal = Principal(organization_id="acme", key_digest="", allowed_models=rights.models)
    found = {("model", name) for name in MODELS if may_call(principal, name)}
    for route in ROUTES:
        if not rights.routes or any(
            route == pattern or (pattern.endswith("*") and route.startswith(pattern[:-1])) for pattern in rights.routes
        ):
            found.add(("route", route))
    for address in ADDRESSES:
        if not rights.networks or any(ip_address(address) in ip_network(network) for network in rights.networks):
            found.add(("address", address))
    found |= {("day", str(day)) for day in range(40) if rights.expires_at is None or _lives(rights, day)}
    if rights.expires_at is None:
        found.add(("day", "for ever"))
    teams = {rights.team_id} if rights.team_id else {"", "research", "sales"}
    return found | {("team", team) for team in teams}


def _lives(rights: KeyRights, day: int) -> bool:
    return rights.expires_at is not None and NOW + timedelta(days=day) < rights.expires_at


def test_10_000_random_keys_never_exceed_the_key_that_gives_them():
    source = random.Random(10)
    allowed = 0
    for _ in range(PAIRS):
        giver, given = draw(source), draw(source)
        if source.random() < 0.5:  # often alike, so that many pairs are allowed
            given = replace(giver, **{name: getattr(given, name) for name in source.sample(FIELDS, 1)})
        if find_excess(giver, given) == "":
            allowed += 1
            assert abilities(given) <= abilities(giver), (giver, given)
            assert not giver.has_limits
            assert (given.type == KeyType.MANAGEMENT) <= (giver.type == KeyType.MANAGEMENT)
            assert giver.type in {KeyType.MANAGEMENT, KeyType.DEFAULT}
    assert allowed > 500, "the test would prove nothing"


FIELDS = ["type", "team_id", "models", "routes", "networks", "expires_at"]


def test_every_ability_that_is_added_is_named():
    giver = KeyRights(
        type=KeyType.DEFAULT,
        team_id="research",
        models=(frozenset({"gpt*"}),),
        routes=frozenset({"/v1/*"}),
        networks=("10.0.0.0/8",),
        expires_at=NOW,
    )
    assert find_excess(giver, giver) == ""
    assert find_excess(giver, replace(giver, models=(frozenset({"gpt-4o"}), frozenset({"claude"})))) == ""
    wider = {
        "type": replace(giver, type=KeyType.MANAGEMENT),
        "team": replace(giver, team_id=""),
        "allowed_models": replace(giver, models=()),
        "allowed_routes": replace(giver, routes=frozenset({"/v1/*", "/key/*"})),
        "allowed_networks": replace(giver, networks=("10.0.0.0/7",)),
        "expires_at": replace(giver, expires_at=NOW + timedelta(seconds=1)),
    }
    for name, given in wider.items():
        assert find_excess(giver, given) == name
    assert find_excess(replace(giver, has_limits=True), giver) == "key"
    assert find_excess(giver, replace(giver, has_limits=True)) == ""


WIDER = [
    (CallerRole.PLATFORM_ADMIN, CallerRole.ORGANIZATION_ADMIN),
    (CallerRole.PLATFORM_ADMIN, CallerRole.BILLING_VIEWER),
    (CallerRole.ORGANIZATION_ADMIN, CallerRole.TEAM_ADMIN),
    (CallerRole.TEAM_ADMIN, CallerRole.MEMBER),
    (CallerRole.MEMBER, CallerRole.MEMBER_VIEWER),
]


@pytest.mark.parametrize(("wide", "narrow"), WIDER)
def test_a_wider_role_includes_the_narrower_one(wide: CallerRole, narrow: CallerRole):
    for area in Area:
        assert TABLE[wide][area].read >= TABLE[narrow][area].read, area
        assert TABLE[wide][area].write >= TABLE[narrow][area].write, area


@pytest.mark.parametrize("role", CallerRole)
def test_every_role_has_every_area_and_writes_no_further_than_it_reads(role: CallerRole):
    assert set(TABLE[role]) == set(Area)
    for area, right in TABLE[role].items():
        assert right.write <= right.read, area
    if "viewer" in role:
        assert {right.write for right in TABLE[role].values()} == {Reach.NONE}


@pytest.mark.parametrize(
    ("own", "given", "is_covered"),
    [
        ("/v1/m*", "/v1/messages", False),  # the path means /messages, which the prefix does not allow
        ("/v1/m*", "/v1/m*", True),
        ("/key/*", "/key/info", True),
        ("/key/*", "/key/in*", True),
        ("/key/in*", "/key/*", False),
        ("/v1/messages", "/messages", True),
        ("/messages", "/messages*", False),
        ("llm_api_routes", "anthropic_routes", True),
        ("anthropic_routes", "llm_api_routes", False),
    ],
)
def test_a_giver_gives_a_part_of_its_routes_and_no_more(own: str, given: str, is_covered: bool):
    giver = KeyRights(KeyType.MANAGEMENT, routes=frozenset({own}))
    excess = find_excess(giver, KeyRights(KeyType.MANAGEMENT, routes=frozenset({given})))
    assert excess == ("" if is_covered else "allowed_routes")
