"""The deployments of a config.yaml in the database: loaded once or often, by one process or by many."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django_scopes import scopes_disabled

from billing.models import Price
from gateway.config import ConfigInvalid, read_config
from gateway.config.load import LOCK, LoadSummary, load_config
from gateway.deployments import save_deployment
from gateway.models import Deployment
from gateway.models.encryption import unseal
from gateway.providers.registry import PROVIDERS
from tenants.budget_templates import create_template, update_template
from tenants.models import DEFAULT_ORGANIZATION, BudgetTemplate, Organization
from tenants.revision import current_revision

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRON = {"VLLM_KEY": "sk-vllm-secret", "VLLM_AUTH": "Bearer other-secret"}
FILE = """
model_list:
  - model_name: gpt-3.5-turbo
    litellm_params:
      model: ollama/qwen2.5
      api_base: http://localhost:11434
      rpm: 60
      timeout: 12.5
      temperature: 0.1
      presence_penalty: 1.0
      seed: 7
    model_info: {mode: chat, tiny: 1e-7}
  - model_name: deepseek-r1
    litellm_params:
      model: hosted_vllm/deepseek-ai/DeepSeek-R1
      api_base: http://10.0.0.9:8000/v1
      api_key: os.environ/VLLM_KEY
      extra_headers: {Authorization: os.environ/VLLM_AUTH, X-Route: blue}
      weight: 2
      order: 1
      input_cost_per_token: 0.00000015
      output_cost_per_token: 6e-7
    model_info: {id: r1}
  - model_name: bge-m3
    litellm_params: {model: xinference/bge-m3, input_cost_per_token: 0}
