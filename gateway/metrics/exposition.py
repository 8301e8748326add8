"""The page at /metrics: the totals in Prometheus' text format, or in OpenMetrics' where the scraper asks for it.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. LiteLLM's names:
https://docs.litellm.ai/docs/proxy/prometheus.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from gateway.metrics.definitions import (
    BUILD,
    COST,
    CREDENTIALS_REFUSED,
    DEPLOYMENT_STATE,
    EJECTIONS,
    FIRST_TOKEN,
    METRICS,
    REQUEST_DURATION,
    REQUESTS,
    TOKENS,
    UPSTREAM_DURATION,
    Kind,
    Metric,
)
from gateway.metrics.recorder import INPUT_KINDS, OUTPUT_KINDS
from gateway.metrics.sharing import IN, Totals
from gateway.version import VERSION

#: Of more deployments than these only those are listed that are not healthy.
MOST_LISTED = 2_000
TOTAL = "_total"


class Format(StrEnum):
    """The content type of a page. The library's own choice fails for some headers, and repeats parts of others."""

    TEXT = CONTENT_TYPE_PLAIN_0_0_4
    OPENMETRICS = CONTENT_TYPE_LATEST


def choose_format(accept: str) -> Format:
    """OpenMetrics where the scraper names it, as Prometheus does."""
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return Format.OPENMETRICS if "application/openmetrics-text" in types else Format.TEXT


def make_page(totals: Totals, form: Format, *, with_litellm_names: bool = False) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(totals, with_litellm_names=with_litellm_names))
    encode = generate_openmetrics if form is Format.OPENMETRICS else generate_latest
    page: bytes = encode(registry)
    return page


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    """A Collector of prometheus_client."""

    totals: Totals
    with_litellm_names: bool

    def collect(self) -> Iterator[Family]:
        totals = self.totals
        rows = _group_by_name(totals)
        for metric in METRICS:
            if metric.kind is Kind.COUNTER:
                yield _counter(metric.name, metric.help, metric.labels, rows.get(metric.name, ()))
            elif metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric.name, metric, metric.labels[0], totals)
        for metric in METRICS:
            if metric.kind is Kind.GAUGE and metric.name in totals.gauges:
                yield GaugeMetricFamily(metric.name, metric.help, value=totals.gauges[metric.name])
        listed = list(_list_deployments(totals))
        yield _gauge(DEPLOYMENT_STATE.name, DEPLOYMENT_STATE, DEPLOYMENT_STATE.labels, listed)
        refused = [(labels, 1) for labels, _ in listed if labels[0] in totals.refused]
        yield _gauge(CREDENTIALS_REFUSED.name, CREDENTIALS_REFUSED, CREDENTIALS_REFUSED.labels, refused)
        yield _gauge(BUILD.name, BUILD, BUILD.labels, [((VERSION,), 1)])
        if self.with_litellm_names:
            yield from _litellm_families(totals, rows, listed)


#: (values of the labels, number)
_Row: TypeAlias = tuple[Sequence[str], float]


def _group_by_name(totals: Totals) -> Mapping[str, list[_Row]]:
    rows: dict[str, list[_Row]] = {}
    for (name, *labels), value in totals.numbers.counters.items():
        rows.setdefault(name, []).append((labels, value))
    return rows


def _list_deployments(totals: Totals) -> Iterator[_Row]:
    """(id, model group, provider) of each deployment, and its state."""
    lists_all = len(totals.targets) <= MOST_LISTED
    for name, target in totals.targets.items():
        state = totals.states.get(name, IN)
        if lists_all or state != IN or name in totals.refused:
            yield (name, target.model_group, target.provider.name), state


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[_Row]) -> Family:
    family = CounterMetricFamily(name.removesuffix(TOTAL), text, labels=labels)
    is_empty = True
    for values, value in rows:
        family.add_metric(values, value)
        is_empty = False
    if is_empty and not labels:
        family.add_metric((), 0)
    return family


def _gauge(name: str, metric: Metric, labels: Sequence[str], rows: Iterable[_Row]) -> Family:
    family = GaugeMetricFamily(name, metric.help, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, metric: Metric, label: str, totals: Totals) -> Family:
    family = HistogramMetricFamily(name, metric.help, labels=(label,))
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    for series, buckets in totals.numbers.histograms.items():
        if series[0] == metric.name:
            *counts, total = buckets
            family.add_metric(series[1:], list(zip(bounds, accumulate(counts), strict=True)), total)
    return family


def _litellm_families(totals: Totals, rows: Mapping[str, Sequence[_Row]], listed: Sequence[_Row]) -> Iterator[Family]:
    """LiteLLM's metrics that have a counterpart here, with those of its labels that have one."""
    requests = [((group, endpoint, status), value) for (endpoint, group, status), value in rows.get(REQUESTS.name, ())]
    failed = [(labels, value) for labels, value in requests if not labels[2].startswith("2")]
    labels = ("requested_model", "route")
    yield _counter("litellm_proxy_total_requests_metric", REQUESTS.help, (*labels, "status_code"), requests)
    yield _counter("litellm_proxy_failed_requests_metric", REQUESTS.help, (*labels, "exception_status"), failed)
    deployment = ("model_id", "model")
    yield _counter("litellm_spend_metric", COST.help, deployment, rows.get(COST.name, ()))
    for name, kinds in (("litellm_input_tokens_metric", INPUT_KINDS), ("litellm_output_tokens_metric", OUTPUT_KINDS)):
        sums: Counter[tuple[str, str]] = Counter()
        for (model_id, group, kind), value in rows.get(TOKENS.name, ()):
            if kind in kinds:
                sums[model_id, group] += int(value)
        yield _counter(name, TOKENS.help, deployment, sums.items())
    yield _histogram("litellm_llm_api_latency_metric", UPSTREAM_DURATION, "model", totals)
    yield _histogram("litellm_llm_api_time_to_first_token_metric", FIRST_TOKEN, "model", totals)
    yield _histogram("litellm_request_total_latency_metric", REQUEST_DURATION, "requested_model", totals)
    yield _gauge("litellm_deployment_state", DEPLOYMENT_STATE, (*deployment, "api_provider"), listed)
    ejections = rows.get(EJECTIONS.name, ())
    yield _counter("litellm_deployment_cooled_down", EJECTIONS.help, ("model_id", "exception_class"), ejections)
