"""LiteLLM's reports of spend: its shapes, our exact sums, and no row that the caller may not see."""

from datetime import timedelta
from typing import Any

import pytest

from billing.models import Price
from billing.reports.activity import MAX_KEYS
from billing.rest import global_spend, spend_summary
from gateway.models import Deployment, RouterSettings
from gateway.protocol.amounts import PUSD
from gateway.protocol.json.types import JsonObject
from tenants.access import digest_of
from tenants.models import Role
from tests.contract.management import Api, People, issue_role_key, key_row, refused
from tests.contract.test_spend_report import at, make, roll_up, source

__all__ = ["source"]  # each report is read from rows, and from rollups

pytestmark = pytest.mark.django_db
NOVEMBER = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
METRICS = {
    "spend",
    "prompt_tokens",
    "completion_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "total_tokens",
    "successful_requests",
    "failed_requests",
    "api_requests",
}
BREAKDOWN = {"models", "model_groups", "providers", "endpoints", "api_keys", "entities", "mcp_servers"}
TOTALS = {
    "total_spend",
    "total_prompt_tokens",
    "total_completion_tokens",
    "total_cache_read_input_tokens",
    "total_cache_creation_input_tokens",
    "total_tokens",
    "total_api_requests",
    "total_successful_requests",
    "total_failed_requests",
    "page",
    "total_pages",
    "has_more",
    "api_key_limit",
    "total_api_keys",
}
ACTIVITIES = ("user", "team", "tag", "customer", "end_user", "organization")


def get(api: Api, path: str, *, by: str | None = None, **query: str) -> Any:
    roll_up()
    answer = api.get(path, {**NOVEMBER, **query}, **({"by": by} if by else {}))
    assert answer.status_code == 200, answer.content
    return answer.json()


def spent(rows: JsonObject) -> dict[str, float]:
    return {name: row["metrics"]["spend"] for name, row in rows.items()}


def make_usual(people: People) -> str:
    """Three calls of two days; the id of the key of two of them."""
    key = key_row(people.owner).id
    home: JsonObject = {"organization_id": "acme", "team_id": "research", "provider": "openai", "output_tokens": 0}
    home |= {"cache_read_tokens": 0, "reasoning_tokens": 0}
    monday, tuesday = at("2026-11-16T10:00+00:00"), at("2026-11-17T10:00+00:00")
    make(key_id=key, user_id="owner", upstream_model="gpt-4o", started_at=monday, cost_pusd=PUSD, **home)
    used = {"input_tokens": 5, "cache_read_tokens": 3, "cache_write_1h_tokens": 2, "reasoning_tokens": 7}
    named = {"key_id": key, "user_id": "owner", "end_user": "customer-1", "tags": '["a","b"]'}
    make(upstream_model="claude", started_at=tuesday, cost_pusd=2 * PUSD, **(home | used | named))
    later = tuesday + timedelta(minutes=1)
    failed = {"key_id": "", "user_id": "mate", "finish": "upstream_error"}
    make(upstream_model="gpt-4o", started_at=later, cost_pusd=4 * PUSD, **(home | failed))
    return key


def test_daily_activity_has_litellms_shape(api: Api, people: People) -> None:
    make_usual(people)
    answer = get(api, "/team/daily/activity")
    assert set(answer) == {"results", "metadata"}
    assert set(answer["metadata"]) == TOTALS
    assert [day["date"] for day in answer["results"]] == ["2026-11-17", "2026-11-16"]
    for day in answer["results"]:
        assert set(day) == {"date", "metrics", "breakdown"}
        assert set(day["metrics"]) == METRICS
        assert set(day["breakdown"]) == BREAKDOWN
        for kind in BREAKDOWN - {"api_keys", "mcp_servers"}:
            for member in day["breakdown"][kind].values():
                assert set(member) == {"metrics", "metadata", "api_key_breakdown"}
                assert set(member["metrics"]) == METRICS


