"""/spend/logs as its callers see it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone
from django_scopes import scopes_disabled
from uuid_utils import uuid7

from billing.models import Price, SpendLog
from billing.row_ids import first_id
from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.keys import MAX_FORMER
from tenants.models import FormerKey, User
from tests.contract.management import Api, People, key_row

pytestmark = pytest.mark.django_db

# Spending


def spend(text: str, people: People, **columns: Any) -> SpendLog:
    """A priced row of the key's, as the pipeline and the pricing task leave it."""
    key = key_row(text)
    now = timezone.now()
    row = {
        "id": UUID(int=first_id(columns.get("started_at", now)).int | UUID(str(uuid7())).int & (1 << 80) - 1),
        "request_id": UUID(str(uuid7())),
        "state": "priced",
        "writer_id": "w",
        "organization": key.organization,
        "team_id": key.team_id,
        "user_id": key.alias,
        "key_id": key.id,
        "key_digest": key.digest,
        "key_alias": key.alias,
        "operation": "chat",
        "model_group": "gpt",
        "deployment_id": "d-1",
        "provider": "openai",
        "upstream_model": "gpt-4o",
        "upstream_id": "chatcmpl-1",
        "finish": "complete",
        "status_code": 200,
        "usage_source": "provider",
        "started_at": now,
        "ended_at": now,
        "cost_pusd": 0,
    } | columns
    with scopes_disabled():
        log: SpendLog = SpendLog.objects.create(**row)
    return log


def test_a_row_has_litellms_names_and_the_exact_cost(api: Api, people: People):
    started = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)
    row = spend(
        people.owner,
        people,
        started_at=started,
        ended_at=started + timedelta(seconds=1),
        first_token_at=started + timedelta(milliseconds=100),
        end_user="客",
        tags='["blue", "红"]',
        metadata='{"job": "j-9"}',
        usage='{"prompt_tokens": 31, "energy": 3.5}',
        cost_pusd=348_450_000,
        usage_source="provider",
        input_tokens=1,
        input_audio_tokens=2,
        cache_read_tokens=4,
        cache_write_5m_tokens=8,
        cache_write_1h_tokens=16,
        output_tokens=32,
        output_audio_tokens=64,
        reasoning_tokens=128,
    )
    [line] = api.get("/spend/logs").json()
    metadata = line.pop("metadata")
    assert line == {
        "request_id": str(row.request_id),
        "call_type": "acompletion",
        "api_key": digest_of(people.owner),
        "spend": 0.00034845,
        "prompt_tokens": 31,
        "completion_tokens": 224,
        "total_tokens": 255,
        "startTime": "2026-11-20T12:00:00.250000Z",
        "endTime": "2026-11-20T12:00:01.250000Z",
        "completionStartTime": "2026-11-20T12:00:00.350000Z",
        "model": "openai/gpt-4o",
        "model_id": "d-1",
        "model_group": "gpt",
        "custom_llm_provider": "openai",
        "user": "owner",
        "team_id": "research",
        "organization_id": "acme",
        "end_user": "客",
        "request_tags": ["blue", "红"],
        "cache_hit": "False",
        "status": "success",
        "cost": "0.000348450000",
        "cost_status": "priced",
        "cache_saving": None,
        "price_note": "",
        "usage_estimated": False,
        "usage_source": "provider",
        "source": "client",
        "upstream_id": "chatcmpl-1",
        "attempt": 0,
    }
    assert metadata["job"] == "j-9"
    assert metadata["user_api_key_alias"] == "owner"
    assert metadata["usage_object"] == {"prompt_tokens": 31, "energy": 3.5}


@pytest.mark.parametrize(
    ("cost_pusd", "cost", "number"),
    [
        (None, None, "0.0"),
        (0, "0.000000000000", "0.0"),
        (1, "0.000000000001", "1e-12"),
        (999_999_999_999, "0.999999999999", "0.999999999999"),
        (10**12, "1.000000000000", "1.0"),
        (1_234_567_890_123_456, "1234.567890123456", "1234.567890123456"),
        (2**63 - 1, "9223372.036854775807", "9223372.036854776"),
    ],
)
def test_money_is_shown_exactly(api: Api, people: People, cost_pusd: int | None, cost: str | None, number: str):
    spend(people.owner, people, cost_pusd=cost_pusd, state="priced" if cost_pusd is not None else "metered")
    response = api.get("/spend/logs")
    [row] = response.json()
    assert row["cost"] == cost
    assert f'"spend":{number},' in response.content.decode()


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "success"),
        ({"state": "metered", "cost_pusd": None}, "success"),
        ({"state": "unpriced", "cost_pusd": None}, "success"),
        ({"state": "open", "cost_pusd": None, "status_code": 0, "finish": "", "ended_at": None}, "pending"),
        ({"finish": "client_gone"}, "failure"),
        ({"finish": "client_gone", "usage_source": "partial"}, "failure"),
        ({"finish": "upstream_broken"}, "failure"),
        ({"status_code": 502, "finish": "upstream_error", "error_code": "upstream_error"}, "failure"),
        ({"state": "aborted", "status_code": 502, "finish": "upstream_error"}, "failure"),
        ({"status_code": 200, "error_code": "database_away"}, "failure"),
        (
            {"state": "lost", "status_code": 0, "finish": "gateway_crash", "usage_source": "estimated"},
            "failure",
        ),
    ],
)
def test_the_status_of_a_call_is_reported(api: Api, people: People, columns: JsonObject, status: str):
    spend(people.owner, people, **columns)
    [row] = api.get("/spend/logs").json()
    assert row["status"] == status
    assert row["cost_status"] == columns.get("state", "priced")
    assert row["usage_estimated"] is (columns.get("usage_source") in {"estimated", "partial"})
    assert row["endTime"] is None or row["status"] != "pending"
    assert ("error_information" in row["metadata"]) is ("error_code" in columns)


