"""Every format of invoices reads true exports exactly."""

from datetime import date
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest

from billing.reconciliation.formats.azure import read_meter
from billing.reconciliation.lines import Component, InvoiceUnreadable, LineKey, LineSum
from billing.reconciliation.source import Invoice, read_invoice
from billing.reconciliation.sources import SOURCES
from gateway.providers.registry import PROVIDERS

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "invoices"
FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
C = Component


def read(source: str, content: bytes | str) -> Invoice:
    raw = content.encode() if isinstance(content, str) else content
    return read_invoice(BytesIO(raw), SOURCES[source])


def read_fixture(name: str) -> Invoice:
    return read(name.partition("_")[0], (FIXTURES / name).read_bytes())


def sums_of(invoice: Invoice) -> dict[tuple[object, ...], tuple[int | None, str | None]]:
    """(day, model, component, tier, region) → (quantity, USD)."""
    return {
        (key.day, key.model, key.component, key.tier, key.region): (
            found.quantity,
            None if found.amount_pusd is None else f"{Decimal(found.amount_pusd).scaleb(-12).normalize():f}",
        )
        for key, found in invoice.sums.items()
    }


def test_every_source_charges_providers_that_exist() -> None:
    assert sorted(SOURCES) == ["anthropic", "aws", "azure", "google", "openai"]
    for source in SOURCES.values():
        assert set(source.providers) <= set(PROVIDERS)


def test_openai_costs() -> None:
    assert sums_of(read_fixture("openai_costs.json")) == {
        (FIRST, "gpt-4o-2024-08-06", C.INPUT, "", ""): (24_000, "0.06"),
        (FIRST, "gpt-4o-2024-08-06", C.CACHE_READ, "", ""): (10, "0.0000125"),
        (FIRST, "gpt-4o-2024-08-06", C.OUTPUT, "", ""): (10_000, "0.1"),
        (FIRST, "gpt-5.5", C.OUTPUT, "priority, long context", ""): (5_000, "0.3"),
        (FIRST, "web search tool calls", C.OTHER, "", ""): (None, "0.02"),
    }


def test_openai_costs_of_a_dashboard_add_up_exactly() -> None:
    assert sums_of(read_fixture("openai_costs.csv")) == {
        (FIRST, "gpt-4o-2024-08-06", C.INPUT, "", ""): (None, "0.1"),
    }


def test_openai_usage_is_disjoint() -> None:
    invoice = read_fixture("openai_usage.json")
    assert sums_of(invoice) == {
        (FIRST, "gpt-4o-2024-08-06", C.INPUT, "", ""): (24_000, None),
        (FIRST, "gpt-4o-2024-08-06", C.INPUT_AUDIO, "", ""): (50, None),
        (FIRST, "gpt-4o-2024-08-06", C.CACHE_READ, "", ""): (10, None),
        (FIRST, "gpt-4o-2024-08-06", C.OUTPUT, "", ""): (10_000, None),
        (FIRST, "gpt-4o-2024-08-06", C.OUTPUT_AUDIO, "", ""): (40, None),
        (FIRST, "gpt-4o-2024-08-06", C.INPUT, "batch", ""): (1_000, None),
        (SECOND, "text-embedding-3-small", C.INPUT, "", ""): (77, None),
    }
    assert all(key.is_usage for key in invoice.sums)


def test_anthropic_amounts_are_cents() -> None:
    assert sums_of(read_fixture("anthropic_costs.json")) == {
        (FIRST, "claude-sonnet-4-5-20250929", C.INPUT, "", ""): (None, "1.2345"),
        (FIRST, "claude-sonnet-4-5-20250929", C.OUTPUT, "batch, long context", "us"): (None, "0.075"),
        (FIRST, "Web Search Usage", C.OTHER, "", ""): (None, "0.1"),
    }


