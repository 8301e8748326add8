"""Background responses with the openai SDK: followed from anywhere, cancelled for good, and made once."""

import contextlib
from typing import Any

import httpx
import openai
import psutil
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import Backend, Launch
from tests.e2e.gateway import MASTER_KEY, Gateway, eventually
from tests.fakes.responses_grammar import check, read_frames
from tests.fakes.upstream import Answer, FakeUpstream, Recorded, Talking

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODEL, UPSTREAM = "priced", "up-priced"
ACTIVE = {"queued", "in_progress"}
WORDS = 40
SLOW = Answer(gap_s=0.05, text="word " * WORDS)
ENDLESS = Talking(gap_s=0.05)


def ended(client: openai.OpenAI, response_id: str, within_s: float = 20) -> Any:
    def look() -> Any:
        response = client.responses.retrieve(response_id)
        return False if response.status in ACTIVE else response

    return eventually(look, within_s=within_s, what=f"{response_id} has ended")


def running(client: openai.OpenAI, upstream: FakeUpstream, name: str, **fields: Any) -> tuple[Any, Recorded]:
    """A background response whose upstream is talking, and the request that this one got."""
    created = client.responses.create(model=MODEL, input=name, background=True, user=name, **fields)
    recorded = eventually(
        lambda: next((one for one in requests(upstream, name) if one.sent_bytes > 500), False),
        within_s=20,
        what="the upstream talks",
    )
    return created, recorded


@pytest.fixture(autouse=True)
def unasked(upstream: FakeUpstream) -> None:
    """One upstream serves the gateways of all backends; a test counts its own requests only."""
    upstream.requests.clear()


def requests(upstream: FakeUpstream, name: str) -> list[Recorded]:
    return [one for one in upstream.of(UPSTREAM) if (one.json.get("messages") or [{}])[-1].get("content") == name]


