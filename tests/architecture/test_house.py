"""The house's rules that no linter knows: who may name what, import what and catch what, and what the docs must say."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from gateway.protocol.capabilities import Capabilities
from gateway.providers.registry import PREFIXES, PROVIDERS
from gateway.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "tenants", "billing")
SOURCES = tuple(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "migrations" not in path.parts
)
SETTINGS = Path("gateway/settings.py")
LONGEST_FILE = 900


@cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, kinds))


def strings_of(path: Path) -> Iterator[str]:
    """Every string constant that is no docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes(path, ast.Constant):
        assert isinstance(node, ast.Constant)
        if isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


# Providers

#: {file: {provider names that it may use}}. A new provider must not need a new line here.
PROVIDERS_NAMED_IN = {
    "gateway/server/bootstrap.py": {"mock"},  # a start without any deployment serves the built-in echo
    "gateway/console/site.py": {"mock"},  # the first call that the console suggests
}
#: What a config.yaml may name without a prefix is OpenAI's, as in LiteLLM.
CONFIG_FILES = ("gateway/configfile.py", "gateway/config/")
NAMED_IN_CONFIG = {"openai"}
#: A format of invoices has the name of who sends them, and names the providers whose calls they charge.
INVOICE_FORMATS = "billing/reconciliation/formats/"


def test_a_providers_name_stands_in_its_own_file_only() -> None:
    """Code may not contain the name as a whole string. Prose may name a provider."""
    foreign = []
    for path in SOURCES:
        name = str(path)
        if name.startswith(("gateway/providers/", INVOICE_FORMATS)):
            continue
        allowed = PROVIDERS_NAMED_IN.get(name, set())
        if name.startswith("gateway/protocol/dialects/"):  # a dialect has the name of its maker
            allowed = allowed | {path.parent.name}
        if name.startswith(CONFIG_FILES):
            allowed = allowed | NAMED_IN_CONFIG
        foreign += [f"{name}: {text!r}" for text in strings_of(path) if text in PREFIXES and text not in allowed]
    assert foreign == []


def test_the_exceptions_for_providers_names_are_still_needed() -> None:
    for name, allowed in PROVIDERS_NAMED_IN.items():
        assert allowed <= set(strings_of(Path(name))), name


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_has_its_row_in_the_docs(name: str) -> None:
    provider = PROVIDERS[name]
    rows = [line for line in text_of(Path("docs/providers.md")).splitlines() if line.startswith(f"| `{name}`")]
    assert len(rows) == 1
    if provider.default_api_base:
        assert f"`{provider.default_api_base}`" in rows[0]
    for alias in provider.aliases:
        assert f"`{alias}`" in rows[0]
    kinds = ["chat" in provider.operations, "completion" in provider.operations, "embedding" in provider.operations]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells[3:6] == ["yes" if known else "no" for known in kinds]


def test_the_docs_have_no_provider_that_is_not_there() -> None:
    named = re.findall(r"^\| `(\w+)`", text_of(Path("docs/providers.md")), re.MULTILINE)
    assert set(named) <= set(PROVIDERS)


# Capabilities


def test_every_capability_has_its_row_in_the_docs_with_its_default() -> None:
    pattern = r"^\| `(\w+)` \| .+ \| (.+?) \| .+ \|$"
    rows = dict(re.findall(pattern, text_of(Path("docs/capabilities.md")), re.MULTILINE))
    defaults = {field.name: field.default for field in fields(Capabilities)}
    assert list(rows) == list(defaults)
    for name, default in defaults.items():
        if default not in {None, ""}:
            text = str(default).lower() if isinstance(default, bool) else str(default)
            assert rows[name] == f"`{text}`", name


# Settings


