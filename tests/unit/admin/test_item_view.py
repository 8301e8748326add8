"""Items as a person reads them: every kind has a title and a text, and nothing is too long for a page."""

import json
from typing import Any

import pytest

from gateway.admin.item_view import MAX_LIST_CHARS, MAX_TEXT_CHARS, render_items
from tenants.admin.console import indent_json


def one(**item: Any) -> Any:
    [view] = render_items([item]).items
    return view


def texts(view: Any) -> list[str]:
    return [part.text for part in view.parts]


@pytest.mark.parametrize(
    ("role", "kind", "title"),
    [("user", "user", "User"), ("assistant", "assistant", "Assistant"), ("developer", "instruction", "Developer")],
)
def test_a_message_is_its_role_and_its_text(role: str, kind: str, title: str) -> None:
    for content in ("hi", [{"type": "input_text", "text": "hi"}], [{"type": "refusal", "refusal": "hi"}]):
        view = one(type="message", role=role, content=content)
        assert (view.kind, str(view.title), texts(view)) == (kind, title, ["hi"])
    assert one(role=role, content="hi").kind == kind  # a message needs no type


def test_a_call_shows_its_arguments_and_its_output_the_tools_name() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"a":1}'}
    output = {"type": "function_call_output", "call_id": "c", "output": '{"b":2}'}
    both = render_items([call, output]).items
    assert [(view.kind, view.subject) for view in both] == [("call", "look"), ("output", "look")]
    assert [texts(view) for view in both] == [['{\n  "a": 1\n}'], ['{\n  "b": 2\n}']]
    [alone] = render_items([output], [call]).items
    assert alone.subject == "look"
    assert one(**output).subject == ""
    broken = one(type="function_call", call_id="c", name="look", arguments='{"a":')
    assert texts(broken) == ['{"a":']


def test_reasoning_is_folded_and_says_if_it_is_encrypted() -> None:
    open_one = one(type="reasoning", summary=[{"type": "summary_text", "text": "because"}], encrypted_content="x")
    assert (open_one.is_folded, texts(open_one)) == (True, ["because"])
    sealed = one(type="reasoning", summary=[], encrypted_content="secret-seal")
    assert sealed.parts[0].kind == "note"
    assert "secret-seal" not in str(sealed)


def test_pictures_are_described_and_not_loaded() -> None:
    data = one(role="user", content=[{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 4096}])
    assert texts(data) == ["Image: image/png, 3 KB"]
    where = one(role="user", content=[{"type": "input_image", "image_url": "https://example.org/x.png"}])
    assert texts(where) == ["Image: https://example.org/x.png"]
    file = one(role="user", content=[{"type": "input_file", "filename": "a.pdf", "file_data": "A" * 4096}])
    assert texts(file) == ["File a.pdf: 3 KB"]


def test_an_item_of_any_other_type_is_its_json_without_private_fields() -> None:
    view = one(type="web_search_call", id="ws_1", tollgate={"signature": "s"}, action={"query": "q"})
    assert (view.kind, view.title, view.is_folded) == ("other", "Web search call", True)
    assert json.loads(view.parts[0].text) == {"type": "web_search_call", "id": "ws_1", "action": {"query": "q"}}


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"type": None},
        {"role": "user", "content": None},
        {"role": "user", "content": [None, 5, {"type": "odd"}]},
        {"type": "function_call"},
        {"type": "function_call_output", "output": None},
        {"type": "reasoning", "summary": None},
        {"type": "compaction"},
    ],
)
def test_nothing_that_is_stored_breaks_the_page(item: dict[str, Any]) -> None:
    assert len(render_items([item]).items) == 1


def test_cut_characters_are_counted() -> None:
    view = one(role="user", content="x" * (MAX_TEXT_CHARS + 7))
    assert (len(view.parts[0].text), view.parts[0].cut) == (MAX_TEXT_CHARS, 7)
    many = render_items([{"role": "user", "content": "x" * MAX_TEXT_CHARS}] * 50)
    assert len(many.items) + many.hidden == 50
    assert sum(len(part.text) for item in many.items for part in item.parts) <= MAX_LIST_CHARS + MAX_TEXT_CHARS


def test_deep_json_is_shown_as_it_is() -> None:
    deep = "[" * 100_000
    assert indent_json(deep) == deep
