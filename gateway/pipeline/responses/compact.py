"""Compaction, on any provider: a model summarizes a conversation, and only the gateway can read the summary again.

The summary is a call through the usual stations, so it is metered, billed and limited like any other. Nothing is
stored. Source: https://platform.openai.com/docs/api-reference/responses/compact and CompactedResponse of the `openai`
package 3.51.0: all user messages, then one compaction item.
"""

from collections.abc import Sequence
from dataclasses import replace

import orjson

from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Catalog, Headers, Principal
from gateway.pipeline.responses.close import TurnClose
from gateway.pipeline.responses.create import answer, interpret, new_id, open_turn
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.responses.turn import Continuation
from gateway.pipeline.run import Inbound
from gateway.pipeline.services import Services
from gateway.pipeline.whole_reply import WholeReply
from gateway.protocol.dialects.responses.client_request import ResponsesRequest
from gateway.protocol.dialects.responses.client_tools import (
    CLIENT_OUTPUTS,
    CLIENT_TOOLS,
    read_call,
    read_call_id,
    read_result,
)
from gateway.protocol.dialects.responses.conversation import OUTPUT_TYPES, SUMMARY_HEADING
from gateway.protocol.dialects.responses.items import CALL_TYPES, invalid_value, missing_parameter, render_item
from gateway.protocol.dialects.responses.seal import Seal
from gateway.protocol.dialects.responses.stored import Item
from gateway.protocol.errors import BadRequest, UpstreamFault
from gateway.protocol.items import Text
from gateway.protocol.json.types import JsonObject
from gateway.protocol.routing_options import OPTIONS

INSTRUCTIONS = """\
You compress conversations. The messages before the last one are a conversation between a user and an assistant, with \
the assistant's tool calls and their results written out as text. Write down everything that the assistant needs in \
order to go on without having read it: what the user wants and in which words where the words matter, what was decided \
and why, facts, names, numbers, identifiers, file paths and code that are still needed, which tools were called with \
what result, what is done, what is open, and what was to happen next. Leave out courtesies and dead ends. Do not \
answer the user, do not call tools, and invent nothing. Write plain text in the language of the conversation."""
HELD_UNDER = "The conversation was held under these instructions, which are not for you:\n\n"
REQUEST = "Write down the conversation so far, as you were instructed."
#: The members of the caller's request that also hold for the call that writes the summary.
CARRIED = (
    "model", "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier",
    "user", "tags", "litellm_metadata", *sorted(OPTIONS),
)  # fmt: skip
#: The members that a create has and a compaction has not: the client would not notice that they do nothing.
REFUSED = ("conversation", "stream", "background")


async def compact(
    inbound: Inbound,
    principal: Principal,
    catalog: Catalog,
    services: Services,
    response_services: ResponseServices,
) -> tuple[Headers, JsonObject]:
    """(headers, the compacted window). Raises the Fault to answer with."""
    size = len(inbound.body)
    request = await read_sized(size, _read, inbound)
    turn = await open_turn(request, principal, services, response_services)
    continuation, items = turn.continuation, turn.all_items

    def summarize() -> ResponsesRequest:
        messages = _render_messages(items, history=len(continuation.history), seal=turn.seal)
        return _summary_request(request, messages, inbound)

    summary_turn = replace(
        await open_turn(await read_sized(size, summarize), principal, services, response_services),
        continuation=Continuation(preferred_deployment=continuation.preferred_deployment),
    )
    reply = WholeReply()
    close = TurnClose(summary_turn, services.now)
    await answer(summary_turn, close, inbound, principal, catalog, services, reply)
    response = orjson.loads(reply.body)
    item = {
        "id": request.ids("cmp_"),
        "type": "compaction",
        "encrypted_content": turn.seal.close({"summary": _summary(response)}),
    }
    user_messages = [
        render_item(item, frozenset({"message.input_image.image_url"})) for item in items if _is_users(item)
    ]
    return reply.headers, {
        "id": new_id("cmpresp_"),
        "object": "response.compaction",
        "created_at": int(turn.created_s),
        "output": [*user_messages, item],
        "usage": response["usage"],
    }


