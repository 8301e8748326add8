"""The catalogue in the database: the seed, and the version of a price that is in force for each deployment."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.catalogue.names import PricedModel
from billing.catalogue.seed import Book, BookPrice, read_seed
from billing.models import Price, PriceBook
from billing.prices import Wanted, activate_drafts, find_drafts, find_prices, reject_drafts, sync_book
from billing.pricing import cost
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage
from gateway.stores import deployment_prices
from gateway.stores.catalog import Snapshot, load_snapshot, reload_snapshot
from tenants.models import Organization
from tenants.revision import current_revision

pytestmark = pytest.mark.django_db

SEED = PriceBook.Source.SEED
NOW = timezone.now()
ONE = Usage(input_tokens=1)


@pytest.fixture(autouse=True)
def unscoped() -> Iterator[None]:
    with scopes_disabled():
        yield


def version(usd: str = "0.000001", provider: str = "openai", model: str = "gpt-new", **fields: Any) -> Price:
    values = {"origin": "book", "deployment_id": "", "lines": {"input": usd, "output": usd}}
    return Price.objects.create(provider=provider, model=model, **(values | fields))


def deploy(upstream_model: str = "gpt-new", *, price_lines: Any = None, **fields: Any) -> Deployment:
    values: dict[str, Any] = {"provider": "openai", "model_group": "public", "api_base": "http://up.test/v1"}
    row = Deployment(upstream_model=upstream_model, **(values | fields))
    return save_deployment(row, price_lines=price_lines)


def target(snapshot: Snapshot | None = None, organization: str = "home", group: str = "public") -> Target:
    [one] = (snapshot or load_snapshot()).catalog.find(organization, group)
    return one


def book(*prices: tuple[str, str], sha256: str = "1") -> Book:
    return Book("a book", "MIT", sha256, tuple(BookPrice("openai", name, None, {"input": usd}) for name, usd in prices))


# The seed


@pytest.mark.parametrize(
    ("provider", "model", "usd_per_million"),
    [
        ("openai", "gpt-4o", "2.5"),
        ("anthropic", "claude-sonnet-4-5", "3"),
        ("gemini", "gemini-2.5-flash", "0.3"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("bedrock", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
        ("bedrock", "anthropic.claude-3-haiku-20240307-v1:0", "0.25"),
    ],
)
def test_a_fresh_install_prices_the_common_models(provider: str, model: str, usd_per_million: str) -> None:
    assert sync_book(read_seed(), SEED) == len(read_seed().prices)
    deploy(model, provider=provider, parameters={"aws_region_name": "us-east-1"} if provider == "bedrock" else {})
    snapshot = load_snapshot()
    usage = Usage(input_tokens=10**6 // 10)
    assert cost(usage, snapshot.prices[target(snapshot).price_id]) == int(float(usd_per_million) * 10**11)


def test_a_book_is_read_once_and_a_newer_one_adds_what_differs() -> None:
    before = current_revision()
    assert sync_book(book(("a", "1"), ("b", "2")), SEED) == 2
    assert current_revision() == before + 1
    assert sync_book(book(("a", "1"), ("b", "2")), SEED) == 0
    assert current_revision() == before + 1
    assert sync_book(book(("a", "1"), ("b", "3"), ("c", "4"), sha256="2"), SEED) == 2
    assert sorted((row.model, row.lines["input"]) for row in Price.objects.all()) == [
        *(("a", "1"), ("b", "2"), ("b", "3"), ("c", "4"))
    ]


def test_a_version_is_never_changed_by_a_newer_book() -> None:
    sync_book(book(("gpt-new", "1")), SEED)
    deploy()
    old = target().price_id
    sync_book(book(("gpt-new", "2"), sha256="2"), SEED)
    assert target().price_id != old
    assert Price.objects.get(id=old).lines == {"input": "1"}


def test_a_draft_that_was_activated_is_not_new_again() -> None:
    litellm, draft = PriceBook.Source.LITELLM, Price.Status.DRAFT
    assert sync_book(book(("a", "1")), litellm, draft) == 1
    assert activate_drafts() == 1
    assert sync_book(book(("a", "1"), ("b", "2"), sha256="2"), litellm, draft) == 1
    assert sync_book(book(("a", "3"), ("b", "2"), sha256="3"), litellm, draft) == 1


def test_a_rejected_draft_is_new_again_with_another_price_only() -> None:
    litellm, draft = PriceBook.Source.LITELLM, Price.Status.DRAFT
    sync_book(book(("a", "1"), ("b", "2")), litellm, draft)
    assert reject_drafts(find_drafts(model="a")) == 1
    assert activate_drafts() == 1
    assert sync_book(book(("a", "1"), ("b", "2"), sha256="2"), litellm, draft) == 0
    assert sync_book(book(("a", "3"), ("b", "2"), sha256="3"), litellm, draft) == 1
    assert [row.lines for row in find_drafts()] == [{"input": "3"}]


# The look-up


def test_the_deployments_own_price_comes_first() -> None:
    version()
    version("0.000002", organization_id="home", origin="contract")
    own = deploy(price_lines={"input": "0"})
    assert target().price_id == own.price_id


def test_a_price_of_the_whole_call_does_not_rank_as_free() -> None:
    deploy(price_lines={"request": "0.01"})
    deploy("b", price_lines={"request": "0.01", "input": "0.000001", "output": "0"}, model_group="both")
    deploy("c", price_lines={"input": "0", "output": "0"}, model_group="free")
    snapshot = load_snapshot()
    assert target(snapshot).prices is None
    assert [target(snapshot, group=name).prices is not None for name in ("both", "free")] == [True, True]


def test_an_organizations_contract_counts_for_its_own_calls_only() -> None:
    public, contract = version("0.000002"), version("0.000001", organization_id="home", origin="contract")
    deploy()
    snapshot = load_snapshot()
    assert target(snapshot).price_id == contract.id
    assert target(snapshot, "other").price_id == public.id
    assert cost(ONE, snapshot.prices[contract.id]) == 10**6
    prices = target(snapshot).prices
    assert prices is not None
    assert prices.input == 10**6


def test_a_contract_alone_prices_nobody_elses_calls() -> None:
    version(organization_id="home", origin="contract")
    deploy()
    assert target(load_snapshot(), "other").price_id == ""


def test_a_contract_for_one_name_of_a_model_leaves_the_others_their_price() -> None:
    public = version(provider="gemini", model="gemini-new")
    contract = version(provider="gemini", model="models/gemini-new", organization_id="home", origin="contract")
    deploy("models/gemini-new", provider="gemini")
    snapshot = load_snapshot()
    assert target(snapshot).price_id == contract.id
    assert target(snapshot, "other").price_id == public.id


def test_the_contract_of_another_provider_does_not_make_a_bare_base_model_ambiguous() -> None:
    public = version()
    version(provider="azure", organization_id="home", origin="contract")
    deploy("mine", provider="openai_compatible", model_info={"base_model": "gpt-new"})
    snapshot = load_snapshot()
    assert {target(snapshot, name).price_id for name in ("home", "other")} == {public.id}


def test_an_organizations_own_group_is_not_hidden_by_a_contract() -> None:
    contract = version(organization_id="home", origin="contract")
    home = Organization.objects.create(id="home", name="Home")
    shared, own = deploy(), deploy("private", organization=home)
    snapshot = load_snapshot()
    assert target(snapshot).deployment_id == own.id
    assert target(snapshot, "other").deployment_id == shared.id
    own.upstream_model = "gpt-new"
    save_deployment(own)
    assert target(load_snapshot()).price_id == contract.id


def test_a_contract_survives_the_reload_of_another_deployment() -> None:
    contract = version(organization_id="home", origin="contract")
    deploy()
    other = deploy("gpt-new", model_group="other")
    snapshot = reload_snapshot(load_snapshot(), {other.id})
    assert target(snapshot).price_id == contract.id
    assert target(snapshot, group="other").price_id == contract.id


def test_the_latest_version_that_has_begun_is_in_force() -> None:
    version(effective_from=NOW - timedelta(days=2))
    current = version("0.000002", effective_from=NOW - timedelta(days=1))
    later = version("0.000003", effective_from=NOW + timedelta(days=1))
    version("0.000004")
    deploy()
    snapshot = load_snapshot()
    assert target(snapshot).price_id == current.id
    assert later.effective_from is not None
    assert snapshot.prices_change_at_s == later.effective_from.timestamp()


def test_a_former_price_stays_known_for_the_calls_that_began_with_it() -> None:
    old = version()
    row = deploy()
    before = load_snapshot()
    new = version("0.000002")
    for after in (load_snapshot(before), reload_snapshot(before, {row.id})):
        assert target(after).price_id == new.id
        assert cost(ONE, after.prices[old.id]) == 10**6


def test_of_former_prices_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment_prices, "MAX_FORMER", 2)
    row = deploy(price_lines={"input": "0"})
    ids, snapshot = [row.price_id], load_snapshot()
    for tenths in range(1, 5):
        save_deployment(row, price_lines={"input": f"0.{tenths}"})
        ids.append(row.price_id)
        snapshot = reload_snapshot(snapshot, {row.id})
    assert list(snapshot.prices) == ids[-3:]


def test_of_two_versions_from_one_instant_the_newer_is_in_force() -> None:
    version()
    newer = version("0.000002")
    deploy()
    assert target().price_id == newer.id


def test_the_price_of_the_region_comes_before_that_of_the_provider() -> None:
    public = version(provider="bedrock")
    regional = version(provider="bedrock", region="eu-west-1")
    version(provider="bedrock", region="us-east-1")
    deploy(provider="bedrock", parameters={"aws_region_name": "eu-west-1"})
    deploy(provider="bedrock", parameters={"aws_region_name": "ap-south-1"}, model_group="elsewhere")
    snapshot = load_snapshot()
    assert target(snapshot).price_id == regional.id
    assert target(snapshot, group="elsewhere").price_id == public.id


@pytest.mark.parametrize("status", ["draft", "retired"])
def test_drafts_and_retired_versions_price_nothing(status: str) -> None:
    version(status=status)
    deploy()
    assert target().price_id == ""


@pytest.mark.parametrize(
    ("fields", "is_priced"),
    [
        ({"upstream_model": "gpt-new"}, True),
        ({"upstream_model": "gpt-new-evil"}, False),
        ({"upstream_model": "gpt-ne"}, False),
        ({"upstream_model": "GPT-NEW"}, False),
        ({"upstream_model": "gpt-new", "provider": "openai_compatible"}, False),
        ({"upstream_model": "mine", "model_info": {"base_model": "openai/gpt-new"}}, True),
        ({"upstream_model": "mine", "parameters": {"base_model": "gpt-new"}, "provider": "azure"}, True),
        ({"upstream_model": "gpt-new", "model_info": {"base_model": "unknown"}}, False),
    ],
)
def test_a_price_is_found_by_the_exact_name_only(fields: dict[str, Any], is_priced: bool) -> None:
    price = version()
    deploy(**fields)
    assert target().price_id == (price.id if is_priced else "")


def test_a_bare_base_model_that_several_providers_have_names_no_price() -> None:
    version()
    version(provider="azure_ai")
    deploy("mine", provider="openai_compatible", model_info={"base_model": "gpt-new"})
    assert target().price_id == ""


def test_a_price_ends_an_instant_before_the_next_begins() -> None:
    start = datetime(2026, 11, 21, tzinfo=UTC)
    first, second = version(), version(effective_from=start)
    wanted = {"d": Wanted((PricedModel("openai", "gpt-new"),))}
    assert find_prices(wanted, start - timedelta(microseconds=1))["d"].price_id == first.id
    assert find_prices(wanted, start)["d"].price_id == second.id


# Deployments whose upstream model is a pattern


def test_a_fresh_install_prices_each_model_of_a_wildcard() -> None:
    sync_book(read_seed(), SEED)
    deploy("*", model_group="openai/*")
    deploy("anthropic/*", model_group="any/*", provider="openrouter")
    snapshot = load_snapshot()
    usage = Usage(input_tokens=10**6 // 10)
    for model, usd_per_million in (("gpt-4o", "2.5"), ("gpt-4o-mini", "0.15")):
        bound = target(snapshot, group=f"openai/{model}")
        assert cost(usage, snapshot.prices[bound.price_id]) == int(float(usd_per_million) * 10**11)
        assert bound.prices is not None
    assert target(snapshot, group="any/claude-sonnet-4.5").price_id


@pytest.mark.parametrize("model", ["gpt-new-evil", "gpt-ne", "GPT-NEW", "other/gpt-new", "*"])
def test_a_name_that_the_catalogue_lacks_is_unpriced_at_a_wildcard(model: str) -> None:
    version()
    deploy("*", model_group="*")
    assert {one.price_id for one in load_snapshot().catalog.find("home", model)} <= {""}


def test_the_names_that_callers_choose_are_not_kept() -> None:
    version()
    deploy("*", model_group="*")
    snapshot = load_snapshot()
    prices = len(snapshot.prices)
    for number in range(100):
        assert target(snapshot, group=f"hostile-{number}").price_id == ""
    assert len(snapshot.prices) == prices == 1


def test_a_price_or_base_model_of_a_pattern_is_that_of_all_its_models() -> None:
    version()
    other = version(model="gpt-other")
    own = deploy("*", model_group="own/*", price_lines={"input": "0"})
    deploy("*", model_group="based/*", model_info={"base_model": "gpt-other"})
    deploy("*", model_group="unknown/*", model_info={"base_model": "gpt-unknown"})
    snapshot = load_snapshot()
    assert target(snapshot, group="own/gpt-new").price_id == own.price_id
    assert target(snapshot, group="based/gpt-new").price_id == other.id
    assert target(snapshot, group="unknown/gpt-new").price_id == ""


def test_a_contract_for_a_model_counts_at_a_wildcard() -> None:
    public, contract = version("0.000002"), version("0.000001", organization_id="home", origin="contract")
    only_home = version(model="gpt-home", organization_id="home", origin="contract")
    deploy("*", model_group="openai/*")
    snapshot = load_snapshot()
    prices = target(snapshot, group="openai/gpt-new").prices
    assert prices is not None
    assert prices.input == 10**6
    for organization, ids in (("home", (contract.id, only_home.id)), ("other", (public.id, ""))):
        names = ("openai/gpt-new", "openai/gpt-home")
        assert tuple(target(snapshot, organization, name).price_id for name in names) == ids


def test_a_wildcard_has_the_prices_of_its_region() -> None:
    public, regional = version(provider="bedrock"), version(provider="bedrock", region="eu-west-1")
    deploy("*", model_group="eu/*", provider="bedrock", parameters={"aws_region_name": "eu-west-1"})
    deploy("*", model_group="us/*", provider="bedrock", parameters={"aws_region_name": "us-east-1"})
    snapshot = load_snapshot()
    assert target(snapshot, group="eu/gpt-new").price_id == regional.id
    assert target(snapshot, group="us/gpt-new").price_id == public.id


def test_a_wildcard_finds_the_name_behind_the_path_of_its_api() -> None:
    price = version(provider="gemini", model="gemini-new")
    deploy("models/*", model_group="google/*", provider="gemini")
    assert target(group="google/gemini-new").price_id == price.id


def test_a_later_version_is_in_force_at_a_wildcard_and_the_former_stays_known() -> None:
    old = version()
    later = version("0.000002", model="gpt-later", effective_from=NOW + timedelta(days=1))
    row = deploy("*", model_group="openai/*")
    before = load_snapshot()
    assert later.effective_from is not None
    assert before.prices_change_at_s == later.effective_from.timestamp()
    new = version("0.000003")
    for after in (load_snapshot(before), reload_snapshot(before, {row.id})):
        assert target(after, group="openai/gpt-new").price_id == new.id
        assert cost(ONE, after.prices[old.id]) == 10**6


def test_the_prices_of_a_wildcard_survive_the_reload_of_another_deployment() -> None:
    price = version()
    deploy("*", model_group="openai/*")
    other = deploy("gpt-new", model_group="other")
    snapshot = reload_snapshot(load_snapshot(), {other.id})
    bound = target(snapshot, group="openai/gpt-new")
    assert bound.price_id == price.id
    assert bound.price_id in snapshot.prices
