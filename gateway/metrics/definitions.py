"""The metrics at /metrics, each with its type, its labels and its meaning, as docs/metrics.md lists them.

The values of labels come from the configuration and from fixed lists: no client can add one.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """`buckets`: the upper bounds of a histogram's buckets, without the infinite one."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 3, 5, 10, 30, 60)

REQUESTS = Metric(
    "tollgate_requests_total",
    Kind.COUNTER,
    "Requests of the data plane that have ended, by the status of the answer; 499: the client left; of a stream that "
    "broke off, the status of its error.",
    ("endpoint", "model_group", "status"),
)
REQUEST_DURATION = Metric(
    "tollgate_request_duration_seconds",
    Kind.HISTOGRAM,
    "From the head of a request to its last byte, of requests that name a model group.",
    ("model_group",),
    SECONDS,
)
FIRST_TOKEN = Metric(
    "tollgate_time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "From the head of a request to the first event of its stream.",
    ("model_group",),
    FIRST_TOKEN_SECONDS,
)
OPEN_REQUESTS = Metric("tollgate_open_requests", Kind.GAUGE, "Requests of the data plane that are being answered.")
REFUSALS = Metric(
    "tollgate_refusals_total",
    Kind.COUNTER,
    "Requests that a rate limit, a budget or a lack of deployments has refused.",
    ("model_group", "reason"),
)
CACHE_HITS = Metric(
    "tollgate_response_cache_hits_total",
    Kind.COUNTER,
    "Calls that the response cache has answered.",
    ("model_group",),
)
ATTEMPTS = Metric(
    "tollgate_attempts_total",
    Kind.COUNTER,
    "Attempts at upstreams, probes included, by their outcome: ok, or the class of the error.",
    ("deployment", "model_group", "outcome"),
)
EXTRA_ATTEMPTS = Metric(
    "tollgate_extra_attempts_total",
    Kind.COUNTER,
    "Attempts after the first one of a request: retries, fallbacks, hedges and continuations.",
    ("model_group", "reason"),
)
UPSTREAM_DURATION = Metric(
    "tollgate_upstream_duration_seconds",
    Kind.HISTOGRAM,
    "Attempts that an upstream has answered to the end, from their start.",
    ("model_group",),
    SECONDS,
)
RETRY_BUDGET_REFUSALS = Metric(
    "tollgate_retry_budget_refusals_total",
    Kind.COUNTER,
    "Retries, fallbacks, hedges and continuations that were not made because the retry budget was spent.",
)
DEPLOYMENT_STATE = Metric(
    "tollgate_deployment_state",
    Kind.GAUGE,
    "0: in its group; 1: half open, one call at a time tries it; 2: out. The worst of all processes.",
    ("deployment", "model_group", "provider"),
)
CREDENTIALS_REFUSED = Metric(
    "tollgate_deployment_credentials_refused",
    Kind.GAUGE,
    "1 while the upstream refuses the deployment's credential.",
    ("deployment", "model_group", "provider"),
)
EJECTIONS = Metric(
    "tollgate_deployment_ejections_total",
    Kind.COUNTER,
    "Times that a breaker has taken a deployment, or one model of it, out of its group, by the class of the error.",
    ("deployment", "error_class"),
)
TOKENS = Metric(
    "tollgate_tokens_total",
    Kind.COUNTER,
    "Tokens of attempts, in disjoint kinds.",
    ("deployment", "model_group", "kind"),
)
COST = Metric(
    "tollgate_cost_usd_total",
    Kind.COUNTER,
    "Cost of attempts in USD, rounded as floating-point numbers are; the spend log is exact.",
    ("deployment", "model_group"),
)
WRITE_QUEUE = Metric("tollgate_write_queue_length", Kind.GAUGE, "Units of rows that wait for the database.")
SPOOL = Metric(
    "tollgate_spool_bytes", Kind.GAUGE, "Bytes of rows in the spools of the running processes: the database was away."
)
PRICING_BACKLOG = Metric(
    "tollgate_pricing_backlog_rows", Kind.GAUGE, "Spend rows that wait for their price, at most 10000."
)
PRICING_LAG = Metric(
    "tollgate_pricing_lag_seconds", Kind.GAUGE, "Age of the oldest spend row that waits for its price."
)
UNPRICED = Metric("tollgate_unpriced_rows", Kind.GAUGE, "Spend rows that no price covers, at most 10000.")
DATABASE_UP = Metric("tollgate_database_up", Kind.GAUGE, "1 while the database answers every process and takes writes.")
PROCESSES = Metric("tollgate_processes", Kind.GAUGE, "Processes of this home whose numbers are in the sums.")
BUILD = Metric("tollgate_build_info", Kind.GAUGE, "Always 1; the label is the version.", ("version",))

METRICS = (
    REQUESTS,
    REQUEST_DURATION,
    FIRST_TOKEN,
    OPEN_REQUESTS,
    REFUSALS,
    CACHE_HITS,
    ATTEMPTS,
    EXTRA_ATTEMPTS,
    UPSTREAM_DURATION,
    RETRY_BUDGET_REFUSALS,
    DEPLOYMENT_STATE,
    CREDENTIALS_REFUSED,
    EJECTIONS,
    TOKENS,
    COST,
    WRITE_QUEUE,
    SPOOL,
    PRICING_BACKLOG,
    PRICING_LAG,
    UNPRICED,
    DATABASE_UP,
    PROCESSES,
    BUILD,
)
BY_NAME = {metric.name: metric for metric in METRICS}