def test_the_text_of_an_error_is_reported(api: Api, people: People):
    spend(people.owner, people, status_code=502, error_code="upstream_error", error_message="GPU lost")
    [row] = api.get("/spend/logs").json()
    told = {"error_code": "502", "error_class": "upstream_error", "error_message": "GPU lost"}
    assert row["metadata"]["error_information"] == told


@pytest.mark.parametrize(
    ("operation", "call_type"),
    [
        ("chat", "acompletion"),
        ("completion", "atext_completion"),
        ("embedding", "aembedding"),
        ("new", "new"),
    ],
)
def test_an_operation_has_litellms_name(api: Api, people: People, operation: str, call_type: str):
    spend(people.owner, people, operation=operation)
    assert api.get("/spend/logs").json()[0]["call_type"] == call_type


@pytest.mark.parametrize(
    "text",
    ["{broken", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 3000, '{"a":' * 80 + "1" + "}" * 80],
)
def test_a_usage_that_is_invalid_json_does_not_break_the_list(api: Api, people: People, text: str):
    spend(people.owner, people, usage=text, tags=text, metadata=text)
    [row] = api.get("/spend/logs").json()
    assert isinstance(row["metadata"], dict)
    assert isinstance(row["request_tags"], list)


def test_rows_are_found_by_every_filter(api: Api, people: People):
    day = datetime(2026, 3, 1, tzinfo=UTC)
    first = spend(people.owner, people, started_at=day, upstream_id="up-1")
    second = spend(people.owner, people, started_at=day + timedelta(days=1), upstream_id="up-2")
    mate = spend(people.mate, people, started_at=day + timedelta(days=1, hours=23, minutes=59, seconds=59.5))
    stranger = spend(people.stranger, people, started_at=day + timedelta(days=2))

    def find(**query: str) -> list[str]:
        response = api.get("/spend/logs", query)
        assert response.status_code == 200, response.content
        return [line["request_id"] for line in response.json()]

    def ids(*rows: SpendLog) -> list[str]:
        return [str(row.request_id) for row in rows]

    assert find() == ids(stranger, mate, second, first)
    assert find(api_key=people.owner) == find(api_key=digest_of(people.owner)) == ids(second, first)
    assert find(api_key="sk-" + "0" * 40) == find(api_key="nonsense") == []
    assert find(request_id=str(first.request_id)) == find(request_id="up-1") == ids(first)
    assert find(request_id="no-such-request") == []
    assert find(user_id="mate") == ids(mate)
    assert find(team_id="research") == ids(mate, second, first)
    assert find(start_date="2026-03-02") == ids(stranger, mate, second)
    assert find(end_date="2026-03-02") == ids(mate, second, first)
    assert find(start_date="2026-03-02", end_date="2026-03-02") == ids(mate, second)
    assert find(start_date="2026-03-02T12:00:00") == ids(stranger, mate)
    assert find(end_date="2026-03-02T08:00:00+08:00") == ids(second, first)
    assert find(end_date="2026-03-02T00:00:00Z") == ids(second, first)
    assert find(start_date="2026-03-03", end_date="2026-03-02") == []
    assert find(limit="2") == ids(stranger, mate)
    assert find(api_key=people.owner, request_id="up-2", start_date="0001-01-01", end_date="9999-12-31") == ids(second)


def test_only_the_master_key_sees_the_spend_of_others(api: Api, people: People):
    row = spend(people.owner, people)
    assert [line["request_id"] for line in api.get("/spend/logs", by=people.owner).json()] == [str(row.request_id)]
    for text in (people.mate, people.stranger):
        for query in ({}, {"api_key": people.owner}, {"team_id": "research"}, {"user_id": "owner"}):
            assert api.get("/spend/logs", query, by=text).json() == []
    assert [line["request_id"] for line in api.get("/spend/logs").json()] == [str(row.request_id)]


def test_history_outlives_its_key(api: Api, people: People):
    row = spend(people.owner, people)
    api.post("/key/delete", {"keys": [people.owner]})
    assert [line["request_id"] for line in api.get("/spend/logs", {"api_key": people.owner}).json()] == [
        str(row.request_id)
    ]