"""

pytestmark = pytest.mark.django_db
Load = Callable[..., LoadSummary]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str = FILE, **environ: str) -> LoadSummary:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(read_config(path, ENVIRON | environ))

    return load


def stored() -> list[dict[str, Any]]:
    """All that is in the table, the times too."""
    with scopes_disabled():
        return [dict(row) for row in Deployment.objects.order_by("id").values()]


def by_id(deployment_id: str) -> Deployment:
    with scopes_disabled():
        return Deployment.objects.get(id=deployment_id)


def lines_of(deployment: Deployment) -> dict[str, str]:
    return Price.objects.get(id=deployment.price_id).lines if deployment.price_id else {}


def test_first_load_stores_every_deployment(load: Load) -> None:
    before = current_revision()
    summary = load()
    assert (len(summary.created), summary.changed, summary.removed, summary.unchanged) == (3, (), (), ())
    assert current_revision() > before
    row = by_id("r1")
    assert (row.source, row.organization_id, row.enabled) == ("config", None, True)
    assert (row.model_group, row.provider, row.upstream_model) == (
        "deepseek-r1",
        "hosted_vllm",
        "deepseek-ai/DeepSeek-R1",
    )
    assert (row.api_base, row.weight, row.order) == ("http://10.0.0.9:8000/v1", 2, 1)
    assert row.parameters == {"extra_headers": {"X-Route": "blue"}}
    assert lines_of(row) == {"input": "0.00000015", "output": "0.0000006"}
    assert "secret" not in row.credential
    opened = {name: secret.reveal() for name, secret in unseal(context="r1", sealed=row.credential).items()}
    assert opened == {"api_key": "sk-vllm-secret", "header:Authorization": "Bearer other-secret"}


def test_free_and_unpriced_are_different(load: Load) -> None:
    load()
    with scopes_disabled():
        free = Deployment.objects.get(model_group="bge-m3")
        unpriced = Deployment.objects.get(model_group="gpt-3.5-turbo")
    assert lines_of(free) == {"input": "0"}
    assert unpriced.price_id == ""


def test_same_file_again_changes_nothing(load: Load) -> None:
    first = load()
    before, revision, prices = stored(), current_revision(), Price.objects.count()
    for _ in range(2):
        again = load()
        assert (again.created, again.changed, again.removed) == ((), (), ())
        assert again.unchanged == first.created
    assert stored() == before  # not even updated_at, or the ciphertext of a credential
    assert (current_revision(), Price.objects.count()) == (revision, prices)


@pytest.mark.parametrize(
    ("old", "new", "attribute", "value"),
    [
        ("rpm: 60", "rpm: 61", "rpm", 61),
        ("rpm: 60\n", "\n", "rpm", None),
        ("timeout: 12.5", "timeout: 13", "timeout_s", 13.0),
        ("seed: 7", "seed: 8", "parameters", {"temperature": 0.1, "presence_penalty": 1.0, "seed": 8}),
        ("mode: chat", "mode: completion", "model_info", {"mode": "completion", "tiny": 1e-7}),
    ],
)  # fmt: skip
def test_one_changed_field_changes_one_row(load: Load, old: str, new: str, attribute: str, value: object) -> None:
    load()
    before = {row["id"]: row for row in stored()}
    revision = current_revision()
    assert old in FILE
    summary = load(FILE.replace(old, new))
    (changed,) = summary.changed
    assert (summary.created, summary.removed, len(summary.unchanged)) == ((), (), 2)
    row = by_id(changed)
    assert getattr(row, attribute) == value
    assert row.created_at == before[changed]["created_at"]
    assert row.price_id == before[changed]["price_id"]
    assert current_revision() == revision + 1


def test_changed_credential_keeps_the_id_and_is_sealed_anew(load: Load) -> None:
    load()
    before = by_id("r1").credential
    assert load(VLLM_KEY="sk-new").changed == ("r1",)
    row = by_id("r1")
    assert row.credential != before
    assert unseal(context="r1", sealed=row.credential)["api_key"].reveal() == "sk-new"


def test_removed_credential_is_deleted(load: Load) -> None:
    load()
    without = FILE.replace("      api_key: os.environ/VLLM_KEY\n", "").replace(
        "Authorization: os.environ/VLLM_AUTH, ", ""
    )
    assert load(without).changed == ("r1",)
    assert by_id("r1").credential == ""


def test_other_change_leaves_the_ciphertext_alone(load: Load) -> None:
    load()
    before = by_id("r1").credential
    assert load(FILE.replace("weight: 2", "weight: 5")).changed == ("r1",)
    assert by_id("r1").credential == before


def test_credential_that_cannot_be_opened_is_sealed_anew(load: Load) -> None:
    load()
    with scopes_disabled():
        other = Deployment.objects.get(model_group="bge-m3")
        Deployment.objects.filter(id="r1").update(credential=by_id("r1").credential[:-8] + "AAAAAAA=")
        Deployment.objects.filter(id=other.id).update(credential="garbage")
    assert set(load().changed) == {"r1", other.id}
    assert unseal(context="r1", sealed=by_id("r1").credential)["api_key"].reveal() == "sk-vllm-secret"
    assert by_id(other.id).credential == ""


def test_changed_price_is_a_new_version_and_the_old_one_stays(load: Load) -> None:
    load()
    before = by_id("r1").price_id
    assert load(FILE.replace("6e-7", "7e-7")).changed == ("r1",)
    row = by_id("r1")
    assert row.price_id != before
    assert lines_of(row) == {"input": "0.00000015", "output": "0.0000007"}
    assert Price.objects.get(id=before).lines == {"input": "0.00000015", "output": "0.0000006"}
    unpriced = FILE.replace("input_cost_per_token: 0.00000015", "").replace("output_cost_per_token: 6e-7", "")
    assert load(unpriced).changed == ("r1",)
    assert by_id("r1").price_id == ""


def test_row_that_is_no_longer_in_the_file_is_removed(load: Load) -> None:
    load()
    revision = current_revision()
    summary = load(FILE[: FILE.index("  - model_name: deepseek-r1")])
    assert (summary.created, summary.changed) == ((), ())
    assert len(summary.removed) == 2
    assert [row["model_group"] for row in stored()] == ["gpt-3.5-turbo"]
    assert current_revision() > revision
    assert len(load("model_list: []").removed) == 1
    assert stored() == []


def test_rows_of_other_sources_are_never_touched(load: Load) -> None:
    organization = Organization.objects.create(name="other")
    with scopes_disabled():
        for source in (Deployment.Source.CONSOLE, Deployment.Source.BUILTIN):
            save_deployment(
                Deployment(
                    id=f"mine-{source}",
                    source=source,
                    organization=organization,
                    model_group="gpt-3.5-turbo",
                    provider="ollama",
                    upstream_model="x",
                ),
                credential={"api_key": "k"},
            )
    mine = [row for row in stored() if row["id"].startswith("mine-")]
    load()
    load("model_list: []")
    assert stored() == mine


@pytest.mark.parametrize("source", [Deployment.Source.CONSOLE, Deployment.Source.BUILTIN])
def test_id_of_another_source_is_an_error_and_nothing_is_stored(load: Load, source: str) -> None:
    with scopes_disabled():
        save_deployment(Deployment(id="r1", source=source, model_group="x", provider="ollama", upstream_model="x"))
    before, revision = stored(), current_revision()
    with pytest.raises(ConfigInvalid, match=r"^model_list\[1\]\.model_info\.id: is the id of a deployment"):
        load()
    assert (stored(), current_revision()) == (before, revision)


def test_console_change_of_a_row_of_the_file_is_reverted(load: Load) -> None:
    load()
    organization = Organization.objects.create(name="other")
    with scopes_disabled():
        Deployment.objects.filter(id="r1").update(organization=organization, weight=9)
    assert load().changed == ("r1",)
    row = by_id("r1")
    assert (row.organization_id, row.weight) == (None, 2)


def test_deployment_that_was_switched_off_stays_off(load: Load) -> None:
    load()
    with scopes_disabled():
        Deployment.objects.filter(id="r1").update(enabled=False)
    assert load(FILE.replace("weight: 2", "weight: 5")).changed == ("r1",)
    assert by_id("r1").enabled is False


def test_refusal_of_the_service_is_reported_with_its_place_and_nothing_is_stored(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:

    class Missing(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            return None if name == "hosted_vllm" else super().get(name, default)

    monkeypatch.setattr("gateway.deployments.PROVIDERS", Missing(PROVIDERS))
    with pytest.raises(ConfigInvalid, match=r"^model_list\[1\]\.litellm_params\.model: 'hosted_vllm' is unknown"):
        load()
    assert stored() == []


# Many replicas at once

AT_ONCE = """
import sys, threading
import django
django.setup()
from pathlib import Path
from django.core.management import call_command
from django.db import connection
from gateway.config import read_config
from gateway.config.load import load_config
from tenants.revision import current_revision

