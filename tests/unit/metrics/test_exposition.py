"""The page at /metrics: what Prometheus' own parser reads from it."""

from collections.abc import Mapping

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.metrics.definitions import DATABASE_UP, METRICS, OPEN_REQUESTS, Kind
from gateway.metrics.exposition import MOST_LISTED, Format, choose_format, make_page
from gateway.metrics.numbers import Numbers
from gateway.metrics.process_files import ProcessReport
from gateway.metrics.sharing import HALF_OPEN, OUT, Totals, add_up
from gateway.protocol.provider import Target
from tests.fakes.memory import target

HOSTILE = 'a"b\\c\nd} 1\n{'


def totals(numbers: Numbers | None = None, targets: Mapping[str, Target] | None = None, **changes: int) -> Totals:
    report = ProcessReport(numbers or Numbers(), {OPEN_REQUESTS.name: 2, DATABASE_UP.name: 1}, changes)
    return add_up([report], Numbers(), {}, targets or {})


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in read_text(page.decode())
        for sample in family.samples
    }


def test_a_label_cannot_break_out_of_its_line() -> None:
    numbers = Numbers({("tollgate_attempts_total", HOSTILE, "g", "ok"): 4})
    found = samples(make_page(totals(numbers), Format.TEXT))
    assert found["tollgate_attempts_total", (("deployment", HOSTILE), ("model_group", "g"), ("outcome", "ok"))] == 4


def test_a_histogram_is_cumulative_and_has_its_count_and_sum() -> None:
    metric = next(metric for metric in METRICS if metric.kind is Kind.HISTOGRAM)
    numbers = Numbers()
    for value in (0.01, 0.3, 1e9):
        numbers.observe(metric, "g", value)
    found = samples(make_page(totals(numbers), Format.TEXT))
    counts = [value for (name, _), value in found.items() if name == f"{metric.name}_bucket"]
    assert counts == sorted(counts)
    assert len(counts) == len(metric.buckets) + 1
    assert found[f"{metric.name}_count", (("model_group", "g"),)] == 3
    assert found[f"{metric.name}_sum", (("model_group", "g"),)] == pytest.approx(1e9 + 0.31)


@pytest.mark.parametrize("with_litellm_names", [False, True])
def test_openmetrics_is_answered_where_it_is_asked_for(with_litellm_names: bool) -> None:
    page = make_page(totals(), Format.OPENMETRICS, with_litellm_names=with_litellm_names)
    assert list(read_openmetrics(page.decode()))


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/plain;version=1.0.0;escaping=zzz", Format.TEXT),
        ("text/html, application/OpenMetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5", Format.OPENMETRICS),
        ("application/openmetrics-text;version=abc", Format.OPENMETRICS),
        ("application/openmetrics-text;version=" + "9" * 5000, Format.OPENMETRICS),
        ("," * 5000, Format.TEXT),
    ],
)
def test_any_accept_header_gets_one_of_two_content_types(accept: str, form: Format) -> None:
    assert choose_format(accept) is form


def test_the_worst_state_of_all_processes_counts_and_gauges_add_up() -> None:
    reports = [
        ProcessReport(gauges={OPEN_REQUESTS.name: 2, DATABASE_UP.name: 1}, states={"first": HALF_OPEN}),
        ProcessReport(gauges={OPEN_REQUESTS.name: 3, DATABASE_UP.name: 0}, states={"first": OUT}, refused=("first",)),
    ]
    page = make_page(
        add_up(reports, Numbers(), {}, {"first": target("first"), "second": target("second")}), Format.TEXT
    )
    found = samples(page)
    labels = {
        name: (("deployment", name), ("model_group", "public"), ("provider", "openai_compatible"))
        for name in ("first", "second")
    }
    assert found["tollgate_open_requests", ()] == 5
    assert found["tollgate_database_up", ()] == 0
    assert found["tollgate_processes", ()] == 2
    assert found["tollgate_deployment_state", labels["first"]] == OUT
    assert found["tollgate_deployment_state", labels["second"]] == 0
    assert found["tollgate_deployment_credentials_refused", labels["first"]] == 1


def test_of_very_many_deployments_only_the_unhealthy_are_listed() -> None:
    targets = {f"d{index}": target(f"d{index}") for index in range(MOST_LISTED + 1)}
    found = samples(make_page(totals(targets=targets, d7=OUT), Format.TEXT))
    assert [name for name, _ in found if name == "tollgate_deployment_state"] == ["tollgate_deployment_state"]


def test_litellms_names_come_on_request_with_the_same_numbers() -> None:
    numbers = Numbers(
        {
            ("tollgate_requests_total", "chat", "g", "200"): 5,
            ("tollgate_requests_total", "chat", "g", "429"): 2,
            ("tollgate_tokens_total", "d", "g", "input"): 10,
            ("tollgate_tokens_total", "d", "g", "cache_read"): 5,
            ("tollgate_tokens_total", "d", "g", "reasoning"): 3,
        }
    )
    assert b"litellm_" not in make_page(totals(numbers), Format.TEXT)
    found = samples(make_page(totals(numbers), Format.TEXT, with_litellm_names=True))
    sums = {name: sum(value for (other, _), value in found.items() if other == name) for name, _ in found}
    assert sums["litellm_proxy_total_requests_metric_total"] == 7
    assert sums["litellm_proxy_failed_requests_metric_total"] == 2
    assert sums["litellm_input_tokens_metric_total"] == 15
    assert sums["litellm_output_tokens_metric_total"] == 3
