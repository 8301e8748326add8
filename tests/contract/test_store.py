"""The snapshot of the deployments: it holds the usable ones; an unusable one is left out and harms no other."""

import logging
from typing import Any

import pytest
from django_scopes import scopes_disabled

from billing.models import Price
from billing.pricing import cost
from gateway.deployments import delete_deployment, save_deployment
from gateway.models import Deployment
from gateway.models.encryption import seal
from gateway.protocol.provider import HEADER_PREFIX, Target
from gateway.protocol.timeouts import Timeouts
from gateway.protocol.usage import Usage
from gateway.stores.catalog import Snapshot, load_snapshot
from tenants.models import Organization
from tenants.revision import current_revision

pytestmark = pytest.mark.django_db


def deploy(
    group: str = "public",
    *,
    credential: dict[str, str] | None = None,
    price_lines: dict[str, object] | None = None,
    **fields: Any,
) -> Deployment:
    values = {"provider": "openai_compatible", "upstream_model": "private", "api_base": "http://up.test/v1/"}
    with scopes_disabled():
        return save_deployment(
            Deployment(model_group=group, **(values | fields)), credential=credential, price_lines=price_lines
        )


def targets(snapshot: Snapshot, model: str = "public", organization: str = "home") -> tuple[Target, ...]:
    return snapshot.catalog.find(organization, model)


def damage(deployment: Deployment, **fields: Any) -> None:
    """Writes values that only direct access to the database, another version or a lax form can write."""
    with scopes_disabled():
        Deployment.objects.filter(pk=deployment.pk).update(**fields)


def test_a_deployment_becomes_a_target() -> None:
    row = deploy(
        credential={"api_key": "sk-upstream", f"{HEADER_PREFIX}X-Team": "sealed"},
        parameters={"temperature": 0.5, "extra_headers": {"X-Route": "blue"}, "extra_body": {"top_k": 7}},
        weight=2.5,
        order=1,
        timeout_s=9.0,
        stream_timeout_s=3.0,
        stream_idle_timeout_s=7.0,
        model_info={"mode": "chat"},
    )
    [one] = targets(load_snapshot())
    assert (one.deployment_id, one.model_group, one.upstream_model) == (row.id, "public", "private")
    assert one.api_base == "http://up.test/v1"
    assert {name: secret.reveal() for name, secret in one.credential.items()} == {"api_key": "sk-upstream"}
    assert dict(one.headers) == {"x-route": "blue", "x-team": "sealed"}
    assert dict(one.parameters) == {"temperature": 0.5, "top_k": 7}
    assert (one.weight, one.order, one.mode) == (2.5, 1, "chat")
    assert one.timeouts == Timeouts(timeout_s=9.0, stream_timeout_s=3.0, stream_idle_timeout_s=7.0)
    assert "sk-upstream" not in repr(one)


def test_prices_come_with_the_deployments_that_use_them() -> None:
    row = deploy(price_lines={"input": "0.00000015", "output": "6e-7"})
    unpriced = deploy("other")
    snapshot = load_snapshot()
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost(usage, snapshot.prices[row.price_id]) == 750_000
    assert (unpriced.price_id, len(snapshot.prices)) == ("", 1)


def test_an_organizations_own_deployments_are_seen_by_itself_only() -> None:
    home = Organization.objects.create(id="home", name="Home")
    own, shared = deploy(organization=home), deploy()
    snapshot = load_snapshot()
    assert [one.deployment_id for one in targets(snapshot)] == [own.id]
    assert [one.deployment_id for one in targets(snapshot, organization="abroad")] == [shared.id]


def test_siblings_are_one_group_and_disabled_or_deleted_ones_are_left_out() -> None:
    first, second, third = deploy(), deploy(), deploy(enabled=False)
    assert {one.deployment_id for one in targets(load_snapshot())} == {first.id, second.id}
    with scopes_disabled():
        delete_deployment(second)
    assert [one.deployment_id for one in targets(load_snapshot())] == [first.id]
    assert third.pk


def test_every_change_of_a_deployment_bumps_the_revision() -> None:
    before = current_revision()
    row = deploy()
    assert current_revision() == before + 1
    with scopes_disabled():
        save_deployment(row)
        delete_deployment(row)
    assert current_revision() == before + 3


UNUSABLE: dict[str, dict[str, Any]] = {
    "an unknown provider": {"provider": "from-another-version"},
    "a credential of another row": {"credential": "another row's"},
    "a credential that no key opens": {"credential": "gAAAAABm0000"},
    "a credential that is no ciphertext": {"credential": "schlüssel"},
    "parameters that are a list": {"parameters": ["x"]},
    "extra headers that are text": {"parameters": {"extra_headers": "X-Route: blue"}},
    "extra headers that are null": {"parameters": {"extra_headers": None}},
    "an extra body that is text": {"parameters": {"extra_body": "x"}},
    "an extra body that is a number": {"parameters": {"extra_body": 7}},
    "model info that is a list": {"model_info": ["chat"]},
}


@pytest.mark.parametrize("fields", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_deployment_that_cannot_be_used_is_left_out_and_the_others_are_served(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = deploy("broken"), deploy("sound")
    if fields.get("credential") == "another row's":
        fields = {"credential": seal(context=sound.id, values={"api_key": "sk-upstream"})}
    damage(broken, **fields)
    with caplog.at_level(logging.ERROR):
        snapshot = load_snapshot()
    assert [one.deployment_id for one in targets(snapshot, "sound")] == [sound.id]
    if targets(snapshot, "broken"):  # what is odd may also be read leniently
        assert not isinstance(fields.get("credential"), str)
    else:
        assert any(getattr(record, "deployment", "") == broken.id for record in caplog.records)
    assert "sk-upstream" not in caplog.text


@pytest.mark.parametrize("lines", [{"input": "cheap"}, {"input": None}, {"input": []}, {"input": "NaN"}])
def test_a_price_that_cannot_be_read_leaves_its_deployment_unpriced_and_the_others_served(lines: Any) -> None:
    broken = deploy("broken", price_lines={"input": "0.1"})
    sound = deploy("sound", price_lines={"input": "0.1"})
    Price.objects.filter(id=broken.price_id).update(lines=lines)
    snapshot = load_snapshot()
    usage = Usage(input_tokens=1)
    assert cost(usage, snapshot.prices[sound.price_id]) == 10**11
    assert cost(usage, snapshot.prices.get(broken.price_id)) is None
