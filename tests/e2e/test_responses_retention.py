"""Retention in a running gateway: expired, erased and stored responses as their client sees them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import MASTER_KEY, REPO, Gateway

MODEL = "tollgate-echo"
ASK = "My name is Ada."


@pytest.fixture(scope="module")
def gateway(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without a config.yaml, as after a fresh clone."""
    running = Gateway(tmp_path_factory.mktemp(f"retention-{backend.name}"), env=backend.environment())
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


def expire(gateway: Gateway, *ids: str) -> None:
    code = (
        "from datetime import timedelta; from django.utils import timezone;"
        "from django_scopes import scopes_disabled; from gateway.models import StoredResponse\n"
        "with scopes_disabled():\n"
        f"    rows = StoredResponse.objects.filter(pk__in={list(ids)!r})\n"
        "    rows.update(expires_at=timezone.now() - timedelta(hours=3))"
    )
    process = gateway.manage("shell", "-v", "0", "-c", code)
    assert process.returncode == 0, process.stderr


def purge(gateway: Gateway, *arguments: str) -> str:
    process = gateway.manage("purge", *arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout


def is_gone(client: openai.OpenAI, response_id: str) -> bool:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.retrieve(response_id)
    with pytest.raises(openai.NotFoundError) as invented:
        client.responses.retrieve("resp_invented")
    return missing.value.response.text.replace(response_id, "resp_invented") == invented.value.response.text


def test_an_expired_turn_is_shown_to_nobody_and_still_heard_by_its_follow_ups(
    gateway: Gateway, client: openai.OpenAI
) -> None:
    first = client.responses.create(model=MODEL, input=ASK)
    second = client.responses.create(model=MODEL, input="What is my name?", previous_response_id=first.id)
    alone = client.responses.create(model=MODEL, input=ASK)
    expire(gateway, first.id, alone.id)
    assert is_gone(client, first.id)
    with pytest.raises(openai.BadRequestError, match="not found"):
        client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
    assert "stay" in purge(gateway)
    third = client.responses.create(model=MODEL, input="And?", previous_response_id=second.id)
    assert third.usage is not None
    assert second.usage is not None
    assert third.usage.input_tokens > second.usage.input_tokens
    expire(gateway, second.id, third.id)
    assert re.search(r"purged [3-9]\d* expired", purge(gateway))
    assert is_gone(client, third.id)


def test_all_of_one_key_is_erased_and_what_others_made_stays(gateway: Gateway, client: openai.OpenAI) -> None:
    other = gateway.openai(gateway.issue_key())
    mine = client.responses.create(model=MODEL, input=ASK)
    conversation = client.conversations.create(items=[{"role": "user", "content": ASK}])
    theirs = other.responses.create(model=MODEL, input=ASK)
    code = (
        "from django_scopes import scopes_disabled; from gateway.models import StoredResponse\n"
        f"with scopes_disabled(): print(StoredResponse.objects.get(pk={mine.id!r}).owner)"
    )
    owner = gateway.manage("shell", "-v", "0", "-c", code).stdout.strip().splitlines()[-1]
    assert "would erase 1 response and 1 conversation" in purge(gateway, "--owner", owner, "--dry-run")
    assert client.responses.retrieve(mine.id).id == mine.id
    assert "erased 1 response and 1 conversation" in purge(gateway, "--owner", owner, "--no-input")
    assert is_gone(client, mine.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)
    assert other.responses.retrieve(theirs.id).id == theirs.id


def test_an_input_that_is_too_large_to_keep_is_refused_and_one_that_is_not_kept_is_answered(launch: Launch) -> None:
    gateway = launch(env={"TOLLGATE_MAX_STORED_BYTES": "4096"})
    client = gateway.openai(gateway.issue_key())
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x" * 5000)
    assert (refused.value.param, refused.value.code) == ("input", "input_too_large")
    assert client.responses.create(model=MODEL, input="x" * 5000, store=False).status == "completed"
    assert not list(client.get("/responses", cast_to=openai.types.responses.Response).model_extra["data"])  # type: ignore[index]


# The README


def readme_blocks() -> list[str]:
    section = (REPO / "README.md").read_text(encoding="utf-8").partition("\n## Sessions\n")[2].partition("\n## ")[0]
    return re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)


def run_block(block: str, gateway: Gateway, interpreter: list[str], folder: Path) -> str:
    text = block.replace("http://127.0.0.1:4000", gateway.url).replace("sk-...", MASTER_KEY)
    assert text.count(gateway.url) + text.count(MASTER_KEY) >= 2
    script = folder / "example"
    script.write_text(text, encoding="utf-8")
    process = subprocess.run([*interpreter, str(script)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_readmes_examples_work_as_they_stand(gateway: Gateway, tmp_path: Path) -> None:
    in_python, in_shell = readme_blocks()
    output = run_block(in_python, gateway, [sys.executable], tmp_path)
    first, second, third = output.splitlines()
    assert first.startswith("Echo: What is my name? | tokens in: ")
    before, after = map(int, re.findall(r"\d+", first))
    assert after > before
    assert (second, third) == ("Echo: Go on.", "4 items")
    output = run_block(in_shell, gateway, ["bash", "-e"], tmp_path)
    assert "Echo: What is my name?" in output
    assert '"object":"list"' in output
    assert output.endswith('"object":"response","deleted":true}')
