"""Findings in a config.yaml: problems, which stop the start, and a report for every other key.

Neither contains a value, which may be a secret: they name places only.
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Problem:
    place: str  # such as `model_list[2].litellm_params.api_base`
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigInvalid(ValueError):
    """The file cannot be used. `problems` holds all of its problems; the text has a line for each."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Kind(StrEnum):
    HONOURED = "honoured"
    IGNORED = "ignored"  # changes nothing here
    UNSUPPORTED = "unsupported"  # would change something in LiteLLM that this version lacks


@dataclass(frozen=True, slots=True)
class Report:
    place: str
    kind: Kind
    reason: str = ""
    is_warning: bool = False  # the gateway limits, guards or prices less than the file asks

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}{': ' if self.reason else ''}{self.reason}"


class Refused:
    """Stands for a refused value, so that its place gets no second report."""


@dataclass(frozen=True, slots=True)
class Findings:
    problems: list[Problem] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def refuse(self, place: str, message: str) -> Refused:
        self.problems.append(Problem(place, message))
        return Refused()

    def honour(self, place: str, reason: str = "", *, is_warning: bool = False) -> None:
        self.reports.append(Report(place, Kind.HONOURED, reason, is_warning))

    def honour_empty(self, place: str) -> None:
        self.honour(place, "is empty, as if it were not there")

    def ignore(self, place: str, reason: str) -> None:
        self.reports.append(Report(place, Kind.IGNORED, reason))