def test_the_metrics_of_a_day_are_the_sums_of_its_calls(api: Api, people: People) -> None:
    make_usual(people)
    tuesday, monday = get(api, "/team/daily/activity")["results"]
    assert monday["metrics"]["spend"] == 1.0
    assert (tuesday["metrics"]["spend"], tuesday["metrics"]["api_requests"]) == (6.0, 2)
    assert (tuesday["metrics"]["successful_requests"], tuesday["metrics"]["failed_requests"]) == (1, 1)
    assert spent(tuesday["breakdown"]["models"]) == {"claude": 2.0, "gpt-4o": 4.0}
    assert spent(tuesday["breakdown"]["entities"]) == {"research": 6.0}
    assert tuesday["breakdown"]["entities"]["research"]["metadata"] == {"team_alias": "Research"}
    digest = digest_of(people.owner)
    [claude] = tuesday["breakdown"]["models"]["claude"]["api_key_breakdown"].items()
    assert claude[0] == digest
    assert claude[1]["metadata"] == {"key_alias": "owner", "team_id": "research"}
    assert spent(tuesday["breakdown"]["api_keys"]) == {digest: 2.0}  # the other call had no key
    metrics = tuesday["breakdown"]["models"]["claude"]["metrics"]
    assert (metrics["prompt_tokens"], metrics["completion_tokens"], metrics["total_tokens"]) == (10, 7, 17)
    assert (metrics["cache_read_input_tokens"], metrics["cache_creation_input_tokens"]) == (3, 2)


def test_a_page_of_activity_is_whole_days(api: Api, people: People) -> None:
    make_usual(people)
    pages = [get(api, "/user/daily/activity", page_size="14", page=page) for page in ("1", "2", "3", "4")]
    assert [[day["date"] for day in page["results"]] for page in pages] == [["2026-11-17"], ["2026-11-16"], [], []]
    assert [page["metadata"]["has_more"] for page in pages] == [True, True, False, False]
    assert [page["metadata"]["total_pages"] for page in pages] == [3] * 4
    assert [page["metadata"]["total_spend"] for page in pages] == [6.0, 1.0, 0.0, 0.0]
    whole = get(api, "/user/daily/activity")
    assert whole["metadata"]["total_spend"] == 7.0
    assert spent(whole["results"][0]["breakdown"]["entities"]) == {"owner": 2.0, "mate": 4.0}


@pytest.mark.parametrize(
    ("path", "query", "spend"),
    [
        ("user", {"user_id": "mate"}, 4.0),
        ("user", {"model": "claude"}, 2.0),
        ("team", {"team_ids": "research,other"}, 7.0),
        ("team", {"team_ids": "other"}, 0.0),
        ("tag", {"tags": "a"}, 2.0),
        ("tag", {"tags": "a,b"}, 2.0),
        ("tag", {"tags": "A"}, 0.0),
        ("tag", {"tags": 'a","b'}, 0.0),
        ("tag", {"tags": "%"}, 0.0),
        ("tag", {}, 7.0),
        ("customer", {"end_user_ids": "customer-1"}, 2.0),
        ("organization", {"organization_ids": "acme"}, 7.0),
        ("organization", {"organization_ids": "umbrella"}, 0.0),
    ],
)
def test_activity_is_narrowed(api: Api, people: People, path: str, query: dict[str, str], spend: float) -> None:
    make_usual(people)
    assert get(api, f"/{path}/daily/activity", **query)["metadata"]["total_spend"] == spend


def test_activity_of_a_key_is_found_by_its_text(api: Api, people: People) -> None:
    make_usual(people)
    make(key_digest=digest_of(people.owner), organization_id="acme", cost_pusd=PUSD)
    answer = get(api, "/user/daily/activity", api_key=people.owner)
    assert answer["metadata"]["total_spend"] == 1.0


def test_a_page_names_the_keys_that_spent_most(api: Api) -> None:
    for place in range(MAX_KEYS + 2):
        make(key_id=f"k{place:03}", started_at=at("2026-11-16T10:00+00:00"), cost_pusd=PUSD * (place + 1))
    answer = get(api, "/user/daily/activity")
    [day] = answer["results"]
    [model] = day["breakdown"]["models"].values()
    for keys in (day["breakdown"]["api_keys"], model["api_key_breakdown"]):
        assert sorted(keys) == [f"k{place:03}" for place in range(2, MAX_KEYS + 2)]
    assert (answer["metadata"]["api_key_limit"], answer["metadata"]["total_api_keys"]) == (MAX_KEYS, MAX_KEYS + 2)
    assert day["metrics"]["spend"] == model["metrics"]["spend"] == sum(range(MAX_KEYS + 3))


