"""Requests in the shapes that real clients send: the gateway reads each as its client means it.

Shapes: Vercel AI SDK (@ai-sdk/openai), LangChain (langchain-openai), Codex CLI, OpenAI's Agents SDK and Open WebUI, as
of 2026.
"""

from typing import Any

import orjson
import pytest

from gateway.protocol.dialect import Hints
from gateway.protocol.dialects.responses.client_request import (
    build_settings,
    decode,
    refuse_native_only,
    wants_reasoning_summary,
)
from gateway.protocol.dialects.responses.conversation import build_messages, check_calls
from gateway.protocol.errors import BadRequest
from gateway.protocol.ids import Ids
from gateway.protocol.items import Assistant, Message, Reasoning, System, Text, ToolCall, ToolResult, User
from tests.unit.protocol.dialects.responses.test_conversation import SEAL

QUESTION = User((Text("Hi"),))
ANSWER = Assistant((Text("Hello."),))
CALL_MESSAGE = Assistant((), (ToolCall("call_1", "run", '{"cmd":"ls"}'),))
RESULT = ToolResult("call_1", (Text("a.txt"),))
CALL = {"type": "function_call", "call_id": "call_1", "name": "run", "arguments": '{"cmd":"ls"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "a.txt"}
SEALED_REASONING = SEAL.close({"origin": "here", "text": "Hmm", "signature": "s", "redacted": ""})
REASONING = (Reasoning("Hmm", "s", ""),)


def read_messages(items: list[Any], **body: Any) -> tuple[Message, ...]:
    request = decode(orjson.dumps({"model": "m", "input": items, **body}), Hints(), Ids("0" * 48))
    refuse_native_only(request)
    check_calls(request.input)
    build_settings(request)
    return build_messages(request.input, instructions=request.instructions, origin="here", seal=SEAL, history=0)


CODEX: dict[str, Any] = {
    "instructions": "Be brief",
    "stream": True,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "prompt_cache_key": "01a1f8bb-565c-7283-9d19-3a94aad777d9",
    "client_metadata": {"x-codex-installation-id": "c6760b53"},
    "text": {"verbosity": "medium"},
    "tools": [
        {"type": "function", "name": "run", "description": "d", "strict": False, "parameters": {"type": "object"}},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "d",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
        },
    ],
}


def test_codex_keeps_its_own_history_without_ids() -> None:
    """Its reasoning has a null content, its developer messages come first, its tools' outputs may be lists of parts."""
    messages = read_messages(
        [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": SEALED_REASONING},
            CALL,
            {**OUTPUT, "output": [{"type": "input_text", "text": "a.txt"}]},
            {"type": "ghost_snapshot", "ghost_commit": {"id": "c0ffee", "parent": None}},
            {"type": "reasoning", "summary": [], "encrypted_content": None},
            {
                "type": "custom_tool_call",
                "status": "completed",
                "call_id": "call_2",
                "name": "apply_patch",
                "input": "*",
            },
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
        ],
        **CODEX,
    )
    assert messages == (
        System((Text("Be brief"),)),
        System((Text("Sandbox"),)),
        QUESTION,
        Assistant((), CALL_MESSAGE.tool_calls, REASONING),
        RESULT,
        Assistant((), (ToolCall("call_2", "apply_patch", "*", kind="custom"),)),
        ToolResult("call_2", (Text("done"),)),
        ANSWER,
    )


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search", "external_web_access": False},
        {"type": "tool_search", "execution": "client", "description": "d", "parameters": {"type": "object"}},
    ],
    ids=lambda tool: str(tool["type"]),
)
def test_what_codex_offers_beyond_that_is_refused_by_its_place(tool: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        read_messages([{"role": "user", "content": "Hi"}], **{**CODEX, "tools": [*CODEX["tools"], tool]})
    assert (caught.value.param, caught.value.code) == ("tools[2].type", "unsupported_tool")


def test_codex_tells_its_mcp_servers_as_namespaces() -> None:
    """It finds the tool by both names of a call, and sends both back. A namespace may have lost all its tools."""
    function = {"type": "function", "name": "status", "description": "d", "strict": False, "parameters": {}}
    tools = [
        *CODEX["tools"],
        {"type": "namespace", "name": "mcp__burp__", "description": "Tools of burp.", "tools": [function]},
        {"type": "namespace", "name": "multi_agent_v1", "description": "d", "tools": []},
    ]
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {**CALL, "name": "status", "namespace": "mcp__burp__", "arguments": "{}"},
        OUTPUT,
    ]
    assert read_messages(items, **{**CODEX, "tools": tools})[1:] == (
        QUESTION,
        Assistant((), (ToolCall("call_1", "mcp__burp__status", "{}"),)),
        RESULT,
    )
    request = decode(orjson.dumps({"model": "m", "input": items, **CODEX, "tools": tools}), Hints(), Ids("0" * 48))
    assert [tool.name for tool in build_settings(request).tools] == ["run", "apply_patch", "mcp__burp__status"]
    assert request.echo["tools"][2:] == tools[2:]
    assert wants_reasoning_summary(request)


