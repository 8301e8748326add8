"""Many open streams at once: memory per stream, CPU per event that arrives alone, event transit."""

import time
from dataclasses import dataclass
from pathlib import Path

from load import Load, Tools
from machine import cpu_between, cpu_us, rss_mb
from targets import Target

SECONDS = 3.0  # how long one stream lasts


@dataclass(frozen=True, slots=True)
class StreamsResult:
    """`kb_per_stream` and `us_per_event` are None where the target is not measured (the upstream itself)."""

    target: str
    streams: int
    gap_ms: float
    kb_per_stream: float | None
    us_per_event: float | None
    load: Load


def chunks_for(gap_ms: float) -> int:
    return max(2, round(SECONDS * 1000 / gap_ms))


def measure_streams(
    target: Target, *, tools: Tools, bodies: dict[str, Path], streams: int, gap_ms: float
) -> tuple[StreamsResult, Load]:
    """Open all streams at once, let each run to its end; also returns the warm-up, whose requests count too.

    The target should be freshly started: memory it has freed before would be used again and not be seen.
    """
    warmup = tools.drive(
        port=target.port,
        body=bodies["streamed"],
        connections=2,
        seconds=SECONDS * 2,
        once=True,
        key=target.key,
    )
    resting = peak = rss_mb(target.web())

    def sample() -> None:
        nonlocal peak
        peak = max(peak, rss_mb(target.web()))

    before = cpu_us(target.web())
    load = tools.drive(
        port=target.port,
        body=bodies["streamed"],
        connections=streams,
        seconds=SECONDS * 4,
        transit=True,
        once=True,
        key=target.key,
        meanwhile=sample,
    )
    time.sleep(0.1)  # what follows the last frame belongs to the streams
    used = cpu_between(before, cpu_us(target.web()))
    events = load.events or streams * chunks_for(gap_ms)
    measured = target.pid is not None
    result = StreamsResult(
        target=target.name,
        streams=streams,
        gap_ms=gap_ms,
        kb_per_stream=(peak - resting) * 1024 / streams if measured else None,
        us_per_event=used / events if measured else None,
        load=load,
    )
    return result, warmup
