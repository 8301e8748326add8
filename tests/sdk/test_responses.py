"""responses and its stored answers: sessions over providers, and the functions beside it."""

import asyncio

import openai
import pytest
from openai.types.responses import Response

from gateway import sdk
from gateway.sdk.process import PROCESS
from gateway.sdk.sessions import MemoryStore
from tests.fakes.upstream import CREDENTIAL, Answer, FakeUpstream
from tests.fakes.wire_server import FakeWires
from tests.sdk.waiting import eventually


@pytest.fixture
def openai_at(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> FakeUpstream:
    monkeypatch.setenv("OPENAI_API_KEY", CREDENTIAL)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
    upstream.requests.clear()
    return upstream


def create(text: str = "hello", model: str = "openai/up-chat", **options: object) -> Response:
    response = sdk.responses(text, model, **options)  # type: ignore[arg-type]
    assert isinstance(response, Response)
    return response


def test_a_response_is_stored_and_fetched(openai_at: FakeUpstream) -> None:
    response = create(max_output_tokens=100)
    assert "hello" in response.output_text
    again = sdk.get_responses(response_id=response.id)
    assert again.model_dump() == response.model_dump()
    assert asyncio.run(sdk.aget_responses(response.id)).id == response.id


def test_a_session_goes_on_at_another_provider(openai_at: FakeUpstream, wires: FakeWires) -> None:
    first = create("My name is Ada.")
    second = create("And then?", "anthropic/claude-x", api_key="k", api_base=wires.root, previous_response_id=first.id)
    sent = wires.last_request("claude-x").json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert "Ada" in str(sent[0])
    third = create("Go on.", previous_response_id=second.id)
    history = openai_at.last("up-chat").json["messages"]
    assert len(history) == 5
    assert third.previous_response_id == second.id


def test_output_of_an_answer_can_be_sent_back_as_input(openai_at: FakeUpstream) -> None:
    first = create(store=False)
    items = [{"role": "user", "content": "hello"}, *first.output, {"role": "user", "content": "more"}]
    sdk.responses(items, "openai/up-chat")
    assert len(openai_at.last("up-chat").json["messages"]) == 3


def test_a_deleted_response_is_gone(openai_at: FakeUpstream) -> None:
    response = create()
    gone = sdk.delete_responses(response.id)
    assert gone.model_dump() == {"id": response.id, "object": "response", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(response.id)
    with pytest.raises(openai.NotFoundError):
        asyncio.run(sdk.adelete_responses(response.id))
    with pytest.raises(openai.BadRequestError) as caught:
        create(previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_that_is_not_stored_cannot_be_fetched(openai_at: FakeUpstream) -> None:
    response = create(store=False)
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(response.id)


@pytest.mark.parametrize("response_id", ["", "resp_unknown", "../../etc/passwd", "resp_" + "a" * 5000, "résp"])
def test_an_unknown_id_is_not_found(response_id: str) -> None:
    for call in (sdk.get_responses, sdk.delete_responses, sdk.cancel_responses, sdk.list_input_items):
        with pytest.raises(openai.NotFoundError):
            call(response_id)


def test_input_items_come_in_pages(openai_at: FakeUpstream) -> None:
    items = [{"role": "user", "content": f"part {number}"} for number in range(5)]
    response = sdk.responses(items, "openai/up-chat")
    assert isinstance(response, Response)
    first = sdk.list_input_items(response.id, limit=3, order="asc")
    assert first.has_more
    rest = asyncio.run(sdk.alist_input_items(response.id, limit=3, order="asc", after=first.last_id))
    texts = [item.content[0].text for item in (*first.data, *rest.data)]  # type: ignore[union-attr]
    assert texts == [f"part {number}" for number in range(5)]
    assert sdk.list_input_items(response.id).data[0].id == rest.last_id


@pytest.mark.parametrize(
    ("options", "param"), [({"limit": 0}, "limit"), ({"order": "up"}, "order"), ({"after": "x"}, "after")]
)
def test_a_wrong_page_is_a_bad_request(openai_at: FakeUpstream, options: dict[str, object], param: str) -> None:
    response = create()
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.list_input_items(response.id, **options)  # type: ignore[arg-type]
    assert caught.value.param == param


def test_conversations_are_refused_in_words(openai_at: FakeUpstream) -> None:
    with pytest.raises(TypeError, match="conversation"):
        create(conversation="conv_1")


# Background


def test_a_background_response_is_made_while_the_program_goes_on(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-slow", Answer(before_s=0.3)):
        response = create(model="openai/up-slow", background=True)
        assert response.status == "queued"
        assert sdk.get_responses(response.id).status == "in_progress"
        eventually(lambda: sdk.get_responses(response.id).status == "completed")
    assert "hello" in sdk.get_responses(response.id).output_text


def test_a_background_response_is_cancelled(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-long", Answer(text="word " * 400, gap_s=0.05)):
        response = create(model="openai/up-long", background=True)
        eventually(lambda: openai_at.of("up-long"))
        assert sdk.cancel_responses(response.id).status == "cancelled"
        eventually(lambda: openai_at.last("up-long").disconnected)
    assert sdk.get_responses(response.id).status == "cancelled"
    assert asyncio.run(sdk.acancel_responses(response.id)).status == "cancelled"


def test_a_background_response_that_fails_says_so(openai_at: FakeUpstream) -> None:
    response = create(model="openai/up-500", background=True, num_retries=0)
    eventually(lambda: sdk.get_responses(response.id).status == "failed")
    assert sdk.get_responses(response.id).error is not None


def test_a_background_response_that_is_deleted_ends(openai_at: FakeUpstream) -> None:
    with openai_at.script("up-long", Answer(text="word " * 400, gap_s=0.05)):
        response = create(model="openai/up-long", background=True)
        eventually(lambda: openai_at.of("up-long"))
        sdk.delete_responses(response.id)
        eventually(lambda: openai_at.last("up-long").disconnected)
    with pytest.raises(openai.NotFoundError):
        sdk.get_responses(response.id)


def test_only_background_responses_can_be_cancelled(openai_at: FakeUpstream) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        sdk.cancel_responses(create().id)


# The store in memory


def test_the_memory_keeps_the_sessions_that_are_used(openai_at: FakeUpstream) -> None:
    PROCESS.store = MemoryStore(max_responses=3)
    used = create("keep me")
    for number in range(5):
        sdk.get_responses(used.id)
        create(f"other {number}")
    assert "keep me" in sdk.get_responses(used.id).output_text


def test_the_memory_is_bounded_by_bytes(openai_at: FakeUpstream) -> None:
    PROCESS.store = MemoryStore(max_bytes=20_000)
    ids = [create("x" * 100 + str(number)).id for number in range(40)]

    def is_there(response_id: str) -> bool:
        try:
            return bool(sdk.get_responses(response_id))
        except openai.NotFoundError:
            return False

    assert is_there(ids[-1])
    assert not is_there(ids[0])
