"""Timeouts: the time limits that a deployment, a model group or the installation sets. Units: seconds.

Names: LiteLLM's `timeout` and `stream_timeout`; Envoy's `connect_timeout`, `stream_idle_timeout` and
`max_stream_duration` (https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts).
"""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """None: not limited here."""

    timeout_s: float | None = None  # to the whole answer; to the first event of a stream that has no limit of its own
    stream_timeout_s: float | None = None  # to the first event of a stream
    connect_timeout_s: float | None = None
    stream_idle_timeout_s: float | None = None  # the longest silence within a stream
    max_stream_duration_s: float | None = None  # to the end of a stream

    def first_s(self, *, is_stream: bool) -> float | None:
        """To the first event of a stream, or to the whole answer."""
        return self.stream_timeout_s or self.timeout_s if is_stream else self.timeout_s

    def shortest(self, other: "Timeouts") -> "Timeouts":
        """The shorter of each two limits."""
        if other == NO_TIMEOUTS:
            return self
        return Timeouts(*[_shorter(getattr(self, name), getattr(other, name)) for name in NAMES])

    def or_else(self, defaults: "Timeouts") -> "Timeouts":
        """With `defaults` in the place of what is missing."""
        if self is NO_TIMEOUTS or self == NO_TIMEOUTS:
            return defaults
        return Timeouts(*[getattr(self, name) or getattr(defaults, name) for name in NAMES])


NAMES = tuple(field.name for field in fields(Timeouts))
NO_TIMEOUTS = Timeouts()


def _shorter(one: float | None, other: float | None) -> float | None:
    limits = [limit for limit in (one, other) if limit is not None]
    return min(limits) if limits else None