def test_a_call_with_two_tags_is_under_both_and_in_its_day_once(api: Api, people: People) -> None:
    make_usual(people)
    tuesday, monday = get(api, "/tag/daily/activity")["results"]
    assert spent(tuesday["breakdown"]["entities"]) == {"a": 2.0, "b": 2.0}
    assert tuesday["metrics"]["spend"] == 6.0
    assert spent(monday["breakdown"]["entities"]) == {}


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("0", "2026-11-16"),
        ("480", "2026-11-15"),
        ("-330", "2026-11-16"),
        ("Asia/Tokyo", "2026-11-16"),
        ("720", "2026-11-15"),
    ],
)
def test_days_are_those_of_the_callers_zone(api: Api, people: People, zone: str, day: str) -> None:
    make(started_at=at("2026-11-16T07:30+00:00"), cost_pusd=PUSD)
    assert [row["date"] for row in get(api, "/user/daily/activity", timezone=zone)["results"]] == [day]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_date": ""}, "start_date"),
        ({"end_date": "tomorrow"}, "end_date"),
        ({"end_date": "2026-10-01"}, "end_date"),
        ({"timezone": "7"}, "timezone"),
        ({"timezone": "99999"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"page": "0"}, "page"),
        ({"page_size": "9999999999"}, "page_size"),
        ({"colour": "red"}, "colour"),
        ({"team_ids": ",".join(map(str, range(101)))}, "team_ids"),
    ],
)
def test_activity_that_cannot_be_is_refused(api: Api, query: dict[str, str], param: str) -> None:
    refused(api.get("/team/daily/activity", {**NOVEMBER, **query}), 400, param)


def test_every_report_has_the_callers_rows_only(api: Api, people: People) -> None:
    make_usual(people)
    make(organization_id="umbrella", team_id="raccoon", user_id="stranger", cost_pusd=8 * PUSD, tags='["secret"]')
    keys = {"": 15.0, issue_role_key(people.home, Role.ORGANIZATION_ADMIN): 7.0, people.owner: 3.0}
    for key, spend in keys.items():
        for name in ACTIVITIES:
            assert get(api, f"/{name}/daily/activity", by=key)["metadata"]["total_spend"] == spend
        days = get(api, "/global/spend/report", by=key)
        assert sum(team["total_spend"] for day in days for team in day["teams"]) == spend
        summary = get(api, "/spend/logs", by=key, summarize="true")
        assert sum(day["spend"] for day in summary) == spend
        assert get(api, "/spend/logs/v2", by=key)["total"] == {15.0: 4, 7.0: 3, 3.0: 2}[spend]
        tags = {row["individual_request_tag"] for row in get(api, "/spend/tags", by=key)}
        assert ("secret" in tags) == (spend == 15.0)


def test_global_spend_report_is_by_team_customer_or_key(api: Api, people: People) -> None:
    make_usual(people)
    monday, tuesday = get(api, "/global/spend/report")
    assert monday == {
        "group_by_day": "2026-11-16T00:00:00+00:00",
        "teams": [
            {
                "team_name": "Research",
                "team_id": "research",
                "total_spend": 1.0,
                "metadata": [{"model": "gpt-4o", "spend": 1.0, "total_tokens": 10, "api_key": digest_of(people.owner)}],
            }
        ],
    }
    assert [team["total_spend"] for team in tuesday["teams"]] == [6.0]
    by_customer = get(api, "/global/spend/report", group_by="customer")
    assert [row["customer"] for row in by_customer[1]["customers"]] == ["", "customer-1"]
    first, second = get(api, "/global/spend/report", group_by="api_key")
    assert (first["api_key"], first["total_cost"]) == ("", 4.0)
    assert (second["api_key"], second["total_cost"]) == (digest_of(people.owner), 3.0)
    assert second["model_details"] == [
        {"model": "claude", "total_cost": 2.0, "total_input_tokens": 10, "total_output_tokens": 7},
        {"model": "gpt-4o", "total_cost": 1.0, "total_input_tokens": 10, "total_output_tokens": 0},
    ]
    assert get(api, "/global/spend/report", internal_user_id="mate")[0]["total_cost"] == 4.0
    refused(api.get("/global/spend/report", {**NOVEMBER, "group_by": "colour"}), 400, "group_by")
    refused(api.get("/global/spend/report"), 400, "end_date")