def test_anthropic_costs_of_the_console() -> None:
    assert sums_of(read_fixture("anthropic_costs.csv")) == {
        (FIRST, "Claude Haiku 4.5", C.INPUT, "", ""): (None, "0.05"),
        (FIRST, "Claude Haiku 4.5", C.OUTPUT, "", ""): (None, "0.02"),
        (FIRST, "Claude Haiku 4.5", C.CACHE_READ, "", ""): (None, "0.01"),
    }


def test_anthropic_usage() -> None:
    model = "claude-sonnet-4-5-20250929"
    assert sums_of(read_fixture("anthropic_usage.json")) == {
        (FIRST, model, C.INPUT, "", ""): (1_500, None),
        (FIRST, model, C.CACHE_WRITE, "", ""): (1_500, None),
        (FIRST, model, C.CACHE_READ, "", ""): (200, None),
        (FIRST, model, C.OUTPUT, "", ""): (500, None),
    }
    assert sums_of(read_fixture("anthropic_usage.csv")) == {
        (FIRST, model, C.INPUT, "", ""): (46_981, None),
        (FIRST, model, C.CACHE_WRITE, "", ""): (15_969, None),
        (FIRST, model, C.OUTPUT, "", ""): (16_932, None),
        (FIRST, model, C.INPUT, "batch, long context", "us"): (250_000, None),
        (FIRST, model, C.OUTPUT, "batch, long context", "us"): (10, None),
    }


def test_aws_lines_are_those_of_bedrock_alone() -> None:
    assert sums_of(read_fixture("aws_cur2.csv")) == {
        (FIRST, "Claude4.5Sonnet", C.INPUT, "", "USW2"): (29_481, "0.0972873"),
        (FIRST, "Claude4.5Sonnet", C.OUTPUT, "", "USW2"): (31_102, "0.513183"),
        (FIRST, "Claude4.5Sonnet", C.CACHE_WRITE, "", "USW2"): (433_893, "1.789808625"),
        (FIRST, "Claude4Sonnet", C.CACHE_READ, "", "USE1-cross-region-global"): (5_000, "0.0015"),
        (SECOND, "Nova2.0Lite", C.INPUT, "batch", "USE1"): (2_000, "0.0001"),
        (SECOND, "credit", C.CREDIT, "", ""): (None, "-0.5"),
        (SECOND, "tax", C.TAX, "", ""): (None, "0.21"),
        (SECOND, "USE1-Guardrail-ContentPolicyUnits", C.OTHER, "", ""): (None, "0.45"),
    }


def test_the_earlier_report_of_aws_has_the_same_columns() -> None:
    header = "lineItem/UsageStartDate,lineItem/ProductCode,lineItem/UsageType,lineItem/UsageAmount,"
    header += "lineItem/CurrencyCode,lineItem/UnblendedCost,lineItem/LineItemType\n"
    row = "2026-11-01T00:00:00Z,AmazonBedrock,USE1-Claude4.5Sonnet-input-tokens,1,USD,0.003,Usage\n"
    assert sums_of(read("aws", header + row)) == {
        (FIRST, "Claude4.5Sonnet", C.INPUT, "", "USE1"): (1_000, "0.003"),
    }


def test_azure_meters() -> None:
    assert sums_of(read_fixture("azure_ea.csv")) == {
        (FIRST, "gpt 4o 1120", C.INPUT, "", "global"): (24_000, "0.06"),
        (FIRST, "gpt 4o 1120", C.CACHE_READ, "", "global"): (10_000, "0.0125"),
        (FIRST, "gpt 4o 1120", C.OUTPUT, "", "global"): (10_000, "0.1"),
        (FIRST, "5.5 ShortCo", C.OUTPUT, "", "data zone"): (500_000, "15"),
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("GPT 5 Inpt Glbl 1M Tokens", ("GPT 5", C.INPUT, "", "global")),
        ("gpt-4o-0806-Batch-Outp-glbl Tokens", ("gpt 4o 0806", C.OUTPUT, "batch", "global")),
        ("gpt4o audio Inp regnl Tokens", ("gpt4o", C.INPUT_AUDIO, "", "regional")),
        ("Inp Tokens", None),
        ("Provisioned Throughput Unit", None),
        ("", None),
    ],
)
def test_a_meter_of_azure_is_a_kind_of_tokens_or_nothing(name: str, parts: object) -> None:
    assert read_meter(name) == parts


