"""Writes every statement and query of the data path as JSON: `python -m tests.contract.statements > FILE`.

The file of a released version, `tests/fixtures/statements/<version>.json`, stays: during an upgrade that version still
serves from the migrated database (test_migrations.py).
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType

import django

PACKAGES = ("billing", "gateway", "tenants")
#: Beside the data path; or, as Daphne's reactor, not to be imported by chance.
SKIPPED = ("migrations", "management", "daphne_server")
FIELDS = {"Statement": ("types", "sqlite", "postgres", "is_durable"), "Query": ("sqlite", "postgres")}


def collect() -> dict[str, dict[str, object]]:
    """{place: the fields of the statement or query}, each text once."""
    entries: dict[str, dict[str, object]] = {}
    for module in _modules():
        for name, value in vars(module).items():
            for member in value if isinstance(value, tuple) else (value,):
                kind = type(member).__name__
                entry = {field: getattr(member, field) for field in FIELDS.get(kind, ())}
                if entry and entry not in entries.values():
                    label = member.name if kind == "Statement" else name
                    entries[f"{module.__name__}.{label}"] = entry
    return entries


def _modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not set(SKIPPED) & set(info.name.split(".")):
                yield importlib.import_module(info.name)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    django.setup()
    json.dump(collect(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
