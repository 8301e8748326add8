"""The world of the isolation matrix: two organizations, 14 actors and the objects that they name."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.test import Client
from django.utils import timezone
from uuid_utils import uuid7

from billing.alerts.channels import create_channel
from billing.alerts.record import deliver_to
from billing.models import Alert, AlertChannel, AlertKind, SpendLog
from billing.report_schedules.writes import Settings, create_schedule
from billing.rollup_rebuild import rebuild_day
from gateway.models import Deployment
from tenants.access import digest_of
from tenants.audit import Entry, acting_as, record
from tenants.keys import issue_key
from tenants.models import (
    AuditEntry,
    BudgetTemplate,
    EndUser,
    KeyType,
    Membership,
    Organization,
    Role,
    Team,
    User,
    VirtualKey,
)
from tests.contract.isolation_table import KINDS
from tests.contract.management import MASTER


@dataclass(frozen=True, slots=True)
class World:
    keys: dict[str, str]  # actor → the text of its key
    objects: dict[str, dict[str, str]]  # kind of object → own, near, … → id


def build_world() -> World:
    home = Organization.objects.create(id="acme", name="Acme")
    abroad = Organization.objects.create(id="umbrella", name="Umbrella")
    teams = {
        name: Team.objects.create(id=name, alias=name, organization=organization)
        for name, organization in (("research", home), ("sales", home), ("raccoon", abroad), ("gone-team", home))
    }

    def create_user(name: str, organization: Organization | None = home, role: str = Role.MEMBER, **more: Any) -> User:
        return User.objects.create(username=name, organization=organization, role=role, **more)

    def join(user: User, team: str, role: str = Membership.Role.USER) -> None:
        place = teams[team]
        Membership.objects.create(organization=place.organization, team=place, user=user, role=role)

    def issue(user: User | None, team: str = "", kind: str = KeyType.MANAGEMENT, **more: Any) -> str:
        place = teams[team] if team else None
        organization = place.organization if place else (user.organization if user else None) or home
        issued = issue_key(organization=organization, team=place, user=user)
        VirtualKey.objects.filter(pk=issued.key.pk).update(type=kind, **more)
        return issued.text

    owner, mate, stranger = create_user("owner"), create_user("mate"), create_user("stranger", abroad)
    leader, other = create_user("leader"), create_user("other-leader")
    for user, team in ((owner, "research"), (mate, "research"), (stranger, "raccoon")):
        join(user, team)
    join(leader, "research", Membership.Role.ADMIN)
    join(other, "sales", Membership.Role.ADMIN)
    create_user("gone-user").delete()
    keys = {
        "revoked": issue(owner, "research", KeyType.DEFAULT, blocked=True),
        "member": issue(owner, "research", KeyType.DEFAULT),
        "restricted": issue(owner, "research", KeyType.LLM_API),
        "mate": issue(mate, "research", KeyType.DEFAULT),
        "service": issue(None, "research", KeyType.DEFAULT),
        "team_admin": issue(leader),
        "other_team": issue(other),
        "foreign_admin": issue(create_user("foreign-admin", abroad, Role.ORGANIZATION_ADMIN)),
        "org_admin": issue(create_user("org-admin", home, Role.ORGANIZATION_ADMIN)),
        "billing_viewer": issue(create_user("accountant", home, Role.BILLING_VIEWER)),
        "platform_viewer": issue(create_user("auditor", home, Role.PLATFORM_VIEWER)),
        "platform_admin": issue(create_user("root", None, is_superuser=True)),
        "master": MASTER,
    }
    gone = issue(owner, "research", KeyType.DEFAULT)
    gone_id = VirtualKey.objects.get(digest=digest_of(gone)).id
    VirtualKey.objects.filter(id=gone_id).delete()
    held = [
        issue(owner, "research", KeyType.DEFAULT),
        issue(mate, "research", KeyType.DEFAULT),
        issue(stranger, "raccoon", KeyType.DEFAULT),
    ]
    places = (home, home, abroad)
    rows = [VirtualKey.objects.get(digest=digest_of(text)) for text in held]
    for row, kind in zip(rows, KINDS, strict=False):
        row.alias = f"key-{kind}"
        row.save()
    objects = {
        "key": [*map(digest_of, held), digest_of(gone), digest_of("sk-absent")],
        "key_id": [*(row.id for row in rows), gone_id, "absent"],
        "key_alias": [row.alias for row in rows],
        "user_alias": ["taken"] * 3,
        "team": ["research", "sales", "raccoon", "gone-team", "absent-team"],
        "user": ["owner", "mate", "stranger", "gone-user", "absent-user"],
        "organization": ["acme", "acme", "umbrella", "gone-organization", "absent-organization"],
        "budget": ["budget-own", "budget-near", "budget-foreign", "budget-gone", "budget-absent"],
        "customer": ["customer-own", "customer-near", "customer-foreign", "customer-gone", "customer-absent"],
        "model": ["model-own", "model-near", "model-foreign", "model-gone", "model-absent"],
        "spend": [spend(text) for text in held],
        "audit_object": ["audit-own", "audit-near", "audit-foreign"],
    }
    objects["audit"] = [
        *(act(*place) for place in zip(("owner", "mate", "stranger"), places, objects["audit_object"], strict=True)),
        str(10**12),
        "absent",
    ]
    objects["spend_log"] = [*objects["spend"], str(uuid7()), "absent"]
    objects["end_user"] = ["700001", "700002", "700003", "700004", "absent"]
    teams["gone-team"].delete()
    alerts = [alert(place) for place in places]
    for number, name in enumerate(("alert_channel", "alert", "alert_delivery")):
        objects[name] = [*(ids[number] for ids in alerts), "gone", "absent"]
    objects["report_schedule"] = [*map(schedule_report, places), "gone", "absent"]
    named = (objects[kind] for kind in ("budget", "customer", "end_user", "model"))
    for place, budget, customer, end_user, model in zip(places, *named, strict=False):
        BudgetTemplate.objects.create(id=budget, organization=place)
        EndUser.objects.create(pk=int(end_user), external_id=customer, organization=place)
        Deployment.objects.create(
            id=model, organization=place, model_group=model, provider="mock", upstream_model="echo"
        )
    return World(keys, {name: dict(zip(KINDS, ids, strict=False)) for name, ids in objects.items()})


def act(user: str, organization: Organization, object_id: str) -> str:
    """The id of an audit entry of a user's act."""
    with acting_as(user):
        record(Entry("update", "team", object_id, organization.id, None, {}))
    return str(AuditEntry.objects.get(object_id=object_id).id)


