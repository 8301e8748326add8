"""The price of a deployment of its own, with a date: by service, command, API, console and beside config.yaml."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError
from django.test import Client
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.contracts import set_lines
from billing.models import Price, SpendLog
from billing.price_terms import PriceInvalid
from gateway.config import read_config
from gateway.config.load import LoadSummary, load_config
from gateway.deployments import DeploymentInvalid, delete_deployment, save_deployment, set_price
from gateway.models import Deployment
from gateway.stores.catalog import Snapshot, load_snapshot, reload_snapshot
from gateway.stores.deployment_prices import RowPrices, find_deployments_of, prices_in_force
from tenants.models import AuditEntry, Organization, User
from tests.contract.management import Api
from tests.contract.own_api import ask, problem, send
from tests.contract.test_prices_api import call
from tests.contract.test_prices_command import prices

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sound_ledger")]

T = datetime(2090, 12, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
OLD, NEW, NEWEST = {"input": "0.000001"}, {"input": "0.000002"}, {"input": "0.000003"}
PUBLIC = {"input": "0.000009"}
Clock = Callable[[datetime], None]


@pytest.fixture(autouse=True)
def unscoped() -> Iterator[None]:
    with scopes_disabled():
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return lambda instant: monkeypatch.setattr(timezone, "now", lambda: instant)


def deploy(price_lines: Any = None, **fields: Any) -> Deployment:
    values = {"id": "mine", "model_group": "group", "provider": "openai", "upstream_model": "new"}
    return save_deployment(Deployment(**(values | fields)), price_lines=price_lines)


def publish(model: str = "new", lines: Any = PUBLIC, **fields: Any) -> Price:
    values = {"origin": "book", "deployment_id": "", "provider": "openai", "model": model, "lines": lines}
    return Price.objects.create(**(values | fields))


def lines_of(snapshot: Snapshot, organization: str = "home", group: str = "group") -> Any:
    [target] = snapshot.catalog.find(organization, group)
    return lines_by(target.price_id)


def lines_by(price_id: str) -> Any:
    return Price.objects.get(id=price_id).lines if price_id else None


def lines_at(when: datetime, organization: str = "home", model: str = "new") -> Any:
    """The lines that a call of this instant is priced by when it is priced again."""
    return lines_by(RowPrices()("mine", organization, when, model))


def test_calls_before_the_date_keep_the_former_price_to_the_microsecond() -> None:
    deploy(OLD)
    set_price("group", NEW, T)
    set_price("mine", NEWEST, T + timedelta(days=1))
    assert [lines_at(T - TICK), lines_at(T), lines_at(T + timedelta(days=1) - TICK)] == [OLD, NEW, NEW]
    assert lines_at(T + timedelta(days=1)) == NEWEST


def test_a_later_price_begins_by_itself_in_every_replica(clock: Clock) -> None:
    deploy(OLD)
    replicas = [load_snapshot(), load_snapshot()]
    clock(T - timedelta(days=1))
    set_price("group", NEW, T)
    clock(T - TICK)
    replicas = [reload_snapshot(replica, {"mine"}) for replica in replicas]
    assert [(lines_of(one), one.prices_change_at_s) for one in replicas] == [(OLD, T.timestamp())] * 2
    begun = [one.catalog.find("home", "group")[0].price_id for one in replicas]
    clock(T)
    replicas = [load_snapshot(one) for one in replicas]
    assert [(lines_of(one), one.prices_change_at_s) for one in replicas] == [(NEW, float("inf"))] * 2
    assert all(price_id in one.prices for price_id, one in zip(begun, replicas, strict=True)), "calls under way end"


def test_before_its_first_price_and_after_its_last_a_deployment_has_the_others(clock: Clock) -> None:
    publish()
    Organization.objects.create(id="acme", name="Acme")
    set_lines("acme", "openai", "new", {"input": "0.000005"})
    deploy()
    set_price("mine", NEW, T)
    set_price("mine", {}, T + timedelta(days=2))
    changes = [T.timestamp(), (T + timedelta(days=2)).timestamp(), float("inf")]
    expected = [(PUBLIC, {"input": "0.000005"}), (NEW, NEW), (PUBLIC, {"input": "0.000005"})]
    for instant, change, (home, acme) in zip((T - TICK, T, T + timedelta(days=2)), changes, expected, strict=True):
        clock(instant)
        snapshot = load_snapshot()
        assert (lines_of(snapshot), lines_of(snapshot, "acme")) == (home, acme)
        assert snapshot.prices_change_at_s == change
        assert (lines_at(instant), lines_at(instant, "acme")) == (home, acme)
    clock(T)
    assert [row.id for row in find_deployments_of("openai", "new")] == ["mine"], "it will have the catalogue's"


def test_a_pattern_has_the_prices_of_its_models_until_it_has_one_for_all(clock: Clock) -> None:
    publish()
    deploy(upstream_model="*", model_group="openai/*")
    set_price("mine", NEW, T)
    for instant, lines in ((T - TICK, PUBLIC), (T, NEW)):
        clock(instant)
        assert lines_of(load_snapshot(), group="openai/new") == lines
        assert lines_at(instant) == lines


def test_a_price_without_a_date_takes_the_place_of_all() -> None:
    deploy(OLD)
    set_price("mine", NEW, T)
    set_price("mine", NEWEST)
    assert [lines_at(T - TICK), lines_at(T)] == [NEWEST, NEWEST]
    set_price("mine", NEW, T)
    set_price("mine", {})
    assert [lines_at(T - TICK), lines_at(T)] == [None, None]


def test_a_price_ends_those_that_would_begin_at_its_date_or_later() -> None:
    deploy(OLD)
    set_price("mine", NEW, T)
    set_price("mine", NEWEST, T + timedelta(days=1))
    before = list(Price.objects.order_by("id").values_list("lines", "effective_from"))
    set_price("mine", {"input": "0"}, T)
    assert [lines_at(T - TICK), lines_at(T), lines_at(T + timedelta(days=9))] == [OLD, {"input": "0"}, {"input": "0"}]
    assert list(Price.objects.order_by("id").values_list("lines", "effective_from"))[: len(before)] == before
    acts = AuditEntry.objects.filter(object_type="price").values_list("action", "object_id", "organization_id")
    assert list(acts) == [("create", "mine", None)] * 3


def test_an_unchanged_deployment_keeps_what_is_planned_and_a_changed_price_ends_it() -> None:
    row = deploy(OLD)
    set_price("mine", NEW, timezone.now() - timedelta(days=1))
    set_price("mine", NEWEST, T + timedelta(days=365))
    row.refresh_from_db()
    save_deployment(row, price_lines=NEW)
    save_deployment(row)
    assert lines_at(T + timedelta(days=365)) == NEWEST
    save_deployment(row, price_lines=OLD)
    assert lines_at(T + timedelta(days=365)) == OLD
    assert prices_in_force([row])["mine"].lines == OLD


def test_a_row_that_was_read_before_a_price_was_set_does_not_take_it_back() -> None:
    deploy(OLD)
    row = Deployment.objects.get()
    set_price("mine", NEW)
    row.weight = 3
    save_deployment(row)
    assert (lines_at(T), Deployment.objects.get().weight) == (NEW, 3)
    row.price_id = ""
    save_deployment(row, price_lines={})
    assert lines_at(T) is None


def test_a_change_without_a_price_ends_none_that_begins_meanwhile(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(OLD, provider="ollama")  # which needs no key
    set_price("mine", NEW, T)
    begun = Price.objects.get(effective_from=T)
    monkeypatch.setattr("gateway.deployments.own_prices_in_force", lambda _rows: {"mine": begun})
    answer = api.post("/model/update", {"model_info": {"id": "mine"}, "litellm_params": {"weight": 3}})
    assert answer.status_code == 200, answer.content
    assert Deployment.objects.get().weight == 3
    assert [lines_at(T - TICK), lines_at(T)] == [OLD, NEW]


def test_a_deployment_of_the_same_id_has_no_prices_of_a_deleted_one() -> None:
    row = deploy(OLD)
    set_price("mine", NEW, T)
    delete_deployment(row)
    assert lines_at(T) is None
    deploy()
    assert lines_at(T) is None
    deploy(id="other")
    assert lines_at(T) is None


def test_a_deployment_of_the_same_id_is_priced_though_a_deleted_one_had_this_price_from_a_date() -> None:
    row = deploy()
    begin = timezone.now() - timedelta(days=1)
    set_price("mine", NEW, begin)
    delete_deployment(row)
    again = deploy(NEW)
    assert prices_in_force([again])["mine"].lines == NEW
    assert [lines_at(begin - TICK), lines_at(T)] == [NEW, NEW]


@pytest.mark.parametrize(
    ("lines", "begin", "error"),
    [
        ({"inputs": "1"}, T, DeploymentInvalid),
        ({"input": "nan"}, T, DeploymentInvalid),
        ({"input": "2"}, T, DeploymentInvalid),
        (NEW, datetime(1999, 1, 1, tzinfo=UTC), PriceInvalid),
        (NEW, datetime(2999, 1, 1, tzinfo=UTC), PriceInvalid),
    ],
)
def test_what_cannot_be_a_price_changes_nothing(lines: Any, begin: datetime, error: type[Exception]) -> None:
    deploy(OLD)
    set_price("mine", NEW, T)
    with pytest.raises(error):
        set_price("mine", lines, begin)
    assert [lines_at(T - TICK), lines_at(T)] == [OLD, NEW]


def test_calls_are_priced_again_by_the_price_of_their_instant(api: Api) -> None:
    price_id = deploy(OLD).price_id
    begin = timezone.now() - timedelta(hours=1)
    call(1, price_id=price_id, started_at=begin - TICK)
    call(1, price_id=price_id, started_at=begin)
    body = {"model": "group", "lines": NEW, "effective_from": begin.isoformat()}
    assert ask(api, "POST", "prices", body, status=201) == {"deployments": ["mine"]}
    assert set(SpendLog.objects.values_list("cost_pusd", flat=True)) == {10**12}, "setting a price touches no row"
    since = (begin - timedelta(days=2)).isoformat()
    preview = ask(api, "POST", "reprice-jobs", {"model": "group", "since": since, "dry_run": True})
    assert (preview["rows"], preview["changed"], preview["cost_change"]) == (2, 1, "1.000000000000")


def test_a_price_with_a_date_by_api(api: Api) -> None:
    deploy(OLD)
    body = {"model": "mine", "lines": NEW, "effective_from": "2099-01-01"}
    ask(api, "POST", "prices", body, status=201)
    ask(api, "POST", "prices", {**body, "lines": {}, "effective_from": "2099-06-01T12:00:00+02:00"}, status=201)
    row = ask(api, "GET", "deployments/mine")
    assert row["price_lines"] == OLD
    assert row["later_prices"] == [
        {"effective_from": "2099-01-01T00:00:00Z", "price_lines": NEW},
        {"effective_from": "2099-06-01T10:00:00Z", "price_lines": {}},
    ]
    ask(api, "POST", "prices", {**body, "effective_from": "2020-01-01"}, status=201)
    row = ask(api, "GET", "deployments/mine")
    assert (row["price_lines"], row["later_prices"]) == (NEW, [])
    problem(send(api, "POST", "prices", {**body, "effective_from": "soon"}), 400, "effective_from")
    problem(send(api, "POST", "prices", {**body, "effective_from": "9999-12-31"}), 400, "effective_from")
    problem(send(api, "POST", "prices", {**body, "model": "absent"}), 400, "model")
    named = {"model": "mine", "base_model": "new", "effective_from": "2099-01-01"}
    problem(send(api, "POST", "prices", named), 400, "effective_from")
    later = {"price_lines": NEWEST}
    assert ask(api, "PATCH", "deployments/mine", later)["price_lines"] == NEWEST
    assert lines_at(T) == NEWEST


def test_a_price_with_a_date_by_command() -> None:
    deploy(OLD)
    text = prices("set", "--model", "group", "--input", "2", "--from", "2099-01-01")
    assert "group (mine) since 2099-01-01 00:00:00+00:00: input 2/M" in text
    assert lines_at(datetime(2099, 1, 1, tzinfo=UTC) - TICK) == OLD
    assert "the catalogue's price" in prices("set", "--model", "mine", "--remove", "--from", "2099-02-01")
    assert "input 3/M" in prices("set", "--model", "mine", "--input", "3", "--from", "2026-01-01T12:00:00+01:00")
    assert [lines_at(datetime(2026, 1, 1, 11, tzinfo=UTC) - TICK), lines_at(T)] == [OLD, NEWEST]
    for wrong in (["--input", "1", "--from", "soon"], ["--base-model", "new", "--from", "2099-01-01"]):
        with pytest.raises(CommandError, match="--from"):
            prices("set", "--model", "mine", *wrong)
    with pytest.raises(CommandError, match="must be in the years"):
        prices("set", "--model", "mine", "--input", "1", "--from", "1999-01-01")


FILE = """
model_list:
  - model_name: group
    litellm_params: {model: openai/new, api_key: k%s}
    model_info: {id: mine}
