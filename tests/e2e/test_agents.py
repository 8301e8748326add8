"""The OpenAI Agents SDK runs agents over the gateway: tools, a handoff, and a session that outlives a restart.

The package wants websockets below 17; where it cannot be installed beside the gateway's, these tests are skipped.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, Backend
from tests.e2e.gateway import Gateway
from tests.fakes.thinking import ModelRequest, Thinking, oblige
from tests.fakes.upstream import CREDENTIAL
from tests.fakes.wires import ScriptedAnswer

agents = pytest.importorskip("agents", reason="openai-agents is not installed: it wants websockets below 17")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

MODELS: dict[str, JsonObject] = {
    "chat": {"model": "openai_compatible/up-agent"},
    "claude": {"model": "anthropic/claude-sonnet-4-5"},
    "thinker": {"model": "anthropic/claude-sonnet-4-5~thinks"},
    "gemini": {"model": "gemini/gemini-2.5-flash"},
}
BASES = {"chat": "/v1", "claude": "", "thinker": "", "gemini": "/v1beta"}
QUIET = agents.RunConfig(tracing_disabled=True)
BOTH = pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
CASES = [(model, is_streamed) for model in MODELS for is_streamed in (False, True)]
EVERY = pytest.mark.parametrize("model", MODELS)
WEATHER, TIME = "17 degrees in Lisbon", "five past nine"


def answer(what: ModelRequest) -> ScriptedAnswer:
    """Calls each tool once; then repeats all that the user said and the tools brought."""
    thought = oblige(what)
    if thought.calls:
        return thought
    texts = [text for who, text in what.turns if who in {"user", "result"}]
    return ScriptedAnswer(
        what.model, [f"{what.system} knows: ", *(f"<{text}> " for text in texts)], [], thought=thought.thought
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Thinking]:
    with Thinking(answer) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: Thinking, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    rows = [
        {
            "model_name": name,
            "litellm_params": {**params, "api_base": upstream.root + BASES[name], "api_key": CREDENTIAL},
        }
        for name, params in MODELS.items()
    ]
    env = {**ENVIRONMENT, **backend.environment()}
    running = Gateway(tmp_path_factory.mktemp(f"agents-{backend.name}"), config={"model_list": rows}, env=env)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


@pytest.fixture
async def speaker(gateway: Gateway, key: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway.async_openai(key) as client:
        yield client


def team(model: str, client: openai.AsyncOpenAI, **settings: Any) -> tuple[Any, Any]:
    """(who takes questions, who answers them with two tools)"""

    @agents.function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        assert city
        return WEATHER

    @agents.function_tool
    def local_time(city: str, is_exact: bool) -> str:
        """The time in a city."""
        assert (bool(city), is_exact) == (True, True)
        return TIME

    shared = {
        "model": agents.OpenAIResponsesModel(model=model, openai_client=client),
        "model_settings": agents.ModelSettings(**settings),
    }
    guide = agents.Agent(name="Guide", instructions="The guide", tools=[weather, local_time], **shared)
    return agents.Agent(name="Desk", instructions="The desk", handoffs=[guide], **shared), guide


def check_second(text: str) -> None:
    """Both questions are known, each once."""
    for question in ("<How is Lisbon?>", "<And now?>"):
        assert text.count(question) == 1, text


async def run(agent: Any, prompt: Any, *, is_streamed: bool, **options: Any) -> Any:
    if not is_streamed:
        return await agents.Runner.run(agent, prompt, run_config=QUIET, **options)
    result = agents.Runner.run_streamed(agent, prompt, run_config=QUIET, **options)
    assert [event async for event in result.stream_events()]
    return result


@BOTH
@EVERY
async def test_a_handoff_then_two_tools_then_an_answer(
    speaker: openai.AsyncOpenAI, model: str, is_streamed: bool
) -> None:
    desk, guide = team(model, speaker)
    result = await run(desk, "How is Lisbon?", is_streamed=is_streamed)
    assert result.last_agent is guide
    kinds = [item.type for item in result.new_items if item.type != "reasoning_item"]
    assert kinds == [
        "handoff_call_item", "handoff_output_item", "tool_call_item", "tool_call_item",
        "tool_call_output_item", "tool_call_output_item", "message_output_item",
    ]  # fmt: skip
    assert result.final_output.startswith("The guide knows: <How is Lisbon?>")
    assert WEATHER in result.final_output
    assert TIME in result.final_output


async def test_sessions_by_previous_response_go_on_after_a_restart(
    gateway: Gateway, speaker: openai.AsyncOpenAI
) -> None:
    """Only what is new is sent: the tools' results too are added to a stored response."""
    firsts = {}
    for model, is_streamed in CASES:
        desk, guide = team(model, speaker)
        first = await run(desk, "How is Lisbon?", is_streamed=is_streamed, auto_previous_response_id=True)
        firsts[model, is_streamed] = guide, first.last_response_id
    gateway.restart()
    for (model, is_streamed), (guide, response_id) in firsts.items():
        second = await run(guide, "And now?", is_streamed=is_streamed, previous_response_id=response_id)
        check_second(second.final_output)
        assert second.final_output.count(WEATHER) == 2, model


async def test_conversations_go_on_after_a_restart(gateway: Gateway, speaker: openai.AsyncOpenAI) -> None:
    """Named in the request; and as a session of the SDK's, which reads and writes the items itself."""
    begun = {}
    for model in MODELS:
        _, guide = team(model, speaker)
        conversation = await speaker.conversations.create()
        await run(guide, "How is Lisbon?", is_streamed=False, conversation_id=conversation.id)
        session = agents.OpenAIConversationsSession(openai_client=speaker)
        await run(guide, "How is Lisbon?", is_streamed=True, session=session)
        begun[model] = guide, conversation.id, session.session_id
    gateway.restart()
    for guide, named, read in begun.values():
        check_second((await run(guide, "And now?", is_streamed=True, conversation_id=named)).final_output)
        again = agents.OpenAIConversationsSession(conversation_id=read, openai_client=speaker)
        check_second((await run(guide, "And now?", is_streamed=False, session=again)).final_output)


@EVERY
async def test_a_client_that_keeps_its_own_history(speaker: openai.AsyncOpenAI, model: str) -> None:
    """Nothing is stored: what an answer held comes back as input, with its encrypted reasoning."""
    _, guide = team(model, speaker, store=False, response_include=["reasoning.encrypted_content"])
    first = await run(guide, "How is Lisbon?", is_streamed=False)
    history = [*first.to_input_list(), {"role": "user", "content": "And now?"}]
    second = await run(guide, history, is_streamed=True)
    check_second(second.final_output)
