"""From the turns of a run to its tables, its comparison with the limits and the plain words at the end."""

import json
import os
import platform
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from books import Verdict
from load import Load
from machine import Cores
from sessions import STORED_LIMIT, TURNS, Sessions
from streams import StreamsResult

SCENARIOS = ("plain", "streamed")
CONNECTIONS = (1, 50)
TARGETS = ("direct", "nginx", "tollgate")

# "+" is added to the direct upstream; web, workers and db are CPU.
LOAD_COLUMNS = ("req/s", "/nginx", "/direct", "p50", "p99", "+p50", "+p99", "+first", "transit")
COST_COLUMNS = ("web", "workers", "db", "RSS MB", "errors")
DECODING_LIMIT_US = 25
STREAM_COLUMNS = ("KB each", "CPU/event", "transit50", "transit99", "first50", "ended ok")


@dataclass(frozen=True, slots=True)
class Turn:
    """One target driven once: CPU in microseconds per request, None where there is no such process."""

    round: int
    scenario: str
    connections: int
    target: str
    load: Load
    web_us: float | None
    worker_us: float | None
    database_us: float | None
    rss_mb: float | None


@dataclass(frozen=True, slots=True)
class Decoding:
    """One provider's stream decoded and encoded anew: CPU in microseconds per chunk of the upstream, by round."""

    name: str
    chunks: int
    rounds_us: list[float]

    @property
    def us(self) -> float:
        return median(self.rounds_us)


@dataclass(frozen=True, slots=True)
class Limit:
    """A promise, and the function that finds its measured figure in a report."""

    text: str
    value: Callable[["Report"], float | None]
    bound: Callable[["Report"], float]
    at_least: bool = False