def test_codex_answers_a_local_shell_call_as_a_function_call() -> None:
    action = {"type": "exec", "command": ["ls"], "timeout_ms": None, "working_directory": None, "env": None}
    call = {"type": "local_shell_call", "call_id": "call_1", "status": "completed", "action": action}
    messages = read_messages([{"role": "user", "content": "Hi"}, call, OUTPUT], **CODEX)
    assert messages[1:] == (QUESTION, Assistant((), (shell_call("local_shell", action),)), RESULT)


def test_the_agents_sdk_runs_a_shell_and_patches() -> None:
    """Outputs of a shell are lists, what a patch says may be null, and the calls come back as they were told."""
    action = {"commands": ["ls"], "max_output_length": None, "timeout_ms": None}
    operation = {"type": "create_file", "path": "a.txt", "diff": "+a"}
    printed = [{"stdout": "a.txt", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
    messages = read_messages(
        [
            {"role": "user", "content": "Hi"},
            {"type": "shell_call", "id": "sh_1", "call_id": "call_1", "status": "completed", "action": action},
            {"type": "shell_call_output", "call_id": "call_1", "output": printed, "max_output_length": 4096},
            {
                "type": "apply_patch_call",
                "id": "apc_1",
                "call_id": "call_2",
                "status": "completed",
                "operation": operation,
            },
            {"type": "apply_patch_call_output", "call_id": "call_2", "status": "completed", "output": None},
            {"role": "assistant", "content": "Hello."},
        ]
    )
    assert messages == (
        QUESTION,
        Assistant((), (shell_call("shell", action),)),
        ToolResult("call_1", (Text(orjson.dumps(printed).decode()),)),
        Assistant((), (ToolCall("call_2", "apply_patch", orjson.dumps(operation).decode()),)),
        ToolResult("call_2", (Text("completed"),)),
        ANSWER,
    )


def shell_call(name: str, action: dict[str, Any]) -> ToolCall:
    return ToolCall("call_1", name, orjson.dumps(action).decode())


def test_the_ai_sdk_without_a_store() -> None:
    """Messages have no type, texts no annotations, reasoning its summary as the client joined it."""
    messages = read_messages(
        [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "id": "rs_1", "encrypted_content": SEALED_REASONING, "summary": []},
            {**CALL, "id": "fc_1"},
            OUTPUT,
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hello."}], "id": "msg_1"},
        ],
        store=False,
        include=["reasoning.encrypted_content"],
    )
    assert messages == (
        System((Text("Be brief"),)),
        QUESTION,
        Assistant((), CALL_MESSAGE.tool_calls, REASONING),
        RESULT,
        ANSWER,
    )


def test_langchain() -> None:
    """A null id, an empty text before a call, the text's own id beside its message's."""
    messages = read_messages(
        [
            {"type": "message", "role": "user", "content": "Hi"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "", "annotations": []}],
            },
            {**CALL, "id": None, "status": None},
            OUTPUT,
            {
                "type": "message",
                "role": "assistant",
                "id": None,
                "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "id": "msg_1"}],
            },
            {"type": "image_generation_call", "id": "ig_1"},
        ]
    )
    assert messages == (QUESTION, CALL_MESSAGE, RESULT, ANSWER)


def test_open_webui() -> None:
    """Items as it stored them, with members and types of its own; fields of the chat format stay in the request."""
    messages = read_messages(
        [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {
                "type": "reasoning",
                "id": "r_1",
                "status": "completed",
                "start_tag": "<think>",
                "attributes": {"type": "reasoning_content"},
                "content": [{"type": "output_text", "text": "Hmm"}],
                "summary": None,
                "started_at": 1.5,
                "duration": 2,
            },
            {**CALL, "id": ""},
            OUTPUT,
            {"type": "open_webui:code_interpreter", "id": "ci_1", "code": "1", "output": None},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
        ],
        stream=True,
        seed=7,
        top_k=5,
        reasoning_effort="low",
        tools=[],
    )
    assert messages == (QUESTION, CALL_MESSAGE, RESULT, ANSWER)
