"""Invoices are imported once, and every cause of a difference is found with its amount."""

import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.models import InvoiceImport, InvoiceLine, Price, SpendLog, UsageCoverage
from billing.reconciliation import imports
from billing.reconciliation.imports import delete_invoice, import_invoice
from billing.reconciliation.lines import InvoiceUnreadable
from billing.reconciliation.sources import SOURCES
from billing.rollup_rebuild import FIRST_DAY, rebuild_day
from gateway.protocol.amounts import PUSD, usd_text
from tenants.models import AuditEntry

pytestmark = pytest.mark.django_db
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "invoices"
FIRST = date(2026, 10, 1)
DAYS = 30
MODELS = ("gpt-4o", "gpt-5.5", "o4-mini")
#: Picodollars a token: input, cached input, output.
RATES = {
    "gpt-4o": (2_500_000, 1_250_000, 10_000_000),
    "gpt-5.5": (5_000_000, 500_000, 30_000_000),
    "o4-mini": (11, 3, 44),
}
KINDS = ("input", "cached input", "output")


@pytest.fixture(params=["rows", "rollups"], autouse=True)
def spend_source(request: pytest.FixtureRequest) -> str:
    """The tables that ours are read from."""
    begin = FIRST_DAY if request.param == "rollups" else date(2030, 1, 1)
    UsageCoverage.objects.update_or_create(id=1, defaults={"complete_from": begin})
    return str(request.param)


@dataclass(frozen=True)
class Call:
    """A call as it truly was."""

    day: date
    model: str
    tokens: tuple[int, int, int]
    second: int = 43_200  # of the day

    def cost(self) -> int:
        return sum(count * rate for count, rate in zip(self.tokens, RATES[self.model], strict=True))


def log_of(call: Call, **fields: Any) -> SpendLog:
    started_at = datetime.combine(call.day, time.min, UTC) + timedelta(seconds=call.second)
    fresh = UUID(str(uuid7())).int & ((1 << 80) - 1)
    values: dict[str, Any] = {
        "id": UUID(int=int(started_at.timestamp() * 1000) << 80 | fresh),
        "request_id": UUID(str(uuid7())),
        "organization_id": "home",
        "writer_id": "writer",
        "operation": "chat",
        "model_group": "group",
        "deployment_id": "first",
        "provider": "openai",
        "upstream_model": call.model,
        "state": "priced",
        "finish": "complete",
        "status_code": 200,
        "usage_source": "provider",
        "input_tokens": call.tokens[0],
        "cache_read_tokens": call.tokens[1],
        "output_tokens": call.tokens[2],
        "cost_pusd": call.cost(),
        "started_at": started_at,
        "ended_at": started_at + timedelta(seconds=20),
    }
    return SpendLog(**(values | fields))


def write_logs(logs: list[SpendLog]) -> None:
    with scopes_disabled():
        SpendLog.objects.bulk_create(logs, batch_size=500)
        if UsageCoverage.objects.filter(complete_from=FIRST_DAY).exists():
            for day in sorted({log.started_at.date() for log in logs}):
                rebuild_day(day)


@dataclass(frozen=True)
class Billed:
    """A call as the provider books it."""

    call: Call
    tier: str = ""
    factor: Decimal = Decimal(1)


