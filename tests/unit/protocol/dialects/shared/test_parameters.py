"""A deployment's parameters fill what the client left unset; what its upstream refuses is left out and named."""

import pytest

from gateway.protocol.capabilities import Capabilities
from gateway.protocol.dialects.shared.parameters import (
    Draft,
    add_defaults,
    refuse_dropped,
    settle_request,
)
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import UNSET_OPTIONS, ChatRequest

STRICT = Capabilities(on_unsupported="error")


def test_parameters_fill_only_what_the_client_left_unset() -> None:
    request = ChatRequest(messages=(), temperature=0, reasoning_effort="low")
    settled = settle_request(request, {"temperature": 1, "top_p": 0.5, "reasoning_effort": "high"})
    assert settled.request == ChatRequest(messages=(), temperature=0, top_p=0.5, reasoning_effort="low")
    assert settled.dropped == ()


def test_parameters_that_are_no_option_are_left_for_the_body() -> None:
    settled = settle_request(ChatRequest(messages=()), {"top_k": 3, "keep": 1}, options={"temperature"})
    assert settled.request == ChatRequest(messages=())
    assert settled.other_parameters == {"top_k": 3, "keep": 1}


@pytest.mark.parametrize(("stop", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ())])
def test_a_stop_parameter_may_be_a_text_or_a_list(stop: object, expected: tuple[str, ...]) -> None:
    assert settle_request(ChatRequest(messages=()), {"stop": stop}).request.stop == expected


def test_an_alias_stands_for_its_option() -> None:
    aliases = {"max_completion_tokens": "max_tokens"}
    settled = settle_request(ChatRequest(messages=()), {"max_completion_tokens": 5}, aliases=aliases)
    assert settled.request.max_tokens == 5
    settled = settle_request(settled.request, {}, {"max_completion_tokens"}, aliases=aliases)
    assert settled.request.max_tokens is None
    assert settled.dropped == ("max_tokens",)


def test_refused_options_are_left_out_and_named_where_they_were_set() -> None:
    request = ChatRequest(messages=(), temperature=0.0, stop=("a",), user="u")
    settled = settle_request(request, {"seed": 1}, {"stop", "temperature", "seed", "top_p", "tools"})
    assert settled.request == ChatRequest(messages=(), user="u")
    assert settled.dropped == ("seed", "stop", "temperature")


def test_every_option_of_an_empty_request_is_unset() -> None:
    request = ChatRequest(messages=())
    assert request.options() == {}
    assert all(getattr(request, name) == unset for name, unset in UNSET_OPTIONS.items())


def test_a_body_gets_the_parameters_that_it_lacks() -> None:
    body = {"model": "m", "top_p": 1}
    assert add_defaults(body, {"top_p": 0.5, "seed": 1, "num_ctx": 2}, excluded={"num_ctx"}) == {**body, "seed": 1}


def test_a_draft_names_what_it_drops_unless_it_changes_nothing() -> None:
    draft = Draft({"model": "m", "messages": [], "temperature": 1, "top_p": 0.5})
    draft.drop_all({"model", "messages", "temperature", "top_p", "seed"})
    assert draft.body == {"model": "m", "messages": []}
    assert draft.dropped == ["top_p"]


def test_a_strict_deployment_refuses_what_would_be_dropped_but_hints() -> None:
    refuse_dropped(["user", "metadata"], STRICT)
    refuse_dropped(["seed"], Capabilities())
    with pytest.raises(BadRequest, match="'seed' is not supported by this model") as refusal:
        refuse_dropped(["user", "seed"], STRICT)
    assert refusal.value.param == "seed"