call_command("migrate", verbosity=0)
before = current_revision()
config = read_config(Path(sys.argv[1]), {"VLLM_KEY": "a", "VLLM_AUTH": "b"})
barrier, summaries = threading.Barrier(4), []

def load():
    barrier.wait()
    try:
        summaries.append(load_config(config))
    finally:
        connection.close()

threads = [threading.Thread(target=load) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sorted(len(summary.created) for summary in summaries))
print(sorted(len(summary.unchanged) for summary in summaries))
print(current_revision() - before)
"""


@pytest.mark.only_on("sqlite")
def test_sqlite_replicas_that_load_at_once_store_each_row_once(tmp_path: Path) -> None:
    """In a process of its own: the embedded database is a file there, as it is in use."""
    (tmp_path / "config.yaml").write_text(FILE, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    environment |= {"TOLLGATE_HOME": str(tmp_path / "home"), "DJANGO_SETTINGS_MODULE": "gateway.settings"}
    process = subprocess.run(
        [sys.executable, "-c", AT_ONCE, str(tmp_path / "config.yaml")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["[0, 0, 0, 3]", "[0, 3, 3, 3]", "3"]


@pytest.mark.only_on("postgres")
@pytest.mark.django_db(transaction=True)
def test_postgresql_replicas_that_load_at_once_store_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FILE, encoding="utf-8")
    config = read_config(path, ENVIRON)
    barrier = threading.Barrier(4)
    summaries: list[LoadSummary] = []

    def load() -> None:
        barrier.wait()
        try:
            summaries.append(load_config(config))
        finally:
            connection.close()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(summary.created) for summary in summaries) == [0, 0, 0, 3]
    assert sorted(len(summary.unchanged) for summary in summaries) == [0, 3, 3, 3]


def test_lock_of_postgresql_is_a_bigint() -> None:
    assert -(2**63) <= LOCK < 2**63


# check_config


def run_check(path: Path, *options: str) -> tuple[str, str]:
    """(what it printed, the error that ends it or nothing)"""
    out = StringIO()
    try:
        call_command("check_config", str(path), *options, stdout=out)
    except CommandError as error:
        return out.getvalue(), str(error)
    return out.getvalue(), ""


@pytest.fixture
def file(tmp_path: Path, settings: Any) -> Callable[[str], Path]:
    settings.ENVIRONMENT = ENVIRON

    def file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return file


def test_check_config_reports_each_key_and_stores_nothing(file: Callable[[str], Path]) -> None:
    printed, error = run_check(file(FILE + "litellm_settings: {max_budget: 5, set_verbose: true, drop_params: true}\n"))
    assert error == ""
    lines = printed.splitlines()
    assert lines[0].startswith("WARNING      litellm_settings.max_budget: unsupported: ")
    assert lines[1].startswith("unsupported  litellm_settings.drop_params: ")
    assert lines[2].startswith("ignored      litellm_settings.set_verbose: ")
    assert "honoured     model_list[0].litellm_params.model" in lines
    assert "deepseek-r1 → hosted_vllm/deepseek-ai/DeepSeek-R1 at http://10.0.0.9:8000/v1;" in printed
    assert "input $0.00000015, output $0.0000006 per token; id r1" in printed
    assert lines[-1] == "3 deployments, 0 errors, 1 warning, 3 not honoured"
    assert "secret" not in printed
    assert stored() == []


def test_check_config_ends_with_an_error_if_the_file_cannot_be_used(file: Callable[[str], Path]) -> None:
    printed, error = run_check(file(FILE.replace("VLLM_KEY", "MISSING").replace("rpm: 60", "rpm: -1")))
    assert printed.splitlines()[:2] == [
        "ERROR        model_list[1].litellm_params.api_key: the environment variable MISSING is not set",
        "ERROR        model_list[0].litellm_params.rpm: must be a whole number from 0 to 2147483647",
    ]
    assert error.endswith("cannot be used: 2 errors")


def test_check_config_strict_refuses_every_key_that_is_not_honoured(file: Callable[[str], Path]) -> None:
    assert run_check(file(FILE), "--strict")[1] == ""
    assert run_check(file(FILE + "no_such_key: 1\n"))[1] == ""
    assert run_check(file(FILE + "no_such_key: 1\n"), "--strict")[1].endswith("1 key not honoured (--strict)")


def test_check_config_prints_json(file: Callable[[str], Path]) -> None:
    printed, error = run_check(file(FILE + "general_settings: {max_parallel_requests: 5}\n"), "--json")
    report = json.loads(printed)
    assert error == ""
    assert (report["valid"], report["errors"]) == (True, [])
    assert {
        "place": "general_settings.max_parallel_requests",
        "kind": "unsupported",
        "reason": "this version does not enforce limits",
        "warning": True,
    } in report["report"]
    assert report["deployments"][1] == {
        "id": "r1",
        "model_name": "deepseek-r1",
        "provider": "hosted_vllm",
        "model": "deepseek-ai/DeepSeek-R1",
        "api_base": "http://10.0.0.9:8000/v1",
        "prices": {"input": "0.00000015", "output": "0.0000006"},
    }
    assert "secret" not in printed
    printed, error = run_check(file("model_list: 5"), "--json")
    assert json.loads(printed)["errors"] == [{"place": "model_list", "message": "must be a list"}]
    assert error


def test_the_file_chooses_the_budget_of_end_users(load: Load) -> None:
    text = "litellm_settings: {max_end_user_budget_id: guests}\n"
    with pytest.raises(ConfigInvalid, match="no budget 'guests'"):
        load(FILE + text)
    assert stored() == []
    organization = Organization.objects.get(id=DEFAULT_ORGANIZATION)
    with scopes_disabled():
        for name in ("before", "guests"):
            create_template(organization=organization, template_id=name, limits={"max_budget": 1})
        update_template(BudgetTemplate.objects.get(id="before"), limits={}, is_end_user_default=True)
    revisions = []
    for _ in range(2):  # the second time changes nothing
        load(FILE + text)
        revisions.append(current_revision())
        with scopes_disabled():
            assert [row.id for row in BudgetTemplate.objects.filter(is_end_user_default=True)] == ["guests"]
    assert revisions[0] == revisions[1]
    load(FILE)
    with scopes_disabled():
        assert BudgetTemplate.objects.get(id="guests").is_end_user_default