def test_global_activity_counts_requests_and_tokens(api: Api, people: People) -> None:
    make_usual(people)
    assert get(api, "/global/activity") == {
        "daily_data": [
            {"date": "2026-11-16", "api_requests": 1, "total_tokens": 10},
            {"date": "2026-11-17", "api_requests": 2, "total_tokens": 27},
        ],
        "sum_api_requests": 3,
        "sum_total_tokens": 37,
    }
    [model] = get(api, "/global/activity/model")
    assert (model["sum_api_requests"], model["sum_total_tokens"]) == (3, 37)


def test_tags_are_counted_each(api: Api, people: People) -> None:
    make_usual(people)
    assert get(api, "/spend/tags") == [
        {"individual_request_tag": "a", "log_count": 1, "total_spend": 2.0},
        {"individual_request_tag": "b", "log_count": 1, "total_spend": 2.0},
    ]
    assert api.get("/spend/tags").status_code == 200


def test_spend_logs_are_summarized_by_day(api: Api, people: People) -> None:
    make_usual(people)
    days = get(api, "/spend/logs", summarize="true", end_date="2026-11-18")
    assert days == [
        {"startTime": "2026-11-16", "spend": 1.0, "users": {"owner": 1.0}, "models": {"openai/gpt-4o": 1.0}},
        {
            "startTime": "2026-11-17",
            "spend": 6.0,
            "users": {"owner": 2.0, "mate": 4.0},
            "models": {"openai/claude": 2.0, "openai/gpt-4o": 4.0},
        },
        {"startTime": "2026-11-18", "spend": 0.0, "users": {}, "models": {}},
    ]
    assert get(api, "/spend/logs", summarize="true", user_id="mate")[0]["spend"] == 4.0
    refused(api.get("/spend/logs", {"summarize": "true"}), 400, "start_date")


@pytest.mark.parametrize(
    ("query", "spends"),
    [
        ({}, [4.0, 2.0, 1.0]),
        ({"sort_order": "asc"}, [1.0, 2.0, 4.0]),
        ({"sort_by": "spend"}, [4.0, 2.0, 1.0]),
        ({"sort_by": "total_tokens", "page_size": "1"}, [2.0]),
        ({"model": "gpt-4o"}, [4.0, 1.0]),
        ({"status_filter": "success"}, [2.0, 1.0]),
        ({"status_filter": "failure"}, [4.0]),
        ({"min_spend": "2", "max_spend": "3.5"}, [2.0]),
        ({"page_size": "2", "page": "2"}, [1.0]),
        ({"start_date": "2026-11-17 00:00:00", "end_date": "2026-11-17 23:59:59"}, [4.0, 2.0]),
    ],
)
def test_spend_logs_come_in_numbered_pages(
    api: Api, people: People, query: dict[str, str], spends: list[float]
) -> None:
    make_usual(people)
    answer = get(api, "/spend/logs/v2", **query)
    assert set(answer) == {"data", "total", "page", "page_size", "total_pages"}
    assert [row["spend"] for row in answer["data"]] == spends
    if "page_size" in query:
        assert (answer["total"], answer["total_pages"]) == (3, -(-3 // int(query["page_size"])))


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_date": ""}, "start_date"),
        ({"start_date": "0001-01-01", "end_date": "soon"}, "end_date"),
        ({"min_spend": "NaN"}, "min_spend"),
        ({"max_spend": "1e999999999"}, "max_spend"),
        ({"max_spend": "-1"}, "max_spend"),
        ({"status_filter": "odd"}, "status_filter"),
        ({"sort_by": "metadata"}, "sort_by"),
        ({"page": "999999"}, "page"),
        ({"page_size": "1001"}, "page_size"),
    ],
)
def test_pages_that_cannot_be_are_refused(api: Api, query: dict[str, str], param: str) -> None:
    refused(api.get("/spend/logs/v2", {**NOVEMBER, **query}), 400, param)


