"""`manage.py report` prints what GET /api/reports/spend answers."""

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.contract.management import Api
from tests.contract.own_api import send
from tests.contract.test_spend_report import at, make, path_of, report, roll_up

pytestmark = pytest.mark.django_db
DAYS = ["--start-date=2026-01-01", "--end-date=2026-12-31"]


def run(*arguments: str) -> str:
    roll_up()
    out = io.StringIO()
    call_command("report", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_the_answer_of_the_route(api: Api) -> None:
    make(team_id="a", cost_pusd=5)
    make(team_id="b", cost_pusd=7)
    answer = report(api, group_by="team,day")
    assert json.loads(run(*DAYS, "--group-by=team,day", "--format=json")) == answer
    lines = run(*DAYS, "--group-by=team,day", "--format=csv").splitlines()
    assert [line.split(",")[:3] for line in lines] == [
        ["team", "day", "cost"],
        ["a", "2026-11-20", "0.000000000005"],
        ["b", "2026-11-20", "0.000000000007"],
    ]


def test_the_table_has_a_total_and_nothing_that_a_terminal_obeys() -> None:
    make(end_user="\x1b[2Jevil", cost_pusd=5)
    make(cost_pusd=7)
    table = run(*DAYS, "--group-by=end_user")
    assert "\x1b" not in table
    assert [line.split()[:2] for line in table.splitlines()] == [
        ["end_user", "cost"],
        ["-", "0.000000000007"],
        ["�[2Jevil", "0.000000000005"],
        ["total", "0.000000000012"],
    ]


def test_the_rows_of_one_member_alone(api: Api) -> None:
    make(team_id="a", cost_pusd=5, end_user="x=y")
    make(team_id="b", cost_pusd=7, end_user="x=y")
    answer = report(api, group_by="day", team="a", end_user="x=y", measures="margin")
    only = ("--only=team=a", "--only", "end_user=x=y", "--measures=margin")
    assert json.loads(run(*DAYS, "--group-by=day", *only, "--format=json")) == answer
    head, row, _total = (line.split() for line in run(*DAYS, *only).splitlines())
    assert dict(zip(head, row, strict=True))["provider_cost"] == answer["total"]["cost"] == "0.000000000005"


def test_a_file_has_the_answer_of_the_route(api: Api, tmp_path: Path) -> None:
    make(team_id="a", cost_pusd=5)
    for name in ("xlsx", "focus", "csv"):
        run(*DAYS, "--group-by=team", f"--format={name}", f"--output={tmp_path / name}")
        answer = send(api, "GET", path_of(group_by="team", format=name))
        assert (tmp_path / name).read_bytes() == b"".join(answer.streaming_content)
    with pytest.raises(CommandError, match="--output"):
        run(*DAYS, "--format=csv", f"--output={tmp_path / 'absent' / 'file'}")


def test_the_table_tells_the_period_before() -> None:
    make(started_at=at("2026-10-05T00:00+00:00"), team_id="a", cost_pusd=5)
    table = run("--start-date=2026-11-01", "--end-date=2026-11-30", "--group-by=team", "--compare=previous")
    head, row, _ = (line.split() for line in table.splitlines())
    assert (head[-2:], row[-2:]) == (["previous_cost", "previous_requests"], ["0.000000000005", "1"])


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--start-date=yesterday", "--start-date"),
        ("--group-by=colour", "--group-by"),
        ("--tz=Mars/Olympus", "--tz"),
        ("--format=xml", "--format"),
        ("--format=xlsx", "--output"),
        ("--compare=next", "--compare"),
        ("--measures=speed", "--measures"),
        ("--only=team", "--only"),
        ("--only=colour=red", "--only"),
        ("--only=status=ok", "--only"),
    ],
)
def test_what_cannot_be_is_refused_with_its_option(argument: str, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        run(argument)
