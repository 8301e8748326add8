"""A deployment brings its own credentials, or it would use the identity of the gateway's machine."""

from typing import Any

import pytest

from gateway.providers.registry import PROVIDERS
from gateway.upstream.tokens import FETCHERS
from tests.fakes.memory import target

PAIR = ["aws_access_key_id", "aws_secret_access_key"]
PRINCIPAL = ["tenant_id", "client_id", "client_secret"]
ROLE = {"aws_role_name": "arn:aws:iam::1:role/r"}


@pytest.mark.parametrize(
    ("provider", "secrets", "parameters"),
    [
        *[(name, ["api_key"], {}) for name in ("azure", "azure_ai", "bedrock", "vertex_ai", "openai")],
        *[(name, PRINCIPAL, {}) for name in ("azure", "azure_ai")],
        ("azure", ["azure_ad_token"], {}),
        ("vertex_ai", ["vertex_credentials"], {}),
        ("bedrock", PAIR, {}),
        ("bedrock", [*PAIR, "aws_session_token"], ROLE),
        ("bedrock", ["aws_bearer_token_bedrock"], {"aws_profile_name": "prod"}),
        ("openai_compatible", [], {}),
    ],
)
def test_own_credentials_borrow_nothing(provider: str, secrets: list[str], parameters: Any) -> None:
    assert PROVIDERS[provider].find_borrowed_identity(secrets, parameters) is None


@pytest.mark.parametrize(
    ("provider", "secrets", "parameters", "param"),
    [
        *[(name, [], {}, "api_key") for name in ("azure", "azure_ai", "bedrock", "vertex_ai")],
        *[("azure", PRINCIPAL[:count], {}, "api_key") for count in (1, 2)],
        ("azure_ai", ["tenant_id", "client_secret"], {}, "api_key"),
        ("bedrock", PAIR[:1], {}, "api_key"),
        ("bedrock", [*PAIR[1:], "aws_session_token"], {}, "api_key"),
        ("bedrock", [], ROLE, "api_key"),
        ("bedrock", PAIR, {"aws_profile_name": "prod"}, "aws_profile_name"),
        ("bedrock", PAIR, {**ROLE, "aws_web_identity_token": "t"}, "aws_web_identity_token"),
    ],
)
def test_the_machines_identity_is_borrowed(provider: str, secrets: list[str], parameters: Any, param: str) -> None:
    found = PROVIDERS[provider].find_borrowed_identity(secrets, parameters)
    assert found is not None
    assert found[0] == param


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_every_provider_that_fetches_tokens_knows_what_it_borrows(provider: str) -> None:
    kind = PROVIDERS[provider].token(target(provider=PROVIDERS[provider], credential={}))
    assert (kind in FETCHERS) == (PROVIDERS[provider].find_borrowed_identity([], {}) is not None)