def test_pages_of_long_ago_are_empty(api: Api) -> None:
    assert get(api, "/spend/logs/v2", start_date="0001-01-01", end_date="0001-01-02")["data"] == []
    assert get(api, "/spend/logs/v2", error_code="٣٣٣")["data"] == []


def test_those_that_spent_most_come_first(api: Api, people: People) -> None:
    keys = [row["token"] for row in api.get("/spend/keys").json()]
    assert set(keys) == {digest_of(key) for key in (people.owner, people.mate, people.stranger)}
    assert [row["token"] for row in api.get("/spend/keys", by=people.owner).json()] == [digest_of(people.owner)]
    assert {row["user_id"] for row in api.get("/spend/users").json()} >= {"owner", "mate", "stranger"}
    assert [row["user_id"] for row in api.get("/spend/users", {"user_id": "mate"}).json()] == ["mate"]
    assert api.get("/spend/users", {"user_id": "stranger"}, by=people.owner).json() == []
    refused(api.get("/spend/keys", {"limit": "1001"}), 400, "limit")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/global/spend/report", NOVEMBER),
        ("/global/spend/report", {**NOVEMBER, "group_by": "customer"}),
        ("/global/activity", NOVEMBER),
        ("/global/activity/model", NOVEMBER),
        ("/spend/tags", NOVEMBER),
        ("/spend/tags", {}),
        ("/spend/logs", {**NOVEMBER, "summarize": "true"}),
    ],
)
def test_too_many_rows_are_refused_with_what_the_client_can_change(
    api: Api, people: People, monkeypatch: pytest.MonkeyPatch, path: str, query: dict[str, str]
) -> None:
    for module in (global_spend, spend_summary):
        monkeypatch.setattr(module, "MAX_ROWS", 1)
    for day in (1, 2):
        make(tags=f'["tag-{day}"]', started_at=at(f"2026-11-0{day}T12:00+00:00"))
    roll_up()
    error = refused(api.get(path, query), 400, "end_date")
    assert error["message"] == "The report has more than 1 rows. Ask for fewer days, with start_date and end_date."


def deploy(name: str, **lines: str) -> None:
    price = Price.objects.create(deployment_id=f"{name}-{len(lines)}", lines=lines)
    Deployment.objects.create(
        id=price.deployment_id, model_group=name, provider="openai", upstream_model="m", price_id=price.id
    )


def test_the_cost_of_a_call_is_calculated(api: Api, people: People) -> None:
    deploy("fast", input="0.000001", output="0.000004")
    messages = [{"role": "user", "content": "hello " * 100}]
    answer = api.post("/spend/calculate", {"model": "fast", "messages": messages}).json()
    tokens = api.post("/utils/token_counter", {"model": "fast", "messages": messages}).json()["total_tokens"]
    assert answer["cost"] == pytest.approx(tokens / 1_000_000)
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    response = {"id": "chatcmpl-1", "model": "fast", "usage": usage}
    done = api.post("/spend/calculate", {"completion_response": response}, by=people.owner).json()
    assert done == {"cost": 0.000057, "cost_usd": "0.000057000000"}
    deploy("fast", input="0.00001", output="0.00004", cache_read="0")
    dear = api.post("/spend/calculate", {"completion_response": response}).json()
    assert dear["cost_usd"] == "0.000570000000"  # of the dearest deployment