@dataclass(slots=True)
class Report:
    """Everything one run has measured."""

    seconds: float
    rounds: int
    database: str
    cores: Cores
    fsync_us: float
    cold_start_s: float = 0.0
    warm_start_s: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    streams: list[StreamsResult] = field(default_factory=list)
    decoding: list[Decoding] = field(default_factory=list)
    sessions: Sessions | None = None
    resident_mb: float | None = None  # all processes of the embedded default, after the load
    worker_us_per_row: float | None = None
    verdict: Verdict | None = None

    # Figures: medians over the rounds; what compares two targets compares them inside one round first.

    def of(self, scenario: str, connections: int, target: str) -> list[Turn]:
        wanted = (scenario, connections, target)
        return [turn for turn in self.turns if (turn.scenario, turn.connections, turn.target) == wanted]

    def middle(
        self, scenario: str, connections: int, target: str, figure: Callable[[Turn], float | None]
    ) -> float | None:
        return _median(figure(turn) for turn in self.of(scenario, connections, target))

    def against(
        self,
        other: str,
        scenario: str,
        connections: int,
        target: str,
        compare: Callable[[Load, Load], float],
    ) -> float | None:
        """Median of a comparison made inside each round."""
        others = {turn.round: turn for turn in self.of(scenario, connections, other)}
        return _median(
            compare(turn.load, others[turn.round].load)
            for turn in self.of(scenario, connections, target)
            if turn.round in others
        )

    def added(self, scenario: str, connections: int, target: str, figure: Callable[[Load], float]) -> float | None:
        if target == "direct":
            return None
        return self.against("direct", scenario, connections, target, lambda a, b: figure(a) - figure(b))

    def ratio(self, other: str, scenario: str, connections: int, target: str) -> float | None:
        return self.against(other, scenario, connections, target, lambda a, b: a.rps / b.rps if b.rps else 0.0)

    # Output

    def text(self, *, details: bool) -> str:
        """The one table of figures and limits; with `details` the tables that they come from before it."""
        parts = [self._heading()]
        if details and self.turns:
            parts += [self._table(scenario, n) for scenario in SCENARIOS for n in CONNECTIONS]
        if details and self.streams:
            parts.append(self._streams_table())
        if details and self.decoding:
            parts.append(decoding_table(self.decoding))
        if details and self.sessions is not None:
            parts.append(self.sessions.text())
        parts += [self._limits(), self._words()]
        return "\n\n".join(parts)

    def _heading(self) -> str:
        return (
            f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}, database {self.database}\n"
            f"one fsync (4 KB append + fdatasync, median of 200): {self.fsync_us:.0f} µs\n"
            f"start to readiness 200: first {self.cold_start_s:.2f} s (with migrations), "
            f"again {self.warm_start_s:.2f} s"
        )

    def _table(self, scenario: str, connections: int) -> str:
        head = f"[{scenario}, {connections} connection{'s' if connections > 1 else ''}] "
        head += f"rounds: {self.rounds}, tollgate {self.seconds:g} s in each; times in µs; "
        head += "web, workers, db: CPU µs per request"
        lines = [head, " " * 9 + "".join(f"{title:>9s}" for title in LOAD_COLUMNS + COST_COLUMNS)]
        for target in TARGETS:
            turns = self.of(scenario, connections, target)
            if not turns:
                continue
            place = (scenario, connections, target)
            transit = self.middle(*place, lambda turn: turn.load.tr50) if scenario == "streamed" else None
            errors = sum(turn.load.non200 + turn.load.errors for turn in turns)
            cells = [
                _number(self.middle(*place, lambda turn: turn.load.rps)),
                _number(self.ratio("nginx", *place), 3),
                _number(self.ratio("direct", *place), 3),
                _number(self.middle(*place, lambda turn: turn.load.p50)),
                _number(self.middle(*place, lambda turn: turn.load.p99)),
                _number(self.added(*place, lambda load: load.p50)),
                _number(self.added(*place, lambda load: load.p99)),
                _number(self.added(*place, lambda load: load.ttfb50)),
                _number(transit or None),  # 0 when no event carried the upstream's time
                _number(self.middle(*place, lambda turn: turn.web_us)),
                _number(self.middle(*place, lambda turn: turn.worker_us)),
                _number(self.middle(*place, lambda turn: turn.database_us)),
                _number(self.middle(*place, lambda turn: turn.rss_mb)),
                str(errors),
            ]
            lines.append(f"{target:9s}" + "".join(f"{cell:>9s}" for cell in cells))
        return "\n".join(lines)

    def _streams_table(self) -> str:
        first = self.streams[0]
        lines = [f"[{first.streams} open streams, one event each every {first.gap_ms:g} ms]"]
        lines.append(" " * 9 + "".join(f"{title:>10s}" for title in STREAM_COLUMNS))
        for result in self.streams:
            cells = [_number(result.kb_per_stream, 1), _number(result.us_per_event, 1)]
            cells += [_number(result.load.tr50), _number(result.load.tr99), _number(result.load.ttfb50)]
            cells.append(f"{result.load.ok}/{result.streams}")
            lines.append(f"{result.target:9s}" + "".join(f"{cell:>10s}" for cell in cells))
        return "\n".join(lines)

    def _limits(self) -> str:
        lines = [f"{'figure':72s}{'limit':>9s}{'measured':>10s}"]
        for limit in LIMITS:
            value, bound = limit.value(self), limit.bound(self)
            if value is None:
                outcome = "not measured"
            else:
                outcome = "ok" if (value >= bound if limit.at_least else value <= bound) else "MISSED"
            digits = 3 if abs(bound) < 1 else 1 if bound < 10 else 0
            lines.append(f"{limit.text:72s}{_number(bound, digits):>9s}{_number(value, digits):>10s}  {outcome}")
        return "\n".join(lines)

    def _words(self) -> str:
        pinned = self.cores.target is not None
        place = "pinned to one core, the load generator and the mock upstream to another" if pinned else "not pinned"
        lines = []
        if self.verdict:
            lines.append(str(self.verdict))
        if self.worker_us_per_row is not None:
            lines.append(f"pricing: {self.worker_us_per_row:.0f} µs of worker CPU per row, over the whole run")
        share, web = self.ratio("nginx", "plain", 50, "tollgate"), _web(self, "plain", 50)
        p50 = self.added("plain", 1, "tollgate", lambda load: load.p50)
        if web is not None and p50 is not None:
            nginx = f", {share:.1%} of nginx's requests per second" if share is not None else ""
            lines.append(
                "In short: with keys, durable spend rows and pricing on, one web process spends "
                f"{web:.0f} µs of CPU on a plain request at 50 connections{nginx}, "
                f"and adds {p50 / 1000:.2f} ms to a lone one (one fsync is {self.fsync_us / 1000:.2f} ms)."
            )
        lines.append(
            "Method: direct upstream, nginx proxy_pass and Tollgate take turns in every round "
            f"({self.rounds}), so that disturbances fall on all alike; the one driven is {place}. "
            "Each figure is the median over the rounds; ratios and added times are taken inside a round. "
            "CPU per request is steady from run to run; requests per second are so only as a ratio."
        )
        return "\n".join(textwrap.fill(line, 110) for line in lines)

    def write_json(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def decoding_table(results: list[Decoding]) -> str:
    rounds = f"median of {len(results[0].rounds_us)} rounds, Python {platform.python_version()}"
    lines = [
        f"[decoding one stream of about {results[0].chunks} chunks; {rounds}; at most {DECODING_LIMIT_US} µs]",
        f"{'CPU per chunk, µs':32s}{'median':>9s}{'least':>9s}{'most':>9s}",
    ]
    for result in results:
        cells = [_number(figure, 1) for figure in (result.us, min(result.rounds_us), max(result.rounds_us))]
        outcome = "" if result.us <= DECODING_LIMIT_US else "  MISSED"
        lines.append(f"{result.name:32s}" + "".join(f"{cell:>9s}" for cell in cells) + outcome)
    return "\n".join(lines)


def _median(figures: Iterable[float | None]) -> float | None:
    values = [figure for figure in figures if figure is not None]
    return median(values) if values else None


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _web(report: Report, scenario: str, connections: int) -> float | None:
    return report.middle(scenario, connections, "tollgate", lambda turn: turn.web_us)


def _first_byte_ms(report: Report) -> float | None:
    added = report.added("streamed", 1, "tollgate", lambda load: load.ttfb50)
    return None if added is None else added / 1000


def _lone_request_ms(report: Report) -> float | None:
    added = report.added("plain", 1, "tollgate", lambda load: load.p50)
    return None if added is None else added / 1000


def _event_us(report: Report) -> float | None:
    return _median(result.us_per_event for result in report.streams if result.target == "tollgate")


def _slowest_decoding(report: Report) -> float | None:
    return max((result.us for result in report.decoding), default=None)


def _web_of_nginx(report: Report) -> float | None:
    """Within each round, since a machine that slows down slows both."""
    return _of_nginx(report, lambda turn: turn.web_us)


def _pricing_of_nginx(report: Report) -> float | None:
    nginx = report.middle("plain", 50, "nginx", lambda turn: turn.web_us)
    return report.worker_us_per_row / nginx if report.worker_us_per_row and nginx else None


def _of_nginx(report: Report, figure: Callable[[Turn], float | None]) -> float | None:
    others = {turn.round: turn.web_us for turn in report.of("plain", 50, "nginx")}
    ratios = []
    for turn in report.of("plain", 50, "tollgate"):
        own, other = figure(turn), others.get(turn.round)
        ratios.append(own / other if own is not None and other else None)
    return _median(ratios)


def _storing_share(report: Report, turns: int) -> float | None:
    return None if report.sessions is None else median(report.sessions.added(turns)[1])


def _stream_growth_mb(report: Report) -> float | None:
    return None if report.sessions is None else report.sessions.rss_last_mb - report.sessions.rss_first_mb


def _largest_rss(report: Report) -> float | None:
    sizes = [turn.rss_mb for turn in report.turns if turn.target == "tollgate" and turn.rss_mb is not None]
    return max(sizes, default=None)


LIMITS = (
    Limit("plain, 50 connections: web CPU per request, µs", lambda r: _web(r, "plain", 50), lambda r: 200),
    Limit("plain, 50 connections: web CPU per request, times nginx's", _web_of_nginx, lambda r: 9),
    Limit("pricing: worker CPU per row, times nginx's per request", _pricing_of_nginx, lambda r: 3),
    Limit(
        "plain, 50 connections: share of nginx's requests per second",
        lambda r: r.ratio("nginx", "plain", 50, "tollgate"),
        lambda r: 0.05,
        at_least=True,
    ),
    Limit(
        "plain, 1 connection: added p50, ms (0.8 + one fsync)",
        _lone_request_ms,
        lambda r: 0.8 + r.fsync_us / 1000,
    ),
    Limit("streamed, 1 connection: added to the first byte, ms", _first_byte_ms, lambda r: 0.3),
    Limit("open streams: web CPU per uncoalesced event, µs", _event_us, lambda r: 45),
    Limit(
        "decoding a stream: CPU per chunk of the slowest provider, µs", _slowest_decoding, lambda r: DECODING_LIMIT_US
    ),
    Limit("storing a response, turn 1: share of chat's CPU", lambda r: _storing_share(r, 1), lambda r: STORED_LIMIT),
    Limit(
        f"storing a response, turn {TURNS}: share of chat's CPU",
        lambda r: _storing_share(r, TURNS),
        lambda r: STORED_LIMIT,
    ),
    Limit("RSS of the web process, MB (largest seen)", _largest_rss, lambda r: 110),
    Limit("RSS of the web process: growth from 1,000 to 10,000 stored streams, MB", _stream_growth_mb, lambda r: 10),
    Limit("RSS of the whole embedded default, MB", lambda r: r.resident_mb, lambda r: 230),
    Limit("warm start to readiness, s", lambda r: r.warm_start_s or None, lambda r: 3),
)
