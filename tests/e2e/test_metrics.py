"""GET /metrics: the numbers of all processes of a gateway, for those who may see the whole platform."""

import signal
from collections.abc import Callable, Mapping
from decimal import Decimal

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics.definitions import BY_NAME
from gateway.protocol.json.types import JsonObject
from tests.e2e.conftest import ENVIRONMENT, Backend, Launch
from tests.e2e.gateway import MASTER_KEY, Gateway, decimal_cost, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ASK: JsonObject = {"messages": [{"role": "user", "content": "hi"}]}
Labels = Mapping[str, str]


def scrape(gateway: Gateway, key: str = MASTER_KEY, **query: str) -> list[tuple[str, Labels, float]]:
    answer = gateway.http.get("/metrics", params=query, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]


def value(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(number for other, own, number in scrape(gateway) if other == name and labels.items() <= own.items())


def ask(gateway: Gateway, key: str, model: str, **body: object) -> httpx.Response:
    return gateway.call(key, model=model, **{**ASK, **body})


def test_the_numbers_are_those_of_the_calls(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config)
    key = gateway.issue_key()
    limited = gateway.issue_key(rpm_limit=1)
    assert [ask(gateway, key, "priced").status_code for _ in range(2)] == [200, 200]
    assert ask(gateway, key, "priced", stream=True).status_code == 200
    ask(gateway, limited, "gone")
    limited = gateway.issue_key(rpm_limit=1)
    assert ask(gateway, key, "no-such-model-0123").status_code == 404
    assert [ask(gateway, limited, "chat").status_code for _ in range(2)] == [200, 429]
    rows = gateway.wait_priced(3, api_key=key)

    assert value(gateway, "tollgate_requests_total", endpoint="chat", model_group="priced", status="200") == 3
    assert value(gateway, "tollgate_requests_total", endpoint="chat", model_group="other", status="404") == 1
    assert value(gateway, "tollgate_requests_total", endpoint="chat", model_group="gone", status="502") == 1
    assert value(gateway, "tollgate_attempts_total", model_group="gone", outcome="connect") >= 1
    assert value(gateway, "tollgate_extra_attempts_total", model_group="gone", reason="same_deployment") >= 1
    assert value(gateway, "tollgate_refusals_total", model_group="chat", reason="requests") == 1
    assert value(gateway, "tollgate_time_to_first_token_seconds_count", model_group="priced") == 1
    assert value(gateway, "tollgate_request_duration_seconds_count", model_group="priced") == 3
    cost = sum(map(decimal_cost, rows), Decimal(0))
    assert value(gateway, "tollgate_cost_usd_total", model_group="priced") == pytest.approx(float(cost))
    assert value(gateway, "tollgate_open_requests") == 1  # this scrape
    assert value(gateway, "tollgate_database_up") == 1
    eventually(lambda: value(gateway, "tollgate_pricing_backlog_rows") == 0, within_s=10, what="all rows priced")
    page = gateway.http.get("/metrics", headers={"authorization": f"Bearer {MASTER_KEY}"}).text
    assert "no-such-model-0123" not in page
    for name, _, _ in scrape(gateway):
        base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        assert base in BY_NAME or name in BY_NAME or name.endswith("_created"), name


def test_who_may_read_metrics_and_who_gets_an_error_in_json(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config)
    admin = gateway.admin

    def key_of(role: str, **fields: object) -> str:
        user = admin.post("/user/new", json={"user_role": role, "auto_create_key": False}).json()
        return gateway.issue_key(user_id=user["user_id"], **fields)

    statuses = {
        "platform viewer's management key": key_of("proxy_admin_viewer", key_type="management"),
        "platform admin's management key": key_of("proxy_admin", key_type="management"),
        "platform admin's key for calls": key_of("proxy_admin"),
        "organization admin's": key_of("org_admin", key_type="management"),
        "member's": key_of("internal_user"),
        "nobody's": "sk-unknown",
    }
    answers = {
        name: gateway.http.get("/metrics", headers={"authorization": f"Bearer {key}"}) for name, key in statuses.items()
    }
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "platform viewer's management key": 200,
        "platform admin's management key": 200,
        "platform admin's key for calls": 403,
        "organization admin's": 403,
        "member's": 403,
        "nobody's": 401,
    }
    for answer in answers.values():
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]
            assert b"tollgate_" not in answer.content
    assert gateway.http.get("/metrics").status_code == 401
    bad = gateway.http.get("/metrics?litellm_names=maybe", headers={"authorization": f"Bearer {MASTER_KEY}"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "litellm_names")
    names = {name for name, _, _ in scrape(gateway, litellm_names="true")}
    assert "litellm_deployment_state" in names
    assert gateway.http.post("/metrics", headers={"authorization": f"Bearer {MASTER_KEY}"}).status_code == 405


def test_a_background_response_counts_where_the_worker_made_it(launch: Launch, config: JsonObject) -> None:
    gateway = launch(config)
    key = gateway.issue_key()
    body = {"model": "chat", "input": "hi", "background": True}
    assert gateway.call(key, "/v1/responses", **body).status_code == 200
    eventually(
        lambda: value(gateway, "tollgate_attempts_total", model_group="chat", outcome="ok") == 1,
        within_s=20,
        what="the worker's numbers",
    )
    assert value(gateway, "tollgate_processes") == 2
    assert value(gateway, "tollgate_requests_total", endpoint="responses", status="200") == 1


def test_a_setting_opens_metrics_to_everyone(launch: Launch) -> None:
    gateway = launch(env={"TOLLGATE_METRICS_AUTH": "false"})
    assert gateway.http.get("/metrics").status_code == 200


@pytest.fixture
def crowd(production: Backend, config: JsonObject, launch: Launch) -> Callable[[], Gateway]:
    return lambda: launch(config, env={**ENVIRONMENT, **production.environment(), "WEB_CONCURRENCY": "3"})


def test_all_processes_show_one_sum_that_a_killed_process_does_not_lower(crowd: Callable[[], Gateway]) -> None:
    gateway = crowd()
    key = gateway.issue_key()
    for _ in range(30):  # each on a connection of its own: the kernel spreads them over the processes
        answer = httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={**ASK, "model": "chat"},
            headers={"authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200

    def count() -> float:
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        page = httpx.get(f"{gateway.url}/metrics", headers=headers).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "tollgate_requests_total" and sample.labels["model_group"] == "chat"
        )

    for _ in range(6):  # whichever process answers
        eventually(lambda: count() == 30, within_s=5, what="the sum of all processes")
    web = [child for child in gateway.processes() if "--listener" in child.cmdline()]
    assert len(web) == 3
    web[0].send_signal(signal.SIGKILL)
    web[0].wait(20)
    for _ in range(6):
        assert count() == 30
    gateway.restart()
    assert count() == 30