def test_google_credits_stand_beside_the_cost() -> None:
    assert sums_of(read_fixture("google_billing.jsonl")) == {
        (FIRST, "Gemini 2.5 Flash GA", C.INPUT, "", ""): (1_000_000, "0.3"),
        (FIRST, "Gemini 2.5 Flash GA", C.OUTPUT, "", ""): (1_000_000, "2.5"),
        (FIRST, "Gemini 2.5 Flash GA", C.CACHE_READ, "", ""): (1_000_000, "0.03"),
        (FIRST, "credit", C.CREDIT, "", ""): (None, "-0.12"),
    }


CSV = "start_time,end_time,amount_value,amount_currency,line_item\n"
ROW = '1793491200,1793577600,{amount},{currency},"gpt-4o, input"\n'


def csv_of(amount: str = "1", currency: str = "usd") -> str:
    return CSV + ROW.format(amount=amount, currency=currency)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (csv_of(currency="eur"), "currency is 'eur'"),
        (csv_of(currency=""), "currency is not named"),
        (csv_of(amount="NaN"), "no number"),
        (csv_of(amount="Infinity"), "no number"),
        (csv_of(amount="1e99"), "out of range"),
        (csv_of(amount="9" * 1_000_000), "longer than|no number|no CSV"),
        (csv_of(amount="=1+1"), "no number"),
        (csv_of(amount="１"), "no number"),
        (csv_of(amount="5000000"), "out of range"),
        (csv_of(amount="1\0"), "NUL"),
        (CSV + "1793491200,1793577600,1\n", "columns"),
        (CSV + '1793491200,1793577600,1,usd,"open', "no CSV|too long"),
        (CSV + '1793491200,1793664000,1,usd,"gpt-4o, input"\n', "several days"),
        (CSV + '-1,1793664000,1,usd,"gpt-4o, input"\n', "seconds since 1970"),
        (CSV + "1793491200,1793577600,1,usd,\n", "group_by=line_item"),
        (CSV, "none of its 0 records"),
        ("", "no export of OpenAI"),
        ("a,b\n1,2\n", "no export of OpenAI"),
        ("x" * 3_000_000, "longer than"),
        (",".join(["c"] * 100_000), "columns"),
        (CSV.replace("\n", ",start_time\n"), "twice"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"data": 1}', "'data'"),
        ('{"data": [1]}', "'results'"),
        ('{"data": [{"results": [1]}]}', "object"),
        ('{"data": [{"results": [{"a": NaN}]}]}', "no amount"),
        ('{"data": [{"results": [{"a": ' + "9" * 100_000 + "}]}]}", "no number"),
        ('{"data": [{"results": [{"a": 1e99999999999999999999}]}]}', "no number"),
        ('{"data": [{"results": [{"model": "a\\u0000b"}]}]}', "no text"),
        ('{"data": [{"results": [{"model": "a\\ud800b"}]}]}', "no text"),
        (b"\xff\xfes\0t\0", "NUL|UTF-8"),
        ("\x80".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason(content: str | bytes, message: str) -> None:
    with pytest.raises(InvoiceUnreadable, match=message):
        read("openai", content)


@pytest.mark.parametrize(("end", "is_read"), [("2026-11-02T00:00:00.000Z", True), ("2026-12-01T00:00:00.000Z", False)])
def test_a_monthly_report_of_aws_is_refused(end: str, is_read: bool) -> None:
    header, first, *_ = (FIXTURES / "aws_cur2.csv").read_text().splitlines()
    text = f"{header},line_item_usage_end_date\n{first},{end}\n"
    if is_read:
        assert len(read("aws", text).sums) == 1
    else:
        with pytest.raises(InvoiceUnreadable, match="several days"):
            read("aws", text)


@pytest.mark.parametrize(
    "day", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "2019-12-31", "2026-13-01", ""]
)
def test_a_day_that_is_none_is_refused_with_its_reason(day: str) -> None:
    text = (FIXTURES / "aws_cur2.csv").read_text()
    old = "2026-11-01T23:00:00.000Z"
    assert old in text
    with pytest.raises(InvoiceUnreadable, match="line_item_usage_start_date"):
        read("aws", text.replace(old, day))


