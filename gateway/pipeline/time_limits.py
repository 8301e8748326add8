"""The time limits of a request and of each of its attempts: the shortest of those that apply. Units: seconds."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.protocol.errors import BadRequest
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts

#: A longer time than this is no limit.
LONGEST_S = 1e6
MAX_CHARS = 40
NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,9})?(?:[eE][+-]?[0-9]{1,3})?")
MILLISECONDS = re.compile(r"[0-9]{1,20}")
#: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")
GRPC_UNITS = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}
#: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter
ENVOY_HEADER = b"x-envoy-expected-rq-timeout-ms"
GRPC_HEADER = b"grpc-timeout"
INSTANT_HEADER = b"x-request-deadline"
DEADLINE_HEADERS = frozenset({ENVOY_HEADER, GRPC_HEADER, INSTANT_HEADER})


@dataclass(frozen=True, slots=True)
class ClientTime:
    """The time that a client allows for a request, for all attempts together. Instants are seconds since the epoch."""

    answer_by: float = math.inf  # the whole answer, or the first event of a stream
    end_by: float = math.inf  # the end of a stream too

    def left_s(self, now: float) -> float:
        """Below 0 where the time is over."""
        return min(self.answer_by, self.end_by) - now


UNHURRIED = ClientTime()


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The limits of one attempt. `is_first_clients`, `is_total_clients`: the client has set the limit."""

    first_s: float  # to the whole answer, or to the first event of a stream
    idle_s: float = math.inf  # the longest silence of a stream, once its head is there
    total_s: float = math.inf  # to the end of a stream
    connect_s: float | None = None  # None: as the upstream client is set
    is_first_clients: bool = False
    is_total_clients: bool = False


def read_client_time(headers: Mapping[bytes, bytes], timeout_s: float | None, now: float) -> ClientTime:
    """`timeout_s`: to the answer, as the request itself says; the deadline is the shortest of DEADLINE_HEADERS. Raises
    BadRequest naming the header."""
    if timeout_s is None and DEADLINE_HEADERS.isdisjoint(headers):
        return UNHURRIED
    answer_by = math.inf if timeout_s is None else now + timeout_s
    return ClientTime(answer_by, min(_read_deadline(name, headers, now) for name in DEADLINE_HEADERS))


def read_seconds(name: bytes, value: bytes) -> float:
    """A positive number of seconds, at most LONGEST_S. Raises BadRequest naming the header."""
    text = value.decode("latin-1").strip()
    seconds = float(text) if len(text) <= MAX_CHARS and NUMBER.fullmatch(text) else 0.0
    if not 0 < seconds < math.inf:
        raise _invalid(name, "a positive number of seconds")
    return min(seconds, LONGEST_S)


def _read_deadline(name: bytes, headers: Mapping[bytes, bytes], now: float) -> float:
    value = headers.get(name)
    if value is None:
        return math.inf
    text = value.decode("latin-1").strip()[: MAX_CHARS + 1]
    if name == INSTANT_HEADER:
        return min(_read_instant(text), now + LONGEST_S)
    seconds = 0.0
    if name == GRPC_HEADER:
        match = GRPC.fullmatch(text)
        what = "a positive whole number of at most 8 digits and a unit of H, M, S, m, u or n"
        seconds = int(match[1]) * GRPC_UNITS[match[2]] if match else 0.0
    else:
        what = "a positive whole number of milliseconds"
        seconds = int(text) / 1000 if MILLISECONDS.fullmatch(text) else 0.0
    if seconds <= 0:
        raise _invalid(name, what)
    return now + min(seconds, LONGEST_S)


def _read_instant(text: str) -> float:
    """RFC 3339, with its offset from UTC."""
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None and len(text) <= MAX_CHARS:  # what is longer was cut
            return instant.timestamp()
    except (ValueError, OverflowError):
        pass
    raise _invalid(INSTANT_HEADER, "an instant such as 2026-01-31T12:00:00Z")


def _invalid(name: bytes, what: str) -> BadRequest:
    return BadRequest(f"{name.decode()} must be {what}.", param=name.decode())


def limit_attempt(
    layers: Sequence[Timeouts], defaults: Timeouts, client: ClientTime, now: float, *, is_stream: bool
) -> AttemptLimits:
    """`layers`: those of the deployment, its group and the key. `defaults` stand in where none of these has one."""
    own = layers[0] if len(layers) == 1 else _fold(layers, is_stream=is_stream) if layers else NO_TIMEOUTS
    first_s = own.first_s(is_stream=is_stream) or defaults.first_s(is_stream=is_stream) or math.inf
    total_s = math.inf
    if is_stream:
        total_s = own.max_stream_duration_s or defaults.max_stream_duration_s or math.inf
    idle_s = own.stream_idle_timeout_s or defaults.stream_idle_timeout_s or math.inf
    connect_s = own.connect_timeout_s or defaults.connect_timeout_s
    if client is UNHURRIED:
        return AttemptLimits(first_s, idle_s, total_s, connect_s)
    client_first_s, client_total_s = client.left_s(now), client.end_by - now
    return AttemptLimits(
        first_s=min(first_s, client_first_s),
        idle_s=idle_s,
        total_s=min(total_s, client_total_s),
        connect_s=connect_s,
        is_first_clients=client_first_s < first_s,
        is_total_clients=client_total_s < total_s,
    )


def _fold(layers: Sequence[Timeouts], *, is_stream: bool) -> Timeouts:
    """The shortest of each limit."""
    first_s = _shortest([own.first_s(is_stream=is_stream) for own in layers])
    return Timeouts(
        timeout_s=first_s,
        stream_timeout_s=first_s,
        connect_timeout_s=_shortest([own.connect_timeout_s for own in layers]),
        stream_idle_timeout_s=_shortest([own.stream_idle_timeout_s for own in layers]),
        max_stream_duration_s=_shortest([own.max_stream_duration_s for own in layers]),
    )


def _shortest(limits: Sequence[float | None]) -> float | None:
    return min([limit for limit in limits if limit is not None], default=None)