"""


def test_a_file_without_a_price_leaves_dated_ones_and_one_with_a_price_ends_them(tmp_path: Path) -> None:
    def load(price: str = "") -> LoadSummary:
        path = tmp_path / "config.yaml"
        path.write_text(FILE % (f", input_cost_per_token: {price}" if price else ""), encoding="utf-8")
        return load_config(read_config(path, {}))

    load()
    set_price("mine", NEW, T)
    assert load().unchanged == ("mine",)
    assert [lines_at(T - TICK), lines_at(T)] == [None, NEW]
    assert load("0.000002").changed == ("mine",)
    assert [lines_at(T - TICK), lines_at(T)] == [NEW, NEW]
    assert load("0.000002").unchanged == ("mine",)
    with pytest.raises(DeploymentInvalid, match=r"stands in config\.yaml"):
        set_price("mine", NEWEST, T)
    load()
    assert [lines_at(T - TICK), lines_at(T)] == [None, None]
    set_price("mine", NEW)
    set_price("mine", NEWEST, T)
    assert load("0.000002").changed == ("mine",), "a price that was set goes, though it is the same"
    assert lines_at(T) == NEW


def test_a_price_with_a_date_in_the_console(client: Client) -> None:
    deploy(OLD)
    call(1, price_id=Deployment.objects.get().price_id)
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    page = "/console/prices/set/"
    answer = client.post(page, {"model": "mine", "price_input": "2", "begin": "2099-01-01T00:00"})
    assert answer["Location"] == "/console/prices/versions/?deployment=mine"
    rows = client.get(answer["Location"]).context["rows"]
    assert len(rows) == 2
    assert ["later" in str(rows[0].state), "in force" in str(rows[1].state)] == [True, True]
    assert "another from 2099-01-01" in client.get(page, {"model": "mine"}).content.decode()
    answer = client.post(page, {"model": "mine", "price_input": "3", "begin": "2026-01-01T00:00"})
    assert answer["Location"] == "/console/repricing/new/?model=mine&rows=since&since=2026-01-01T00%3A00"
    assert client.get(answer["Location"]).context["change"] == "+$2.00"
    answer = client.post(page, {"model": "mine", "remove": "on", "begin": "2099-01-01T00:00"}, follow=True)
    assert "the price of the catalogue" in answer.content.decode()
    answer = client.post(page, {"model": "mine", "base_model": "new", "begin": "2099-01-01T00:00"})
    assert "begin" in answer.context["form"].errors
    answer = client.post(page, {"model": "mine", "price_input": "3", "begin": "1999-01-01T00:00"})
    assert "begin" in answer.context["form"].errors
