"""docs/provider-features.md against the registry and the tests: every provider has its row, every proof exists."""

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.protocol.call import Operation
from gateway.providers.registry import PROVIDERS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/e2e", "tests/unit")
TEXT = (ROOT / "docs/provider-features.md").read_text(encoding="utf-8")
#: The fields in which the providers of one row differ.
IDENTITY: Mapping[str, Any] = {
    "name": "",
    "title": "",
    "aliases": (),
    "default_api_base": "",
    "needs_api_base": False,
    "needs_api_key": False,
}
ONE = r"(\w+)(?:\[([\w-]+)\])?"
PROOF = re.compile(ONE)
PHRASE = re.compile(rf"(?:native|translated|emulated|refused|yes) (?P<proofs>{ONE}(?:, {ONE})*)")


def table(first: str) -> list[list[str]]:
    """The cells of the table whose heading begins so, heading first."""
    lines = TEXT.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")])
    return [rows[0], *rows[2:]]


HEADING, *ROWS = table("| provider")
#: {label: (name of the test, the pattern of its case)}
LEGEND = {label: (test.strip("`"), case.strip("`")) for label, test, case, _ in table("| | test")[1:]}


def read_names(row: list[str]) -> list[str]:
    return re.findall(r"`(\w+)`", row[0])


# Where the tests are, and with what they run


@cache
def places() -> Mapping[str, list[Path]]:
    paths = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("test_*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    paths[node.name].append(path)
    return paths


@cache
def module_of(path: Path) -> ModuleType:
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@cache
def cases_of(test: str) -> frozenset[str]:
    """The ids of each parametrisation of the tests of this name, without asking pytest to collect them."""
    cases = set()
    for path in places()[test]:
        for mark in getattr(getattr(module_of(path), test), "pytestmark", ()):
            if mark.name == "parametrize":
                ids = mark.kwargs.get("ids") or map(case_of, mark.args[1])
                cases |= {str(value) for value in ids}
    return frozenset(cases)


def case_of(value: Any) -> str:
    if isinstance(getattr(value, "id", None), str):  # pytest.param
        return str(value.id)
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


# The promises


def test_every_provider_has_its_row_and_no_row_is_of_another() -> None:
    named = [name for row in ROWS for name in read_names(row)]
    assert set(named) == set(PROVIDERS)
    assert {len(row) for row in ROWS} == {len(HEADING)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_cell_is_proved_by_tests_that_run(row: list[str]) -> None:
    unproved = []
    for feature, cell in zip(HEADING[2:], row[2:], strict=True):
        if cell == "no":
            continue
        phrases = [PHRASE.fullmatch(phrase) for phrase in cell.split("; ")]
        if not all(phrases):
            unproved.append(f"{feature}: {cell!r} is in no form that this page knows")
        for label, case in (proof for phrase in phrases if phrase for proof in PROOF.findall(phrase["proofs"])):
            unproved += [f"{feature}: {what}" for what in missing(label, case, row[1].strip("`"))]
    assert unproved == []


def missing(label: str, case: str, default_case: str) -> Iterable[str]:
    test, pattern = LEGEND.get(label, ("", ""))
    if not places()[test]:
        yield f"{label} stands for no test: {test!r}"
        return
    wanted = case or pattern.replace("<case>", default_case)
    if wanted and wanted not in cases_of(test):
        yield f"{test} does not run for {wanted!r}"


def test_every_test_of_the_list_exists() -> None:
    assert [label for label, (test, _) in LEGEND.items() if not places()[test]] == []


@pytest.mark.parametrize("row", [row for row in ROWS if len(read_names(row)) > 1], ids=lambda row: row[0])
def test_the_providers_of_one_row_differ_by_their_addresses_only(row: list[str]) -> None:
    providers = [PROVIDERS[name] for name in read_names(row)]
    for provider in providers:
        assert is_dataclass(provider)
        assert {field.name for field in fields(provider)} >= set(IDENTITY)
    assert len({repr(replace(provider, **IDENTITY)) for provider in providers}) == 1  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("feature", "operation"),
    [("chat", Operation.CHAT), ("completions", Operation.COMPLETION), ("embeddings", Operation.EMBEDDING)],
)
def test_an_operation_is_there_if_and_only_if_the_provider_has_it(feature: str, operation: Operation) -> None:
    place = HEADING.index(feature)
    for name, provider in PROVIDERS.items():
        cells = [row[place] for row in ROWS if name in read_names(row)]
        has_it = any(not cell.startswith(("no", "refused")) for cell in cells)
        assert has_it is (operation in provider.operations), name
