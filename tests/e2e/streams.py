"""Streams of /v1/responses as they are on the wire, each held against the grammar of its events."""

from typing import Any

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import Gateway
from tests.fakes.responses_grammar import check, read_frames


def post(gateway: Gateway, key: str, path: str = "/v1/responses", **body: Any) -> Any:
    return gateway.http.post(path, json=body, headers={"authorization": f"Bearer {key}"})


def get(gateway: Gateway, key: str, path: str, **query: Any) -> Any:
    return gateway.http.get(path, params=query, headers={"authorization": f"Bearer {key}"})


def streamed(gateway: Gateway, key: str, **body: Any) -> tuple[list[JsonObject], JsonObject]:
    """All events of a stream, and the response of its terminal event."""
    answer = post(gateway, key, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read_frames(answer.content)
    return events, check(events)


def text_of(response: JsonObject) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


def deltas(events: list[JsonObject], kind: str = "response.output_text.delta") -> str:
    return "".join(event["delta"] for event in events if event["type"] == kind)
