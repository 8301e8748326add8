"""The gateway's own cases of /v1/responses, with the SDK in the place of a server.

A case calls a gateway over HTTP or by the official client; here a transport hands each request to the functions of a
Router, and the results back as the JSON that they are. A module of tests takes the cases of its namesake in tests/e2e
by `cases`, and has its own fixtures `gateway`, `key` and `client`.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import openai
import orjson
from openai import AsyncOpenAI, BaseModel, OpenAI

from gateway import sdk
from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import write_config
from tests.sdk.wire import wire_form

KEYS = "there are no keys and owners in a process"
HTTP = "methods, paths and headers of HTTP"
LISTS = "the SDK has no list of responses"
CONVERSATIONS = "the SDK has no conversations"
SPEND = "there is no spend log; tests/sdk/test_completion.py has the costs of sdk.details"
RESTART = "it restarts a server; tests/sdk/test_store.py kills the process between two turns"
ROWS = "it writes rows by Django's shell; tests/sdk/test_store.py has expired responses"
SERVER = "it looks at a server's processes"
#: {module of tests/e2e: {case: the reason for which it cannot run here}}
LEFT_OUT: Mapping[str, Mapping[str, str]] = {
    "test_responses": {
        "test_responses_are_listed_and_filtered": LISTS,
        "test_a_list_refuses_what_it_does_not_know": LISTS,
        "test_what_is_not_there_for_you_cannot_be_told_apart": KEYS,
        "test_a_team_shares_its_responses_and_a_person_her_own": KEYS,
        "test_items_can_be_named_instead_of_sent": KEYS,
        "test_other_methods_and_paths_are_refused": HTTP,
        "test_a_parent_and_a_conversation_exclude_each_other": CONVERSATIONS,
        "test_what_never_began_is_not_kept": LISTS,
        "test_a_chain_of_a_thousand_is_continued_and_a_longer_one_refused": ROWS,
        "test_a_response_is_on_the_books_once": SPEND,
    },
    "test_responses_wires": {
        "test_reasoning_goes_back_to_its_maker_from_the_store": RESTART,
        "test_spend_is_exact": SPEND,
    },
    "test_responses_native": {
        "test_the_upstream_is_told_no_state_and_all_else": "unknown arguments go by extra_body; test_router.py has it",
        "test_a_conversation_wanders_between_upstreams_of_every_kind": CONVERSATIONS,
        "test_over_a_websocket_turns_follow_each_other": "there is no WebSocket",
        "test_a_conversation_holds_what_was_said_by_every_way": CONVERSATIONS,
        "test_in_the_background_it_is_made_and_billed_once": SPEND,
        "test_usage_and_cost_are_exact": SPEND,
        "test_usage_that_is_not_told_is_estimated": SPEND,
        "test_an_item_that_is_not_the_callers_is_not_there": KEYS,
        "test_a_failure_before_anything_was_said_is_told_by_the_status": LISTS,
        "test_a_client_that_leaves_has_its_response_kept_as_cancelled": "it has a client of its own; test_streams.py",
    },
    "test_background": {
        "test_a_background_response_is_polled_to_its_end_and_billed_once": SPEND,
        "test_a_cancelled_response_stays_cancelled_and_its_upstream_is_let_go": SPEND,
        "test_deleting_a_running_response_ends_it_and_erases_all": SPEND,
        "test_a_conversation_goes_on_with_what_was_made_in_the_background": CONVERSATIONS,
        "test_what_a_killed_worker_left_fails_within_a_minute_and_is_never_run_again": SERVER,
        "test_what_is_queued_without_a_worker_waits_and_can_be_cancelled": SERVER,
        "test_a_restart_of_the_web_process_disturbs_nothing": SERVER,
        "test_an_orderly_stop_finishes_what_it_can_and_fails_the_rest": SERVER,
        "test_a_stream_can_be_followed_on_another_replica": SERVER,
    },
}


def cases(module: ModuleType) -> dict[str, Callable[..., object]]:
    """The cases of a module that run here."""
    left_out = LEFT_OUT[module.__name__.rpartition(".")[2]]
    found = {name: value for name, value in vars(module).items() if name.startswith("test_") and callable(value)}
    assert left_out.keys() <= found.keys(), left_out.keys() - found.keys()
    return {name: value for name, value in found.items() if name not in left_out}


Answer = tuple[int, Mapping[str, str], bytes]
FRAMES = {"content-type": "text/event-stream"}
PLAIN = {"content-type": "application/json", "x-request-id": "none"}
_numbers = count()


class SDKGateway:
    """The members of tests.e2e.gateway.Gateway that the cases use. Closes: the owner, with `close()`."""

    port = 0

    def __init__(self, home: Path, config: JsonObject) -> None:
        home.mkdir(exist_ok=True)
        self.router = sdk.Router.from_config(write_config(home / "config.yaml", config))
        self.url = "http://sdk.invalid"
        self.http = httpx.Client(base_url=self.url, transport=httpx.MockTransport(self._serve_httpx))

    def close(self) -> None:
        self.http.close()
        self.router.close()

    def issue_key(self, **fields: object) -> str:
        """A text of its own for each test: cases look for it in what upstreams got."""
        return f"sk-none-{next(_numbers):08}"

    def openai(self, key: str) -> OpenAI:
        client = openai.DefaultHttpxClient(transport=httpx2.MockTransport(self._serve))
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=client)

    def async_openai(self, key: str) -> AsyncOpenAI:
        client = openai.DefaultAsyncHttpxClient(transport=httpx2.MockTransport(self._aserve))
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=client)

    def _serve_httpx(self, request: httpx.Request) -> httpx.Response:
        status, headers, content = self._answer(request.method, request.url.path, request.url.params, request.content)
        return httpx.Response(status, headers=headers, content=content)

    def _serve(self, request: httpx2.Request) -> httpx2.Response:
        status, headers, content = self._answer(request.method, request.url.path, request.url.params, request.content)
        return httpx2.Response(status, headers=headers, content=content)

    def _answer(self, method: str, path: str, query: Any, body: bytes) -> tuple[int, Mapping[str, str], Any]:
        name, arguments = read_request(method, path, query, body)
        try:
            result = getattr(self.router, name)(**arguments)
        except openai.APIError as error:
            return failure(error)
        if isinstance(result, sdk.Stream):
            return 200, FRAMES, _frames(result)
        return 200, {**PLAIN, **_dropped(result)}, orjson.dumps(wire_form(result))

    async def _aserve(self, request: httpx2.Request) -> httpx2.Response:
        name, arguments = read_request(request.method, request.url.path, request.url.params, request.content)
        try:
            result = await getattr(self.router, f"a{name}")(**arguments)
        except openai.APIError as error:
            status, headers, content = failure(error)
            return httpx2.Response(status, headers=headers, content=content)
        if isinstance(result, sdk.AsyncStream):
            return httpx2.Response(200, headers=FRAMES, content=_aframes(result))
        return httpx2.Response(200, headers=PLAIN, content=orjson.dumps(wire_form(result)))


def read_request(method: str, path: str, query: Any, body: bytes) -> tuple[str, JsonObject]:
    """(the SDK's function, its arguments) of a request."""
    response_id, _, rest = path.partition("/responses")[2].lstrip("/").partition("/")
    include = [*query.get_list("include[]"), *query.get_list("include")]
    shown: JsonObject = {"response_id": response_id, **({"include": include} if include else {})}
    match (method, bool(response_id), rest):
        case ("POST", False, ""):
            return "responses", {"model": "", "input": None, **json.loads(body)}
        case ("GET", True, ""):
            if query.get("stream") == "true":
                after = query.get("starting_after")
                shown |= {"stream": True, "starting_after": None if after is None else int(after)}
            return "get_responses", shown
        case ("DELETE", True, ""):
            return "delete_responses", shown
        case ("POST", True, "cancel"):
            return "cancel_responses", shown
        case ("GET", True, "input_items"):
            page = {name: query[name] for name in ("after", "order") if name in query}
            return "list_input_items", shown | page | ({"limit": int(query["limit"])} if "limit" in query else {})
    raise NotImplementedError(f"{method} {path}")


def failure(error: openai.APIError) -> Answer:
    status = getattr(error, "status_code", 500)
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    headers = dict(error.response.headers) if isinstance(error, openai.APIStatusError) else {}
    headers.pop("content-length", None)
    return status, {**PLAIN, **headers}, orjson.dumps({"error": told})


def _dropped(result: object) -> Mapping[str, str]:
    """The header that the gateway tells them by."""
    dropped = sdk.details(result).dropped_params
    return {"x-tollgate-dropped-params": ",".join(dropped)} if dropped else {}


def _frame(event: BaseModel) -> bytes:
    data = wire_form(event)
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), orjson.dumps(data))


def _frames(stream: sdk.Stream[Any]) -> Iterator[bytes]:
    with stream:
        for event in stream:
            yield _frame(event)
        yield b"data: [DONE]\n\n"


async def _aframes(stream: sdk.AsyncStream[Any]) -> AsyncIterator[bytes]:
    async with stream:
        async for event in stream:
            yield _frame(event)
        yield b"data: [DONE]\n\n"
