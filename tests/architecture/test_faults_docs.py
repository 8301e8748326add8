"""docs/faults.md names a test for each fault of an upstream, and every test that it names is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| (U\d+) \| .+ \| .+ \| (.+) \|$", (ROOT / "docs/faults.md").read_text("utf-8"), re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")

#: Of these one or more tests stand for all of the file.
FILES_OF_ONE_ROW = {"tests/unit/upstream/test_names.py", "tests/unit/upstream/test_tls_faults.py"}


@cache
def find_tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_every_fault_has_a_row() -> None:
    assert [name for name, _ in ROWS] == [f"U{number}" for number in range(1, 23)]


def test_every_row_names_tests_that_exist() -> None:
    missing = []
    for name, proofs in ROWS:
        named = TEST.findall(proofs)
        assert len(named) == proofs.count("`") / 2 > 0, name
        missing += [f"{name}: {path}::{test}" for path, test in named if test not in find_tests(path)]
    assert missing == []


def test_every_test_that_bears_a_faults_number_stands_in_its_row() -> None:
    rows = {name: dict.fromkeys(test for _, test in TEST.findall(proofs)) for name, proofs in ROWS}
    files = {path for _, proofs in ROWS for path, _ in TEST.findall(proofs)}
    for path in sorted(files):
        for test in find_tests(path):
            numbered = re.match(r"test_u(\d\d)_", test)
            if numbered and path not in FILES_OF_ONE_ROW:
                assert test in rows[f"U{int(numbered[1])}"], f"{path}::{test}"