def costs_json(billed: list[Billed]) -> bytes:
    """OpenAI's costs of the calls, a page a day."""
    sums: dict[date, Counter[tuple[str, str]]] = defaultdict(Counter)
    amounts: dict[date, dict[tuple[str, str], Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in billed:
        for kind, count, rate in zip(KINDS, row.call.tokens, RATES[row.call.model], strict=True):
            item = f"{row.tier} | {row.call.model}, {kind}" if row.tier else f"{row.call.model}, {kind}"
            sums[row.call.day][item, kind] += count
            amounts[row.call.day][item, kind] += Decimal(count * rate) * row.factor / PUSD
    return b"\n".join(page_of(day, sums[day], amounts[day]) for day in sorted(sums))


def page_of(day: date, counts: Counter[tuple[str, str]], amounts: dict[tuple[str, str], Decimal]) -> bytes:
    begin = int(datetime.combine(day, time.min, UTC).timestamp())
    results = ",".join(
        f'{{"object":"organization.costs.result","amount":{{"value":{amounts[key]:f},"currency":"usd"}},'
        f'"line_item":{json.dumps(key[0])},"quantity":{count},"quantity_unit":"tokens"}}'
        for key, count in counts.items()
    )
    bucket = f'{{"object":"bucket","start_time":{begin},"end_time":{begin + 86_400},"results":[{results}]}}'
    return f'{{"object":"page","data":[{bucket}],"has_more":false,"next_page":null}}'.encode()


def bring_in(content: bytes, source: str = "openai", **options: str) -> Any:
    return import_invoice(io.BytesIO(content), SOURCES[source], **options)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("reconcile", *arguments, stdout=out)
    return out.getvalue()


def report(*arguments: str, start: date = FIRST, end: date = FIRST + timedelta(days=DAYS)) -> Any:
    days = (f"--start-date={start}", f"--end-date={end}")
    return json.loads(run("report", *days, "--format=json", *arguments))


# A month with seeded faults


def make_calls(rng: random.Random, per_day: int) -> list[Call]:
    return [
        Call(
            FIRST + timedelta(days=day),
            model,
            (rng.randrange(1, 5_000), rng.randrange(3_000), rng.randrange(1, 2_000)),
            rng.randrange(3_600, 80_000),
        )
        for day in range(DAYS)
        for model in MODELS
        for _ in range(per_day)
    ]


Fault = Callable[[Call, random.Random], tuple[list[SpendLog], list[Billed], int]]


def unpriced(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    return [log_of(call, state="unpriced", cost_pusd=None)], [Billed(call)], call.cost()


def unsettled(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    return [log_of(call, state="metered", cost_pusd=None)], [Billed(call)], call.cost()


def estimated(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    guess = replace(call, tokens=(call.tokens[0], call.tokens[1], rng.randrange(1, 3_000)))
    return [log_of(guess, usage_source="estimated")], [Billed(call)], call.cost() - guess.cost()


def not_in_ours(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    return [], [Billed(call)], call.cost()


def not_in_theirs(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    return [log_of(call)], [], -call.cost()


def day_border(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    late = replace(call, second=86_395)
    return [log_of(late)], [Billed(replace(call, day=call.day + timedelta(days=1)))], 0


def tier(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    return [log_of(call)], [Billed(call, "flex", Decimal("0.5"))], -call.cost() // 2


def price(call: Call, rng: random.Random) -> tuple[list[SpendLog], list[Billed], int]:
    cheaper = call.cost() * 9 // 10
    return [log_of(call, cost_pusd=cheaper)], [Billed(call)], call.cost() - cheaper


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (unpriced, unsettled, estimated, not_in_ours, not_in_theirs, day_border, tier, price)
}


def seed_month(per_day: int) -> tuple[list[SpendLog], list[Billed], dict[str, int], int]:
    """(rows of ours, calls of theirs, the seeded difference of each fault, how many faults): 1 % of the calls, those of
    one day and model of one kind."""
    rng = random.Random(20_261_101)
    logs, billed, seeded, count = [], [], dict.fromkeys(FAULTS, 0), 0
    names = sorted(FAULTS)
    for place, call in enumerate(make_calls(rng, per_day)):
        day, number = divmod(place // per_day, len(MODELS))
        is_faulty = day % 2 == 0 and day < DAYS - 1 and place % per_day < max(1, per_day // 50)
        if not is_faulty:
            logs.append(log_of(call))
            billed.append(Billed(call))
            continue
        name = names[(day // 2 * len(MODELS) + number) % len(names)]
        rows, theirs, pusd = FAULTS[name](call, rng)
        logs, billed, count = logs + rows, billed + theirs, count + 1
        seeded[name] += pusd
    return logs, billed, seeded, count


def test_every_seeded_fault_of_a_month_is_found_with_its_amount() -> None:
    logs, billed, seeded, count = seed_month(per_day=50)
    assert 0.009 < count / (DAYS * len(MODELS) * 50) < 0.011
    write_logs(logs)
    bring_in(costs_json(billed))
    answer = report()
    total = answer["total"]
    ours = sum(log.cost_pusd or 0 for log in logs if log.state != "metered")
    theirs = sum(round(row.call.cost() * row.factor) for row in billed)
    assert total["our_cost"] == usd_text(ours)
    assert abs(pusd_of(total["their_cost"]) - theirs) < len(billed)
    assert Decimal(total["explained_percent"]) >= Decimal("99.9")
    found = {cause: pusd_of(usd) for cause, usd in total["causes"].items() if cause != "rounding"}
    assert set(found) == {name for name, pusd in seeded.items() if pusd}
    for name, pusd in found.items():
        assert abs(pusd - seeded[name]) < 1_000, name  # picodollars, for rounding
    moved = [row for row in answer["rows"] if "day_border" in row["causes"]]
    assert len(moved) == 2 * sum(1 for log in logs if log.started_at.time() > time(23, 59))


def pusd_of(usd: str) -> int:
    return int(Decimal(usd) * PUSD)


def test_the_causes_of_each_row_add_up_to_its_difference() -> None:
    logs, billed, _, _ = seed_month(per_day=20)
    write_logs(logs)
    bring_in(costs_json(billed))
    for row in report()["rows"]:
        assert sum(pusd_of(usd) for usd in row["causes"].values()) == pusd_of(row["difference"])
        assert pusd_of(row["their_cost"]) - pusd_of(row["our_cost"]) == pusd_of(row["difference"])


# Imports


def lines_of() -> list[tuple[Any, ...]]:
    return list(InvoiceLine.objects.order_by("day", "sku").values_list("day", "sku", "quantity", "amount_pusd"))


def test_the_same_file_twice_counts_once() -> None:
    content = (FIXTURES / "openai_costs.json").read_bytes()
    first = bring_in(content)
    before = lines_of()
    again = bring_in(content)
    assert (again.invoice.pk, again.replaced) == (first.invoice.pk, 0)
    assert lines_of() == before
    assert len(before) == 5
    assert InvoiceImport.objects.count() == 1


def test_a_later_export_replaces_the_days_that_it_has_and_no_other() -> None:
    calls = [Call(FIRST + timedelta(days=day), "gpt-4o", (100, 0, 10)) for day in range(3)]
    bring_in(costs_json([Billed(call) for call in calls]))
    done = bring_in(costs_json([Billed(replace(calls[1], tokens=(7, 0, 0)))]))
    assert done.replaced == 2
    quantities = [quantity for day, sku, quantity, _ in lines_of() if sku == "gpt-4o, input"]
    assert quantities == [100, 7, 100]


def test_usage_and_costs_of_one_day_stand_beside_each_other() -> None:
    bring_in((FIXTURES / "openai_costs.json").read_bytes())
    done = bring_in((FIXTURES / "openai_usage.json").read_bytes())
    assert done.replaced == 0
    assert set(InvoiceLine.objects.values_list("is_usage", flat=True)) == {False, True}


def test_two_accounts_at_one_provider_add_up() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    write_logs([log_of(call), log_of(call)])
    for account in ("eu", "us"):
        bring_in(costs_json([Billed(call)]), account=account)
    [row] = report()["rows"]
    assert (row["their_tokens"]["input"], row["difference"]) == (200, usd_text(0))


def test_a_file_that_is_refused_changes_nothing() -> None:
    bring_in((FIXTURES / "openai_costs.json").read_bytes())
    before = lines_of()
    with pytest.raises(InvoiceUnreadable):
        bring_in((FIXTURES / "openai_costs.json").read_bytes().replace(b"usd", b"eur", 1))
    assert lines_of() == before
    assert InvoiceImport.objects.count() == 1


def test_an_import_stands_in_the_audit_log() -> None:
    done = bring_in((FIXTURES / "openai_costs.json").read_bytes())
    assert AuditEntry.objects.filter(object_id=done.invoice.id, action="create").exists()


# The report


def test_days_without_an_invoice_are_not_compared() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    write_logs([log_of(call), log_of(replace(call, day=FIRST + timedelta(days=5)))])
    bring_in(costs_json([Billed(call)]))
    answer = report()
    assert [row["day"] for row in answer["rows"]] == [str(FIRST)]
    assert answer["total"]["days"] == {"openai": [str(FIRST)]}


def test_other_providers_are_not_on_the_invoice() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    write_logs([log_of(call), log_of(call, provider="openai_compatible"), log_of(call, provider="azure")])
    bring_in(costs_json([Billed(call)]))
    assert report()["total"]["difference"] == usd_text(0)


def test_a_name_is_compared_as_the_model_that_it_was_given_and_never_by_its_begin() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    write_logs([log_of(call, upstream_model="gpt-4o-2024-08-06")])
    bring_in(costs_json([Billed(call)]))
    rows = {row["model"]: row["causes"] for row in report()["rows"]}
    assert rows == {
        "gpt-4o": {"not_in_ours": usd_text(call.cost())},
        "gpt-4o-2024-08-06": {"not_in_theirs": usd_text(-call.cost())},
    }
    run("name", "gpt-4o-2024-08-06", "gpt-4o", "--provider=openai")
    [row] = report()["rows"]
    assert (row["model"], row["difference"], row["causes"]) == ("gpt-4o", usd_text(0), {})
    assert run("names") == "openai  gpt-4o-2024-08-06 → gpt-4o\n"
    run("name", "gpt-4o-2024-08-06", "--provider=openai")
    assert len(report()["rows"]) == 2


def test_costs_without_counts_are_unexplained_until_the_usage_is_imported() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    price = Price.objects.create(deployment_id="first", lines={"input": "0.00000125", "output": "0.000005"})
    write_logs([log_of(call, cost_pusd=call.cost() // 2, price_id=price.id)])
    bring_in(costs_json([Billed(call)]).replace(b'"quantity_unit":"tokens"', b'"quantity_unit":"other"'))
    assert set(report()["rows"][0]["causes"]) == {"unexplained"}
    begin = int(datetime.combine(FIRST, time.min, UTC).timestamp())
    usage = {"model": "gpt-4o", "input_tokens": 100, "output_tokens": 10, "num_model_requests": 1}
    page = {"data": [{"start_time": begin, "end_time": begin + 86_400, "results": [usage]}]}
    bring_in(json.dumps(page).encode())
    [row] = report()["rows"]
    assert row["causes"] == {"price": usd_text(call.cost() - call.cost() // 2)}
    assert row["their_rates"] == {"input": "2.5", "output": "10"}
    assert row["our_rates"] == {"input": "1.25", "output": "5", "cache_read": "1.25", "cache_write": "1.25"} | {
        "input_audio": "1.25",
        "output_audio": "5",
    }


def test_a_usage_alone_is_compared_in_tokens() -> None:
    call = Call(date(2026, 11, 1), "gpt-4o", (25_000, 10, 10_000))
    write_logs([log_of(call, upstream_model="gpt-4o-2024-08-06")])
    bring_in((FIXTURES / "openai_usage.json").read_bytes())
    answer = report(start=date(2026, 11, 1), end=date(2026, 11, 30))
    row = next(row for row in answer["rows"] if row["model"] == "gpt-4o-2024-08-06")
    assert (row["their_cost"], row["difference"], row["causes"]) == (None, None, {})
    assert (row["our_tokens"]["input"], row["their_tokens"]["input"]) == (25_000, 25_000)
    assert row["cause_tokens"] == {"not_in_ours": 90}  # the audio
    assert answer["total"]["our_cost"] == usd_text(0)


def test_ours_are_the_costs_of_the_provider_without_the_margin_of_a_contract() -> None:
    call = Call(FIRST, "gpt-4o", (100, 0, 10))
    base = Price.objects.create(deployment_id="", provider="openai", model="gpt-4o", lines={"input": "1"})
    Price.objects.create(deployment_id="", origin="contract", organization_id="home", base_price_id=base.id)
    write_logs([log_of(call, cost_pusd=call.cost() + 777, provider_cost_pusd=call.cost()), log_of(call)])
    bring_in(costs_json([Billed(call), Billed(call)]))
    [row] = report()["rows"]
    assert (row["our_cost"], row["difference"]) == (usd_text(2 * call.cost()), usd_text(0))


def test_the_text_of_a_spreadsheet_computes_nothing() -> None:
    page = costs_json([Billed(Call(FIRST, "gpt-4o", (100, 0, 10)))]).replace(b"gpt-4o, input", b"=1+1")
    bring_in(page)
    lines = run("report", f"--start-date={FIRST}", f"--end-date={FIRST}", "--format=csv").splitlines()
    assert any(line.split(",")[2] == "'=1+1" for line in lines)
    assert all(line.count(",") == lines[0].count(",") for line in lines)


def test_the_table_names_the_causes() -> None:
    bring_in(costs_json([Billed(Call(FIRST, "gpt-4o", (100, 0, 10)))]))
    table = run("report", f"--start-date={FIRST}", f"--end-date={FIRST}")
    assert "not_in_ours 0.000350000000" in table
    assert "explained 100.0000 %" in table
    assert "No invoice" in run("report", "--start-date=2025-01-01", "--end-date=2025-01-02")


@pytest.mark.parametrize("fixture", ["openai_costs.json", "openai_usage.json"])
def test_a_report_reads_a_bounded_number_of_charges_and_counts(fixture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.reconciliation.report.MAX_CHARGES", 1)
    bring_in((FIXTURES / fixture).read_bytes())
    with pytest.raises(CommandError, match="more than 1 charges"):
        report(start=date(2026, 11, 1), end=date(2026, 11, 30))


# The command


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "costs.json"
    path.write_bytes((FIXTURES / "openai_costs.json").read_bytes())
    return path


def test_the_command_imports_a_file_and_names_its_faults(export: Path) -> None:
    assert run("import", str(export), "--provider=openai").startswith("5 lines of OpenAI, 2026-11-01 to 2026-11-01")
    assert "costs.json" in run("imports")
    with pytest.raises(CommandError, match="no export of Anthropic"):
        run("import", str(export), "--provider=anthropic")
    with pytest.raises(CommandError, match="No such file"):
        run("import", str(export) + ".gone", "--provider=openai")
    with pytest.raises(CommandError, match="--end-date"):
        run("report", "--start-date=2026-11-02", "--end-date=2026-11-01")


def test_the_lists_show_no_signs_that_a_terminal_obeys(export: Path) -> None:
    bring_in(export.read_bytes(), account="re\x1b[2Jsearch", file_name="costs\x07.json")
    run("name", "gpt\x1b]0;x\x07", "gpt-4o", "--provider=openai")
    text = run("imports") + run("names")
    assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert "costs�.json" in text


def test_an_import_that_is_taken_back_between_two_days_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    write_day = imports._replace_day

    def write_and_take_back(invoice: InvoiceImport, *arguments: Any) -> int:
        replaced = write_day(invoice, *arguments)
        delete_invoice(invoice)
        return replaced

    monkeypatch.setattr(imports, "_replace_day", write_and_take_back)
    days = [Billed(Call(FIRST + timedelta(days=day), "gpt-4o", (1000, 0, 10))) for day in range(2)]
    with pytest.raises(InvoiceUnreadable, match="taken back"):
        bring_in(costs_json(days))
    assert (InvoiceImport.objects.count(), InvoiceLine.objects.count()) == (0, 0)
