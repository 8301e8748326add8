"""The cost of an answer in the usage of the event that ends its stream. The stored response does not have it."""

import orjson

_DATA, _END = b"\ndata: ", b"\n\n"
_EVENTS = (b"event: response.completed\n", b"event: response.incomplete\n")


def add_cost(ending: bytes, usd: str) -> bytes:
    """`ending`: the last frames of a stream. As they are where its terminal event tells no usage."""
    start = max(ending.rfind(event) for event in _EVENTS)
    data, end = ending.find(_DATA, start), ending.find(_END, start)
    if start < 0 or not start < data < end:
        return ending
    event = orjson.loads(ending[data + len(_DATA) : end])
    response = event.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return ending
    told = {**event, "response": {**response, "usage": {**usage, "cost": orjson.Fragment(usd)}}}
    return ending[: data + len(_DATA)] + orjson.dumps(told) + ending[end:]
