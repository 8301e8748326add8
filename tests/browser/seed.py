"""What the console's screens show in these tests: rows of every state, and names that try to be markup.

Run inside a gateway's own settings: `manage.py shell -c "from tests.browser.seed import seed; seed()"`.
"""

import json
from datetime import timedelta
from uuid import UUID

from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.models import SpendLog, Writer
from gateway.deployments import save_deployment
from gateway.models import Deployment
from tenants.keys import find_or_create_user, issue_key
from tenants.models import DEFAULT_ORGANIZATION, Organization
from tenants.revision import bump_revision
from tenants.teams import create_team

MARKUP = '"><script>window.pwned=1</script><img src=x onerror="window.pwned=1">'
EXPRESSION = "'}; window.pwned=1; ({'{{ constructor }}"
STATES = {
    "priced": {"cost_pusd": 13_112_500_000, "usage_source": "provider", "status_code": 200, "finish": "complete"},
    "unpriced": {"usage_source": "provider", "status_code": 200, "finish": "complete", "price_error": "no price"},
    "lost": {"cost_pusd": 7, "usage_source": "estimated", "finish": "gateway_crash"},
    "aborted": {"status_code": 502, "finish": "upstream_error", "error_code": "upstream_error"},
    "open": {},  # no metered row: the running worker would price it under the tests' eyes
}


def seed() -> None:
    with scopes_disabled():
        organization = Organization.objects.get(pk=DEFAULT_ORGANIZATION)
        Organization.objects.create(name=MARKUP, blocked=True)
        team = create_team(organization=organization, id=EXPRESSION, alias=MARKUP, allowed_models=[MARKUP, "a", "b"])
        user = find_or_create_user(organization=organization, user_id=MARKUP)
        metadata = {"note": MARKUP}
        key = issue_key(organization=organization, alias=MARKUP, team=team, user=user, metadata=metadata).key
        issue_key(organization=organization, alias="over", expires_at=timezone.now() - timedelta(days=1))
        deployment = save_deployment(
            Deployment(
                model_group="priced-model",
                provider="openai",
                upstream_model=EXPRESSION,
                parameters={"user": MARKUP},
            ),
            credential={"api_key": "sk-upstream-seed"},
            price_lines={"input": "0.0000025", "output": "0.00001"},
        )
        tomorrow = timezone.now() + timedelta(days=1)
        Writer.objects.create(id="seed", seen_at=tomorrow)  # lives, so that the open row is not settled as lost
        for state, fields in STATES.items():
            _spend_log(state, fields, key, deployment)
        bump_revision()


def _spend_log(state: str, fields: dict[str, object], key: object, deployment: Deployment) -> None:
    now = timezone.now()
    row = SpendLog(
        id=UUID(int=uuid7().int),
        request_id=UUID(int=uuid7().int),
        state=state,
        writer_id="seed",
        organization_id=DEFAULT_ORGANIZATION,
        team_id=EXPRESSION,
        user_id=MARKUP,
        key_id=key.pk,
        key_digest=key.digest,
        key_alias=MARKUP,
        end_user=MARKUP,
        tags=json.dumps([MARKUP, EXPRESSION]),
        metadata=json.dumps({"note": MARKUP}),
        operation="chat",
        stream=True,
        model_group="priced-model",
        deployment_id=deployment.pk,
        provider=deployment.provider,
        upstream_model=deployment.upstream_model,
        price_id=deployment.price_id,
        served_model=MARKUP,
        upstream_id=f"chatcmpl-{state}",
        usage=json.dumps({"prompt_tokens": 2297, "note": MARKUP}),
        input_tokens=2297,
        output_tokens=737,
        started_at=now,
        first_token_at=now + timedelta(seconds=1),
        ended_at=None if state == "open" else now + timedelta(seconds=4),
    )
    for name, value in fields.items():
        setattr(row, name, value)
    row.save(force_insert=True)