def variables() -> set[str]:
    """Every environment variable that settings.py reads."""
    names = set()
    for node in nodes(SETTINGS, ast.Call):
        assert isinstance(node, ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id.startswith("env_") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                names.add(name.value)
    return names


def documented() -> list[str]:
    return re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", text_of(Path("docs/settings.md")), re.MULTILINE)


def test_every_setting_has_one_row_in_the_docs_and_every_row_a_setting() -> None:
    rows = documented()
    assert sorted(rows) == sorted(set(rows))
    assert len(variables()) > 20
    assert set(rows) == variables()


#: Beside settings.py: the module that names the settings module before it sets Django up; and the library, which has no
#: settings and looks for the providers' own variables.
ENVIRONMENT_READERS = {"gateway/settings.py", "gateway/edge/django_setup.py", "gateway/sdk/environment.py"}


def test_the_environment_is_read_in_one_place() -> None:
    readers = set()
    for path in SOURCES:
        for node in nodes(path, ast.Attribute):
            assert isinstance(node, ast.Attribute)
            if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in {
                ("os", "environ"),
                ("os", "getenv"),
                ("os", "putenv"),
                ("os", "environb"),
            }:
                readers.add(str(path))
    assert readers <= ENVIRONMENT_READERS


# Imports

HTTP_CLIENTS = {"httpx", "httptools", "aiohttp", "requests", "urllib3", "urllib.request", "http.client"}


def test_only_the_upstream_folder_speaks_http_to_others() -> None:
    users = {str(path) for path in SOURCES if imported(path) & HTTP_CLIENTS}
    assert users == {"gateway/upstream/http1.py", "gateway/upstream/listing.py"}


#: {file: function}: an import that only the first start needs, or that would load what the command does not need.
LATE_IMPORTS = {
    ("gateway/management/commands/serve.py", "_serve"),
    ("gateway/management/commands/worker.py", "handle"),
    ("gateway/management/commands/beat.py", "handle"),
    ("gateway/sdk/result_loader.py", "load_results"),
    ("gateway/sdk/store_address.py", "_postgres"),
    ("gateway/apps.py", "ready"),
    ("billing/apps.py", "ready"),
    ("tenants/apps.py", "ready"),
}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield node


def test_imports_stand_at_the_top() -> None:
    late = {
        (str(path), function.name)
        for path in SOURCES
        for function in functions(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert late <= LATE_IMPORTS


def test_the_protocol_core_loads_without_django() -> None:
    for path in SOURCES:
        if str(path).startswith(("gateway/protocol/", "gateway/providers/", "gateway/pipeline/", "gateway/routing/")):
            heads = {name.partition(".")[0] for name in imported(path)}
            assert not heads & {"django", "channels", "celery", "rest_framework", "tenants", "billing"}, path


# Errors

#: {file: how many}: where an unforeseen error is turned into an answer, a closed row or a refused batch.
BROAD_HANDLERS = {
    "gateway/server/background_worker.py": 1,  # the thread; the next wake-up starts it anew
    "gateway/edge/consumer.py": 1,
    "gateway/edge/data_plane.py": 1,  # a start that waits must outlive whatever it meets
    "gateway/edge/websocket/consumer.py": 1,  # the same for a turn of a WebSocket
    "gateway/pipeline/attempt.py": 1,  # BaseException: closes the row, then raises on
    "gateway/pipeline/responses/supervisor.py": 1,  # one background response must not end the others
    "gateway/stores/revision_watch.py": 1,  # the poll must outlive whatever it meets
    "gateway/state/group_commit.py": 2,
    "gateway/state/sqlite.py": 1,  # the writer's thread must outlive whatever it meets
}


def broad_handlers(path: Path) -> int:
    count = 0
    for node in nodes(path, ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
        count += node.type is None or bool(names & {"Exception", "BaseException"})
    return count


def test_unforeseen_errors_are_caught_at_named_boundaries_only() -> None:
    counts = {str(path): count for path in SOURCES if (count := broad_handlers(path))}
    assert {name: count for name, count in counts.items() if count > BROAD_HANDLERS.get(name, 0)} == {}


def test_errors_are_rendered_in_one_place() -> None:
    """Django's own exception texts never reach a body by way of the data plane."""
    for path in SOURCES:
        if str(path).startswith(("gateway/pipeline/", "gateway/routing/", "gateway/upstream/", "gateway/state/")):
            assert "gateway.edge.problems" not in imported(path), path


# Folders

#: Scripts that are started by their path; its README says what it is for.
NO_PACKAGES = {"tests/bench"}
FOLDERS = sorted(
    {
        path.parent.relative_to(ROOT)
        for top in (*PACKAGES, "tests")
        for path in (ROOT / top).rglob("*.py")
        if str(path.parent.relative_to(ROOT)) not in NO_PACKAGES
    }
)
#: A module loose in gateway/ is Django's or the composition's.
GATEWAY_MODULES = {
    "__init__", "apps", "asgi", "celery", "deployments", "observe", "runtime", "settings", "tasks", "urls", "version",
}  # fmt: skip
GATEWAY_FOLDERS = {
    "admin", "api", "config", "console", "edge", "explanation", "management", "metrics", "migrations", "models",
    "parsers", "pipeline", "protocol", "providers", "rest", "routing", "sdk", "server", "state", "stores", "upstream",
}  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_a_folder_says_in_one_sentence_what_it_is_for(folder: Path) -> None:
    docstring = ast.get_docstring(tree_of(folder / "__init__.py"))
    assert docstring
    assert re.fullmatch(r"[A-Z][^.\n]*(?:\.[^.\s][^.\n]*)*\.", docstring), docstring


def test_the_root_of_the_gateway_holds_djangos_files_and_the_composition_only() -> None:
    root = ROOT / "gateway"
    assert {path.name for path in root.iterdir() if path.is_file()} == {f"{name}.py" for name in GATEWAY_MODULES}
    assert {path.parent.name for path in root.glob("*/__init__.py")} == GATEWAY_FOLDERS


# Texts


def test_the_version_is_the_top_heading_of_the_changelog() -> None:
    headings = re.findall(r"^## \[?(\d+\.\d+\.\d+)", text_of(Path("docs/CHANGELOG.md")), re.MULTILINE)
    assert headings[0] == VERSION


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_source_file_is_short_finished_and_says_what_it_is(path: Path) -> None:
    text = text_of(path)
    assert len(text.splitlines()) < LONGEST_FILE
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    if text.strip():
        assert ast.get_docstring(tree_of(path)), "a module says what it is responsible for"


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "helpers", "common", "misc", "manager", "base"}
    found = [str(path) for path in SOURCES if path.stem in vague or set(path.parts[:-1]) & vague]
    assert found == ["tenants/row_security/base.py"], "Django finds a database backend by the name base"


#: Files that a user reads or runs. They contain neither a path of one machine nor an index of packages.
SHIPPED = [
    path
    for pattern in ("*.md", "*.toml", "*.txt", "Makefile", "docs/*.md", ".ci/*", "templates/**/*.html")
    for path in sorted(ROOT.glob(pattern))
] + [ROOT / path for path in SOURCES]
STRAY = re.compile(r"/(?:home|tmp|Users)/\w|/(?:root|work)/|(?:--index-url|--extra-index-url|-i https?:)")


def test_nothing_names_a_machine_or_a_package_index() -> None:
    stray = []
    for path in SHIPPED:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if STRAY.search(line):
                stray.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert stray == []


@pytest.mark.parametrize("folder", ["unit", "contract", "e2e", "fault", "browser"])
def test_own_code_is_never_patched(folder: str) -> None:
    """A test hands its replacements in at the ports."""
    for path in (ROOT / "tests" / folder).rglob("*.py"):
        assert not re.search(r"\bmock\.patch\b|from unittest(?:\.mock)? import|\bmocker\b", path.read_text()), path