def test_an_answer_is_bounded_and_its_cursor_leads_to_the_next_rows(api: Api, people: People):
    """1000 rows of 380 KB were one answer of 385 MB."""
    rows = [spend(people.owner, people, metadata=json.dumps({"note": "x" * 3_000_000})) for _ in range(5)]
    newest_first = [str(row.request_id) for row in reversed(rows)]
    seen: list[str] = []
    after = None
    for size in (2, 2, 1):
        page = api.get("/spend/logs", {"after": after} if after else {})
        assert len(page.content) < 8_500_000
        seen += [line["request_id"] for line in page.json()]
        after = page.headers.get("x-tollgate-next-after")
        assert len(page.json()) == size
    assert (seen, after) == (newest_first, None)


def test_a_page_goes_on_behind_its_cursor_and_a_row_that_is_too_large_stands_alone(api: Api, people: People):
    rows = [spend(people.owner, people, metadata=json.dumps({"n": "x" * size})) for size in (1, 9_000_000, 1, 1)]
    newest_first = [str(row.request_id) for row in reversed(rows)]
    page = api.get("/spend/logs", {"limit": 2})
    assert [line["request_id"] for line in page.json()] == newest_first[:2]
    page = api.get("/spend/logs", {"limit": 2, "after": page.headers["x-tollgate-next-after"]})
    assert [line["request_id"] for line in page.json()] == newest_first[2:3]
    page = api.get("/spend/logs", {"limit": 2, "after": page.headers["x-tollgate-next-after"]})
    assert [line["request_id"] for line in page.json()] == newest_first[3:]
    assert "x-tollgate-next-after" not in page.headers
    refused = api.get("/spend/logs", {"after": "chatcmpl-1"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


def test_the_rows_of_a_key_are_found_across_its_rotations(api: Api, people: People):
    requests, texts = [], [people.owner]
    for grace in (None, "1h", None):
        requests.append(str(spend(texts[-1], people).request_id))
        texts.append(api.post("/key/regenerate", {"key": texts[-1], "grace_period": grace}).json()["key"])
    requests.append(str(spend(texts[-1], people).request_id))
    spend(people.mate, people)
    for reference in (*texts, *map(digest_of, texts)):
        rows = api.get("/spend/logs", {"api_key": reference}).json()
        assert [row["request_id"] for row in rows] == requests[::-1]
    by_owner = api.get("/spend/logs", {"api_key": texts[0]}, by=texts[-1]).json()
    assert [row["request_id"] for row in by_owner] == requests[::-1]
    assert api.get("/spend/logs", {"api_key": texts[-1]}, by=people.stranger).json() == []
    assert api.get("/key/info", by=texts[0]).status_code == 401  # its digest stays, its use does not


def test_the_digests_of_a_key_that_is_rotated_without_end_are_bounded(api: Api, people: People):
    text = people.owner
    with scopes_disabled():
        key = key_row(text)
        FormerKey.objects.bulk_create(
            FormerKey(digest=f"{number:064d}", key=key, expires_at=timezone.now() - timedelta(days=number + 1))
            for number in range(MAX_FORMER + 5)
        )
    api.post("/key/regenerate", {"key": text})
    digests = set(FormerKey.objects.filter(key=key).values_list("digest", flat=True))
    assert len(digests) == MAX_FORMER
    assert {digest_of(text), f"{0:064d}"} <= digests


def test_a_row_says_what_the_prompt_cache_saved(api: Api, people: People):
    lines = {"input": "0.000003", "cache_read": "0.0000003", "cache_write_5m": "0.00000375", "output": "0.000015"}
    price = Price.objects.create(deployment_id="d-1", lines=lines)
    broken = Price.objects.create(deployment_id="d-1", lines={"input": "dear"})
    savings = {
        "0.002700000000": {"cache_read_tokens": 1000, "price_id": price.id},
        "-0.000750000000": {"cache_write_5m_tokens": 1000, "price_id": price.id},
        "0.001950000000": {"cache_read_tokens": 1000, "cache_write_5m_tokens": 1000, "price_id": price.id},
    }
    for columns in savings.values():
        spend(people.owner, people, input_tokens=10, **columns)
    for columns in ({"price_id": price.id}, {"cache_read_tokens": 1000, "price_id": broken.id}, {"price_id": ""}):
        spend(people.owner, people, input_tokens=10, **columns)
    assert [row["cache_saving"] for row in api.get("/spend/logs").json()][::-1] == [*savings, None, None, None]


def test_the_page_of_a_row_says_what_the_prompt_cache_saved(client: Client, people: People):
    lines = {"input": "0.000003", "cache_read": "0.0000003", "output": "0.000015"}
    price = Price.objects.create(deployment_id="d-1", lines=lines)
    cached = spend(people.owner, people, cache_read_tokens=1000, price_id=price.id)
    plain = spend(people.owner, people, input_tokens=1000, price_id=price.id)
    client.force_login(User.objects.create_superuser("root", password="correct horse battery"))
    page = client.get(f"/console/billing/spendlog/{cached.id}/change/").content.decode()
    assert "Saved by the prompt cache" in page
    assert "$0.0027" in page
    page = client.get(f"/console/billing/spendlog/{plain.id}/change/").content.decode()
    assert "Saved by the prompt cache" not in page