def test_the_cost_of_a_model_of_a_wildcard_is_calculated(api: Api, people: People) -> None:
    for name, usd in (("gpt-dear", "0.00001"), ("gpt-cheap", "0.000001")):
        Price.objects.create(
            deployment_id="", origin="book", provider="openai", model=name, lines={"input": usd, "output": usd}
        )
    Deployment.objects.create(id="wild", model_group="openai/*", provider="openai", upstream_model="*")
    Deployment.objects.create(id="wilder", model_group="openai/gpt-d*", provider="openai", upstream_model="gpt-d*")
    answer = {"usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    for by in ("", people.owner):
        who = {"by": by} if by else {}
        for model, cost in (("gpt-dear", "0.000100000000"), ("gpt-cheap", "0.000010000000")):
            body = {"model": f"openai/{model}", "completion_response": answer}
            assert api.post("/spend/calculate", body, **who).json()["cost_usd"] == cost
    body = {"model": "openai/absent", "completion_response": answer}
    refused(api.post("/spend/calculate", body), 400, "model")
    for name in ("other/gpt-dear", "openai/../gpt-dear", "openai/", "openai/*?"):
        refused(api.post("/spend/calculate", {**body, "model": name}), 404, "model")
    key = api.issue(models=["openai/gpt-cheap"], team_id=people.team.pk)["key"]
    cheap = {"model": "openai/gpt-cheap", "completion_response": answer}
    assert api.post("/spend/calculate", cheap, by=key).status_code == 200
    refused(api.post("/spend/calculate", {**cheap, "model": "openai/gpt-dear"}, by=key), 404, "model")


def test_the_cost_of_an_alias_is_that_of_the_model_behind_it(api: Api, people: People) -> None:
    Price.objects.create(
        deployment_id="", origin="book", provider="openai", model="gpt-cheap", lines={"input": "0.000001"}
    )
    Deployment.objects.create(id="wild", model_group="openai/*", provider="openai", upstream_model="*")
    deploy("fast", input="0.00001")
    aliases = {"house": "openai/gpt-cheap", "quick": "fast", "fast": "openai/gpt-cheap", "chain": "house"}
    RouterSettings.objects.update_or_create(id=1, defaults={"values": {"model_group_alias": aliases}})
    key = api.issue(aliases={"mine": "openai/gpt-cheap", "plain": "fast", "over": "house"}, team_id=people.team.pk)[
        "key"
    ]
    cheap, dear = "0.000010000000", "0.000100000000"
    costs = {"mine": cheap, "plain": dear, "over": cheap, "house": cheap, "quick": dear, "fast": dear}
    answer = {"usage": {"prompt_tokens": 10}}
    for name, cost in costs.items():
        body = {"model": name, "completion_response": answer}
        assert api.post("/spend/calculate", body, by=key).json()["cost_usd"] == cost, name
        if name in aliases:  # those of the installation are everybody's
            assert api.post("/spend/calculate", body).json()["cost_usd"] == cost, name
        else:
            refused(api.post("/spend/calculate", body, by=people.owner), 404, "model")
    refused(api.post("/spend/calculate", {"model": "chain", "completion_response": answer}, by=key), 404, "model")
    for models, found in ((["openai/gpt-cheap"], {"mine", "house"}), (["house"], {"house"}), (["other"], set())):
        narrow = api.issue(aliases={"mine": "openai/gpt-cheap"}, models=models, team_id=people.team.pk)["key"]
        for name in ("mine", "house", "quick"):
            body = {"model": name, "completion_response": answer}
            status = api.post("/spend/calculate", body, by=narrow).status_code
            assert status == (200 if name in found else 404), (models, name)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "messages"),
        ({"model": "fast"}, 400, "messages"),
        ({"messages": []}, 400, "model"),
        ({"model": "absent", "messages": []}, 404, "model"),
        ({"model": "free", "messages": [{"role": "user", "content": "hi"}]}, 400, "model"),
        ({"model": "fast", "completion_response": {}}, 400, "completion_response"),
        ({"model": "fast", "completion_response": {"usage": {"prompt_tokens": "many"}}}, 400, "completion_response"),
        ({"model": "fast", "messages": [], "completion_response": {"usage": {"prompt_tokens": 1}}}, 400, "messages"),
        ({"model": "fast", "messages": [], "api_key": "k"}, 400, "api_key"),
    ],
)
def test_what_cannot_be_calculated_is_refused(api: Api, body: JsonObject, status: int, param: str) -> None:
    deploy("fast", input="0.000001", output="0.000004")
    Deployment.objects.create(id="free-1", model_group="free", provider="mock", upstream_model="echo")
    refused(api.post("/spend/calculate", body), status, param)


def test_absurd_usage_has_a_cost_of_what_one_call_can_have(api: Api) -> None:
    deploy("fast", input="0.000001", output="0.000004")
    usage = {"prompt_tokens": 10**30, "completion_tokens": -5}
    answer = api.post("/spend/calculate", {"model": "fast", "completion_response": {"usage": usage}})
    assert answer.status_code in {200, 400}
    if answer.status_code == 200:
        assert answer.json()["cost"] <= 100.0