def alert(organization: Organization) -> tuple[str, str, str]:
    """The ids of a channel, of an alert and of its delivery."""
    now = timezone.now()
    channel = create_channel(organization=organization, name="ops", kind="webhook", url="https://ops.example/").channel
    row = Alert.objects.create(organization=organization, kind=AlertKind.SPIKE, key=channel.id, title="a spike")
    [delivery] = deliver_to(row, [channel], now)
    return channel.id, row.id, delivery.id


def schedule_report(organization: Organization) -> str:
    """The id of a schedule, which sends to the channel with the id `channel-of-<organization>`."""
    channel_id = f"channel-of-{organization.id}"
    fields = {"organization": organization, "name": "reports", "kind": "slack", "hint": "https://ops.example/…"}
    AlertChannel.objects.get_or_create(id=channel_id, defaults=fields)
    values = Settings("monthly", "team", "last_month", frequency="monthly", channel_ids=[channel_id])
    return create_schedule(organization, values).id


def spend(text: str) -> str:
    """The request id of a priced call with this key."""
    key = VirtualKey.objects.select_related("user").get(digest=digest_of(text))
    request_id, now = UUID(str(uuid7())), timezone.now()
    SpendLog.objects.create(
        id=request_id,
        request_id=request_id,
        state="priced",
        writer_id="w",
        organization=key.organization,
        team_id=key.team_id or "",
        user_id=key.user.username if key.user else "",
        key_id=key.id,
        key_digest=key.digest,
        operation="chat",
        model_group="gpt",
        deployment_id="d-1",
        provider="openai",
        upstream_model="gpt-4o",
        finish="complete",
        status_code=200,
        usage_source="provider",
        started_at=now,
        ended_at=now,
        cost_pusd=0,
    )
    rebuild_day(now.date())
    return str(request_id)


def call(client: Client, key: str | None, name: str, path: str, fields: dict[str, Any]) -> Any:
    """The answer; what the call wrote is taken back."""
    method = name.partition(" ")[0]
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with transaction.atomic():
        if method == "GET":
            response = client.get(path, fields, headers=headers)
        else:
            body = json.dumps(fields)
            response = client.generic(method, path, body, content_type="application/json", headers=headers)
        transaction.set_rollback(True)
    return response