def stream_of(gateway: Gateway, key: str, response_id: str, **query: Any) -> list[JsonObject]:
    answer = gateway.http.get(
        f"/v1/responses/{response_id}",
        params={"stream": "true", **query},
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 200, answer.text
    return read_frames(answer.content)


def worker_of(gateway: Gateway) -> psutil.Process:
    return next(process for process in gateway.processes() if "worker" in process.cmdline())


# As a client uses it


def test_a_background_response_is_polled_to_its_end_and_billed_once(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, SLOW):
        created = client.responses.create(model=MODEL, input="poll", background=True, metadata={"job": "1"})
        assert (created.status, created.output, created.usage, created.background) == ("queued", [], None, True)
        response = client.responses.retrieve(created.id)
        assert response.status in ACTIVE
        final = ended(client, created.id)
    assert (final.status, final.output_text) == ("completed", "word " * WORDS)
    assert final.usage is not None
    assert (final.id, final.created_at, final.model, final.metadata) == (
        created.id,
        created.created_at,
        MODEL,
        {"job": "1"},
    )
    assert len(requests(upstream, "poll")) == 1
    [row] = gateway.wait_priced(api_key=key)
    assert row["completion_tokens"] == final.usage.output_tokens
    assert row["cost_status"] == "priced"


def test_the_input_items_keep_their_ids_while_it_is_made(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, SLOW):
        created = client.responses.create(model=MODEL, input="items", background=True)
        before = [item.id for item in client.responses.input_items.list(created.id)]
        final = ended(client, created.id)
    after = [item.id for item in client.responses.input_items.list(created.id)]
    assert before == after
    assert len({*before, *(item.id for item in final.output)}) == len(before) + len(final.output)


def test_it_is_continued_like_any_other(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    first = ended(client, client.responses.create(model=MODEL, input="my name is Ada", background=True).id)
    second = client.responses.create(
        model=MODEL, input="what is my name?", previous_response_id=first.id, background=True
    )
    assert ended(client, second.id).status == "completed"
    contents = [str(message["content"]) for message in upstream.last(UPSTREAM).json["messages"]]
    assert contents == ["my name is Ada", first.output_text, "what is my name?"]


def test_one_that_has_not_ended_cannot_be_continued(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, SLOW):
        created = client.responses.create(model=MODEL, input="parent", background=True)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="child", previous_response_id=created.id)
        assert refused.value.param == "previous_response_id"
        ended(client, created.id)


def test_a_background_stream_is_told_as_it_is_made(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, SLOW):
        events: list[Any] = []
        with client.responses.create(model=MODEL, input="live", background=True, stream=True) as stream:
            for event in stream:
                if not events:
                    assert event.type == "response.created"
                    assert event.response.status == "queued"
                events.append(event)
                if event.type == "response.output_text.delta" and event.sequence_number < 20:
                    assert client.responses.retrieve(response_id_of(events)).status == "in_progress"
    response = check(stream_of(gateway, key, response_id_of(events)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert events[-1].response.output_text == "word " * WORDS
    assert events[-1].response.id == response["id"]
    assert events[-1].response.model_dump() == client.responses.retrieve(response["id"]).model_dump()


def response_id_of(events: list[Any]) -> str:
    response_id: str = events[0].response.id
    return response_id


def test_a_client_that_comes_back_gets_exactly_what_it_missed(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, SLOW):
        first: list[Any] = []
        with client.responses.create(model=MODEL, input="resume", background=True, stream=True) as stream:
            for event in stream:
                first.append(event)
                if len(first) == 15:
                    break
        response_id = response_id_of(first)
        second: list[Any] = []
        with client.responses.retrieve(response_id, stream=True, starting_after=first[-1].sequence_number) as stream:
            for event in stream:
                second.append(event)
                if len(second) == 10:
                    break
        request = upstream.last(UPSTREAM)
        count = request.sent_bytes
        assert client.responses.retrieve(response_id).status == "in_progress"
        eventually(lambda: request.sent_bytes > count, within_s=5, what="the run goes on without a client")
        third = list(client.responses.retrieve(response_id, stream=True, starting_after=second[-1].sequence_number))
    events = [event.model_dump(mode="json", warnings=False) for event in (*first, *second, *third)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    whole = stream_of(gateway, key, response_id)
    assert [event["type"] for event in whole] == [event["type"] for event in events]
    assert check(whole)["status"] == "completed"
    last = whole[-1]["sequence_number"]
    assert stream_of(gateway, key, response_id, starting_after=last - 1) == whole[-1:]
    assert stream_of(gateway, key, response_id, starting_after=last) == []


def test_the_sdks_helper_follows_a_response_that_runs(client: openai.OpenAI, upstream: FakeUpstream) -> None:
    with upstream.script(UPSTREAM, SLOW):
        created = client.responses.create(model=MODEL, input="helper", background=True)
        with client.responses.stream(response_id=created.id) as stream:
            assert stream.get_final_response().output_text == "word " * WORDS


@pytest.mark.parametrize(
    ("fault", "code"), [("400", "invalid_prompt"), ("429", "rate_limit_exceeded"), ("500", "server_error")]
)
def test_what_an_upstream_refuses_is_a_failed_response(
    client: openai.OpenAI, gateway: Gateway, key: str, fault: str, code: str
) -> None:
    created = client.responses.create(model=f"fault-{fault}", input="x", background=True)
    final = ended(client, created.id)
    assert (final.status, final.output) == ("failed", [])
    assert final.error is not None
    assert final.error.code == code
    assert check(stream_of(gateway, key, created.id))["status"] == "failed"


def test_what_breaks_off_has_failed_with_what_was_told(
    client: openai.OpenAI, gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, Answer(gap_s=0.02, text="word " * 20, stop_after=10, ending="cut")):
        created = client.responses.create(model=MODEL, input="cut", background=True)
        final = ended(client, created.id)
    assert (final.status, final.error.code if final.error else None) == ("failed", "server_error")
    assert final.output_text.startswith("word word")
    assert check(stream_of(gateway, key, created.id))["output"] == [
        item.model_dump(mode="json", exclude_unset=True, warnings=False) for item in final.output
    ]


def test_what_can_be_refused_at_once_is_refused_and_not_stored(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="no-such-model", input="x", background=True)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", background=True, tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="x", background=True, store=False)
    assert refused.value.param == "background"


# Cancel and delete


def test_a_cancelled_response_stays_cancelled_and_its_upstream_is_let_go(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, ENDLESS):
        created, recorded = running(client, upstream, "cancel-me")
        cancelled = client.responses.cancel(created.id)
        assert cancelled.status == "cancelled"
        eventually(lambda: recorded.disconnected, within_s=4, what="the upstream call ends")
    assert client.responses.cancel(created.id).model_dump() == cancelled.model_dump()
    [row] = gateway.wait_priced(api_key=key)
    assert row["usage_estimated"] is True
    assert client.responses.retrieve(created.id).model_dump() == cancelled.model_dump()
    assert check(stream_of(gateway, key, created.id))["status"] == "cancelled"
    assert len(requests(upstream, "cancel-me")) == 1


def test_a_stream_of_a_response_that_is_cancelled_ends(
    gateway: Gateway, client: openai.OpenAI, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, ENDLESS):
        events: list[Any] = []
        with client.responses.create(model=MODEL, input="cut short", background=True, stream=True) as stream:
            for event in stream:
                events.append(event)
                if len(events) == 12:
                    client.responses.cancel(response_id_of(events))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert check(stream_of(gateway, key, response_id_of(events)))["status"] == "cancelled"


def test_a_response_that_completes_is_not_cancelled_any_more(client: openai.OpenAI) -> None:
    final = ended(client, client.responses.create(model=MODEL, input="done", background=True).id)
    assert client.responses.cancel(final.id).model_dump() == final.model_dump()


def test_deleting_a_running_response_ends_it_and_erases_all(
    client: openai.OpenAI, gateway: Gateway, key: str, upstream: FakeUpstream
) -> None:
    with upstream.script(UPSTREAM, ENDLESS):
        created, recorded = running(client, upstream, "delete-me")
        client.responses.delete(created.id)
        eventually(lambda: recorded.disconnected, within_s=4, what="the upstream call ends")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created.id)
    assert len(gateway.wait_priced(api_key=key)) == 1


def test_a_conversation_goes_on_with_what_was_made_in_the_background(
    client: openai.OpenAI, upstream: FakeUpstream
) -> None:
    conversation = client.conversations.create()
    with upstream.script(UPSTREAM, SLOW):
        created = client.responses.create(
            model=MODEL, input="in the background", background=True, conversation=conversation.id
        )
        with pytest.raises(openai.ConflictError):
            client.responses.create(model=MODEL, input="meanwhile", conversation=conversation.id)
        final = ended(client, created.id)
    listed = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.id for item in listed][1:] == [item.id for item in final.output]
    with upstream.script(UPSTREAM, ENDLESS):
        cancelled, _ = running(client, upstream, "then cancelled", conversation=conversation.id)
        client.responses.cancel(cancelled.id)
    client.responses.create(model=MODEL, input="at once", conversation=conversation.id)
    assert "then cancelled" not in str(client.conversations.items.list(conversation.id).data)


# Deaths


@pytest.fixture
def own(launch: Launch, backend: Backend, config: JsonObject) -> Gateway:
    return launch(config, env=backend.environment())


def test_what_a_killed_worker_left_fails_within_a_minute_and_is_never_run_again(
    own: Gateway, upstream: FakeUpstream
) -> None:
    key = own.issue_key()
    client = own.openai(key)
    with upstream.script(UPSTREAM, ENDLESS):
        created, _ = running(client, upstream, "killed")
        with client.responses.retrieve(created.id, stream=True) as stream:
            next(event for event in stream if event.type == "response.output_text.delta")
        worker_of(own).kill()
        final = ended(client, created.id, within_s=60)
    assert (final.status, final.error.code if final.error else None) == ("failed", "server_error")
    events = stream_of(own, key, created.id)
    assert check(events)["status"] == "failed"
    assert any(event["type"] == "response.output_text.delta" for event in events)
    rows = eventually(lambda: own.settled_rows(api_key=key), within_s=30, what="its row is settled")
    assert [row["cost_status"] for row in rows] == ["lost"]
    assert ended(client, client.responses.create(model=MODEL, input="next", background=True).id).status == "completed"
    assert len(requests(upstream, "killed")) == 1


def test_what_is_queued_without_a_worker_waits_and_can_be_cancelled(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment(), start=False).start("--web-only")
    key, blocked = gateway.issue_key(), gateway.issue_key()
    client = gateway.openai(key)
    waiting = client.responses.create(model=MODEL, input="waits-for-a-worker", background=True)
    cancelled = client.responses.create(model=MODEL, input="never-asked", background=True)
    revoked = gateway.openai(blocked).responses.create(model=MODEL, input="revoked", background=True)
    assert client.responses.cancel(cancelled.id).status == "cancelled"
    gateway.admin.post("/key/block", json={"key": blocked})
    assert client.responses.retrieve(waiting.id).status == "queued"
    assert check(stream_of(gateway, key, cancelled.id))["output"] == []
    if backend.name == "sqlite":  # where messages lie in a folder
        messages = [path.read_text() for path in (gateway.home / "broker").rglob("*.msg")]
        assert any("run_background" in message for message in messages)
        for hidden in ("waits-for-a-worker", waiting.id, key, MODEL):
            assert not any(hidden in message for message in messages)
    worker = gateway.spawn("worker", "--beat", "--concurrency=2")  # of the prefork pool
    assert ended(client, waiting.id, within_s=40).status == "completed"
    assert client.responses.retrieve(cancelled.id).status == "cancelled"
    assert requests(upstream, "never-asked") == requests(upstream, "revoked") == []
    failed = eventually(
        lambda: gateway.http.get(f"/v1/responses/{revoked.id}", headers=authorized(MASTER_KEY)).status_code == 404,
        within_s=5,
        what="no other key sees it",
    )
    assert failed
    with upstream.script(UPSTREAM, SLOW):
        last, _ = running(client, upstream, "amid-a-stop")
        worker.terminate()
        assert worker.wait(30) in {0, -15, 143}
    assert client.responses.retrieve(last.id).status == "completed"  # it was finished first
    gateway.stop()


def authorized(key: str) -> JsonObject:
    return {"authorization": f"Bearer {key}"}


def test_a_restart_of_the_web_process_disturbs_nothing(
    launch: Launch, backend: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env=backend.environment(), start=False).start("--web-only")
    worker = gateway.spawn("worker", "--beat")
    key = gateway.issue_key()
    client = gateway.openai(key)
    with upstream.script(UPSTREAM, Answer(gap_s=0.1, text="word " * 60)):
        created, _ = running(client, upstream, "survives")
        events: list[Any] = []
        with contextlib.suppress(openai.APIError, httpx.HTTPError):
            for event in client.responses.retrieve(created.id, stream=True):
                events.append(event)
                if len(events) == 8:
                    gateway.kill(whole=False)
        gateway.start("--web-only")
        rest = list(client.responses.retrieve(created.id, stream=True, starting_after=events[-1].sequence_number))
    assert [event.sequence_number for event in (*events, *rest)] == list(range(len(events) + len(rest)))
    assert rest[-1].response.output_text == "word " * 60
    assert check(stream_of(gateway, key, created.id))["status"] == "completed"
    assert len(requests(upstream, "survives")) == 1
    assert len(gateway.wait_priced(api_key=key)) == 1
    worker.terminate()
    worker.wait(30)


def test_an_orderly_stop_finishes_what_it_can_and_fails_the_rest(
    launch: Launch, config: JsonObject, upstream: FakeUpstream
) -> None:
    gateway = launch(config, env={"TOLLGATE_DRAIN_GRACE_S": "10"})
    key = gateway.issue_key()
    client = gateway.openai(key)
    with upstream.script(UPSTREAM, ENDLESS):
        long, _ = running(client, upstream, "long")
    with upstream.script(UPSTREAM, Answer(gap_s=0.05, text="word " * 30)):
        short, _ = running(client, upstream, "short")
    gateway.stop()
    gateway.start()
    assert client.responses.retrieve(short.id).status == "completed"
    failed = client.responses.retrieve(long.id)
    assert (failed.status, failed.error.code if failed.error else None) == ("failed", "server_error")
    assert check(stream_of(gateway, key, long.id))["status"] == "failed"
    assert len(gateway.wait_priced(2, api_key=key)) == 2


def test_a_stream_can_be_followed_on_another_replica(
    launch: Launch, production: Backend, config: JsonObject, upstream: FakeUpstream
) -> None:
    env = {**production.environment(), "TOLLGATE_ENCRYPTION_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
    first, second = launch(config, env=env), launch(config, env=env)
    key = first.issue_key()
    eventually(lambda: second.call(key, model="priced").status_code == 200, within_s=2, what="the key works on both")
    with upstream.script(UPSTREAM, SLOW):
        created, _ = running(first.openai(key), upstream, "elsewhere")
        with second.openai(key).responses.stream(response_id=created.id) as stream:
            assert stream.get_final_response().output_text == "word " * WORDS
    with upstream.script(UPSTREAM, ENDLESS):
        created, recorded = running(first.openai(key), upstream, "cancelled elsewhere")
        assert second.openai(key).responses.cancel(created.id).status == "cancelled"
        eventually(lambda: recorded.disconnected, within_s=4, what="the upstream call ends")
    assert stream_of(first, key, created.id) == stream_of(second, key, created.id)
