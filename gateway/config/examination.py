"""Examination of a config.yaml written for LiteLLM: its settings, its unsupported keys and its problems.

Every key of the file is honoured, or reported as ignored or unsupported, or is a problem that stops the start. All
problems are reported together. This module uses no database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.environment import Environment
from gateway.config.fields import read_text
from gateway.config.gaps import SETTINGS, TOP_LEVEL, report_gap
from gateway.config.model_list import DeploymentEntry, read_models
from gateway.config.report import ConfigInvalid, Findings, Kind, Problem, Refused, Report
from gateway.config.yaml_file import Section, Value, read_sections, to_json
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.secret import Secret
from gateway.routing.read_settings import NAMES as ROUTING
from gateway.routing.read_settings import read_settings

END_USER_BUDGET = "max_end_user_budget_id"
#: Settings that are honoured, each by a reader of its own.
READ_APART = {("general_settings", "master_key"), ("litellm_settings", END_USER_BUDGET)}


@dataclass(frozen=True, slots=True)
class Config:
    deployments: tuple[DeploymentEntry, ...]
    master_key: Secret | None
    reports: tuple[Report, ...]
    end_user_budget_id: str = ""  # the template that binds end users without a budget of their own
    router_settings: JsonMapping = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[Report, ...]:
        return tuple(report for report in self.reports if report.is_warning)

    @property
    def not_honoured(self) -> tuple[Report, ...]:
        return tuple(report for report in self.reports if report.kind is not Kind.HONOURED)


@dataclass(frozen=True, slots=True)
class Examination:
    """The result for a file; `config` holds only the items that can be used."""

    config: Config
    problems: tuple[Problem, ...]


def read_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """Raises ConfigInvalid, which names every problem of the file and of the files it includes."""
    examination = examine_config(path, environ)
    if examination.problems:
        raise ConfigInvalid(*examination.problems)
    return examination.config


def examine_config(path: str | Path, environ: Mapping[str, str]) -> Examination:
    """Like read_config, but returns the problems together with the items that can be used."""
    findings = Findings()
    deployments: tuple[DeploymentEntry, ...] = ()
    master_key, end_user_budget_id = None, ""
    router: JsonObject = {}
    try:
        sections = read_sections(Path(path), Environment(environ, findings).resolve, findings)
        environment = Environment(environ, findings, sections.pop("environment_variables", None))
        # All sections are resolved first, so that missing variables are the first problems.
        resolved = {name: environment.resolve_section(section) for name, section in sections.items()}
        for name, section in resolved.items():
            if name == "model_list":
                deployments = read_models(section, environment, findings)
            elif name == "general_settings":
                master_key = _read_master_key(section.place, _report_settings(name, section, findings), findings)
            elif name == "litellm_settings":
                values = _report_settings(name, section, findings)
                end_user_budget_id = _read_end_user_budget(section.place, values, findings)
                router = _routing(values) | router  # router_settings win over the same names
            elif name == "router_settings":
                router = router | _routing(_report_settings(name, section, findings))
            elif name in SETTINGS:
                _report_settings(name, section, findings)
            else:
                report_gap(findings, section.place, section.value, TOP_LEVEL.get(name))
        environment.report_unused()
    except ConfigInvalid as error:
        findings.problems.extend(error.problems)
    for key, message in read_settings(router)[1]:
        findings.refuse(f"router_settings.{key}", message)
    config = Config(deployments, master_key, tuple(findings.reports), end_user_budget_id, router)
    return Examination(config, tuple(findings.problems))


def _routing(values: dict[str, Value]) -> JsonObject:
    return {key: to_json(values[key]) for key in ROUTING & values.keys() if values[key] is not None}


def _report_settings(name: str, section: Section, findings: Findings) -> dict[str, Value]:
    """Reports each key of a settings section and returns the section."""
    if not isinstance(section.value, dict):
        if not isinstance(section.value, None | Refused):
            findings.refuse(section.place, "must be a mapping")
        return {}
    for key, value in section.value.items():
        place = f"{section.place}.{key}"
        if key in ROUTING and name in {"router_settings", "litellm_settings"}:
            findings.honour(place, "a rule of routing, see docs/routing.md")
        elif (name, key) not in READ_APART:
            report_gap(findings, place, value, SETTINGS[name].get(key))
    return section.value


def _read_end_user_budget(place: str, settings: dict[str, Value], findings: Findings) -> str:
    if END_USER_BUDGET not in settings:
        return ""
    place, value = f"{place}.{END_USER_BUDGET}", settings[END_USER_BUDGET]
    budget_id = "" if value is None else read_text(value, place, findings)
    if budget_id:
        findings.honour(place, "binds the end users of the default organization that have no budget of their own")
    elif budget_id is not None:
        findings.honour_empty(place)
    return budget_id or ""


def _read_master_key(place: str, settings: dict[str, Value], findings: Findings) -> Secret | None:
    if "master_key" not in settings:
        return None
    place = f"{place}.master_key"
    value = settings["master_key"]
    key = "" if value is None else read_text(value, place, findings)
    if key == "":
        findings.honour_empty(place)
    if not key:
        return None
    is_example = key == "sk-1234"
    reason = "is the example key of tutorials: choose another" if is_example else ""
    findings.honour(place, reason, is_warning=is_example)
    return Secret(key)