@pytest.mark.parametrize(
    ("source", "fixture", "old", "new"),
    [
        ("anthropic", "anthropic_costs.json", '"USD"', '"EUR"'),
        ("aws", "aws_cur2.csv", ",USD,0.0972873", ",CNY,0.0972873"),
        ("azure", "azure_ea.csv", "0.06,USD", "0.06,EUR"),
        ("google", "google_billing.jsonl", '"USD"', '"JPY"'),
    ],
)
def test_another_currency_is_never_taken_as_usd(source: str, fixture: str, old: str, new: str) -> None:
    text = (FIXTURES / fixture).read_text()
    assert old in text
    with pytest.raises(InvoiceUnreadable, match="currency"):
        read(source, text.replace(old, new, 1))


def test_a_column_in_usd_counts_before_another_currency() -> None:
    text = (FIXTURES / "azure_ea.csv").read_text().replace("USD", "EUR").replace("Tags", "CostInUsd")
    lines = text.splitlines()
    lines[1:] = [line.removesuffix(",") + ",7" for line in lines[1:]]
    amounts = [found.amount_pusd for found in read("azure", "\n".join(lines)).sums.values()]
    assert amounts == [7 * 10**12] * 4


def test_parts_larger_than_their_count_are_refused() -> None:
    text = (
        (FIXTURES / "openai_usage.json").read_text().replace('"input_cached_tokens":10', '"input_cached_tokens":99999')
    )
    with pytest.raises(InvoiceUnreadable, match="larger than the count"):
        read("openai", text)


def test_a_column_is_found_behind_a_byte_order_mark_and_windows_lines() -> None:
    raw = b"\xef\xbb\xbf" + csv_of("0.5").replace("\n", "\r\n").encode()
    assert [found.amount_pusd for found in read("openai", raw).sums.values()] == [5 * 10**11]


def test_amounts_are_rounded_once_half_even() -> None:
    rows = "".join(ROW.format(amount=amount, currency="usd") for amount in ["0.0000000000005"] * 3)
    assert [found.amount_pusd for found in read("openai", CSV + rows).sums.values()] == [2]


def test_the_digest_is_that_of_the_whole_file() -> None:
    one, other = read("openai", csv_of("1")), read("openai", csv_of("1") + "\n")
    assert one.digest != other.digest
    assert one.sums == other.sums


def test_a_usage_has_its_key_and_its_sum() -> None:
    [(key, found)] = read("openai", csv_of("1")).sums.items()
    assert key == LineKey(False, FIRST, "gpt-4o", "gpt-4o, input", C.INPUT, "", "")
    assert found == LineSum(None, 10**12)


@pytest.mark.parametrize(
    ("source", "fixture", "old"),
    [
        ("openai", "openai_costs.csv", "gpt-4o-2024-08-06, input"),
        ("aws", "aws_cur2.csv", "USW2-Claude4.5Sonnet-input-tokens"),
        ("azure", "azure_ea.csv", "gpt 4o 1120 Inp glbl Tokens"),
    ],
)
def test_an_endless_name_is_read_as_another_charge_at_once(source: str, fixture: str, old: str) -> None:
    text = (FIXTURES / fixture).read_text()
    assert old in text
    sums = read(source, text.replace(old, "a-" * 50_000)).sums
    assert any(key.component is C.OTHER and key.sku == ("a-" * 50_000)[:255] for key in sums)


def test_a_document_may_be_one_long_line() -> None:
    page = (FIXTURES / "openai_usage.json").read_text().splitlines()[0]
    long = page.replace('"object":"page"', '"object":"' + "page" * 600_000 + '"')
    assert read("openai", long).sums == read("openai", page).sums