def _read(inbound: Inbound) -> ResponsesRequest:
    request = interpret(inbound)
    if not request.model:
        raise missing_parameter("model")
    for name in REFUSED:
        if request.body.get(name):
            raise BadRequest(f"'{name}' is not supported by compaction.", param=name, code="unsupported_parameter")
    return request


def _summary_request(request: ResponsesRequest, messages: list[JsonObject], inbound: Inbound) -> ResponsesRequest:
    """The create whose answer is the summary."""
    body = {name: request.body[name] for name in CARRIED if request.body.get(name) is not None}
    context = [_user(HELD_UNDER + request.instructions)] if request.instructions else []
    body |= {"instructions": INSTRUCTIONS, "input": [*context, *messages, _user(REQUEST)], "store": False}
    return interpret(replace(inbound, body=orjson.dumps(body)))


def _render_messages(items: Sequence[Item], *, history: int, seal: Seal) -> list[JsonObject]:
    """The conversation as messages that any model takes: calls and their results in words, reasoning left out.
    Raises BadRequest naming a compaction that this gateway did not make for this caller."""
    messages: list[JsonObject] = []
    for index, item in enumerate(items):
        kind = item["type"]
        if kind == "message":
            messages.append({"type": "message", "role": item["role"], "content": item["content"]})
        elif kind in CALL_TYPES:
            namespace = f"{item['namespace']}." if item.get("namespace") else ""
            call = f"{namespace}{item['name']} as {item['call_id']}: {item[CALL_TYPES[kind]]}"
            messages.append(_assistant(f"[calls the tool {call}]"))
        elif kind in CLIENT_TOOLS:
            tool_call = read_call(item)
            call = f"{tool_call.name} as {tool_call.id}: {tool_call.arguments}"
            messages.append(_assistant(f"[calls the tool {call}]"))
        elif kind in CLIENT_OUTPUTS:
            parts = read_result(item, read_call_id(item)).parts
            text = "".join(part.text for part in parts if isinstance(part, Text))
            messages.append(_user(f"[result of {read_call_id(item)}: {text}]"))
        elif kind in OUTPUT_TYPES:
            messages.append(_output(item))
        elif kind == "compaction":
            opened = seal.open(item["encrypted_content"])
            summary = None if opened is None else opened.get("summary")
            if type(summary) is not str:
                param = f"input[{index - history}]" if index >= history else "input"
                raise invalid_value(f"{param}.encrypted_content", "it was not made by this gateway for this caller")
            messages.append(_user(SUMMARY_HEADING + summary))
        elif kind == "item_reference":
            raise invalid_value(f"input[{index - history}].id", "there is no item of this id")
    return messages


def _output(item: Item) -> JsonObject:
    name = item.get("call_id") or item.get("name") or "a tool"
    output = item["output"]
    if type(output) is str:
        return _user(f"[result of {name}: {output}]")
    head: list[JsonObject] = [{"type": "input_text", "text": f"[result of {name}:]"}]
    return {"type": "message", "role": "user", "content": head + output}


def _user(text: str) -> JsonObject:
    return {"type": "message", "role": "user", "content": text}


def _assistant(text: str) -> JsonObject:
    return {"type": "message", "role": "assistant", "content": text}


def _is_users(item: Item) -> bool:
    return item["type"] == "message" and item.get("role") == "user"


def _summary(response: JsonObject) -> str:
    """Raises UpstreamFault for a summary that is not complete: the client would lose the rest."""
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    text = "".join(str(part["text"]) for part in parts if part["type"] == "output_text").strip()
    if response["status"] != "completed" or not text:
        raise UpstreamFault("The model did not write the summary to its end.", code="compaction_incomplete")
    return text
