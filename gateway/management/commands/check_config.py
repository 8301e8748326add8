"""check_config: reports key by key how Tollgate reads a LiteLLM config.yaml, and stores nothing."""

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from gateway.config import DeploymentEntry, Examination, Kind, examine_config


class Command(BaseCommand):
    help = "Report, for every key of a LiteLLM config.yaml, whether it is honoured. Exits with 1 on an error."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="path of the config.yaml")
        parser.add_argument(
            "--strict", action="store_true", help="exit with 1 as well where a key is ignored or unsupported"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    def handle(self, *args: Any, file: str, strict: bool, json: bool, **options: Any) -> None:
        examination = examine_config(file, settings.ENVIRONMENT)
        lines = [_as_json(file, examination)] if json else _as_lines(examination)
        for line in lines:
            self.stdout.write(line)
        if examination.problems:
            raise CommandError(f"{file} cannot be used: {_count(len(examination.problems), 'error')}")
        missed = len(examination.config.not_honoured)
        if strict and missed:
            raise CommandError(f"{file}: {_count(missed, 'key')} not honoured (--strict)")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_lines(examination: Examination) -> list[str]:
    """Errors first, then what loosens something, then the rest in the order of the file."""
    config = examination.config
    lines = [f"ERROR        {problem}" for problem in examination.problems]
    lines += [f"WARNING      {report}" for report in config.warnings]
    for kind in (Kind.UNSUPPORTED, Kind.IGNORED, Kind.HONOURED):
        for report in config.reports:
            if report.kind is kind and not report.is_warning:
                lines.append(f"{kind:<12} {report.place}{': ' if report.reason else ''}{report.reason}")
    lines += [f"{'deployment':<12} {_describe(entry)}" for entry in config.deployments]
    lines.append(
        f"{_count(len(config.deployments), 'deployment')}, {_count(len(examination.problems), 'error')}, "
        f"{_count(len(config.warnings), 'warning')}, {len(config.not_honoured)} not honoured"
    )
    return lines


def _describe(entry: DeploymentEntry) -> str:
    prices = ", ".join(f"{line} ${amount}" for line, amount in entry.price_lines.items())
    address = f" at {entry.api_base}" if entry.api_base else ""
    upstream = f"{entry.provider}/{entry.upstream_model}{address}"
    return f"{entry.model_group} → {upstream}; {f'{prices} per token' if prices else 'no price'}; id {entry.id}"


def _as_json(file: str, examination: Examination) -> str:
    config = examination.config
    output = {
        "file": file,
        "valid": not examination.problems,
        "errors": [{"place": problem.place, "message": problem.message} for problem in examination.problems],
        "report": [
            {
                "place": report.place,
                "kind": report.kind,
                "reason": report.reason,
                "warning": report.is_warning,
            }
            for report in config.reports
        ],
        "deployments": [
            {
                "id": entry.id,
                "model_name": entry.model_group,
                "provider": entry.provider,
                "model": entry.upstream_model,
                "api_base": entry.api_base,
                "prices": dict(entry.price_lines),
            }
            for entry in config.deployments
        ],
    }
    return json.dumps(output, ensure_ascii=False, indent=2)
