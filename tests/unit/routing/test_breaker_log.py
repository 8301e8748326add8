"""BreakerLog: one line for each decision, and no flood of them."""

import logging

import pytest

from gateway.routing.breaker import Ejection
from gateway.routing.breaker_log import MOST_LINES, BreakerLog
from gateway.routing.error_class import ErrorClass


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> BreakerLog:
    caplog.set_level(logging.INFO)
    return BreakerLog(lambda name: {"deployment": name}, clock)


def test_an_ejection_and_its_end_are_lines_with_the_reason(log: BreakerLog, caplog: pytest.LogCaptureFixture) -> None:
    log.note_ejection("a", Ejection(ErrorClass.TIMEOUT, 1010.04, 2))
    log.note_ejection("a", None)
    out, back = caplog.records
    assert (out.levelname, out.getMessage()) == ("WARNING", "a deployment is out of its group")
    fields = vars(out)
    assert (fields["deployment"], fields["error_class"], fields["lasts_s"], fields["ejections"]) == (
        "a",
        "timeout",
        10.0,
        2,
    )
    assert (back.levelname, back.getMessage()) == ("INFO", "a deployment is back in its group")


def test_a_refused_credential_is_one_warning_a_change(log: BreakerLog, caplog: pytest.LogCaptureFixture) -> None:
    log.note_refusal("a", 1000.0)
    log.note_refusal("a", None)
    log.note_refusal("b", None)  # another process has seen the refusal
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "an upstream refuses a deployment's credential"),
        ("WARNING", "a deployment's credential is no longer refused, or was changed"),
        ("WARNING", "a deployment's credential is no longer refused, or was changed"),
    ]


def test_calls_that_alternate_between_yes_and_no_do_not_fill_the_log(
    log: BreakerLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        log.note_refusal("a", clock.now)
        log.note_refusal("a", None)
        clock.now += 0.1
    assert len(caplog.records) == 2 * MOST_LINES


def test_a_model_of_a_deployment_that_serves_many_is_named(log: BreakerLog, caplog: pytest.LogCaptureFixture) -> None:
    log.note_ejection("d\nslow", Ejection(ErrorClass.SERVER, 1010.0, 1))
    (line,) = caplog.records
    assert (vars(line)["deployment"], vars(line)["upstream_model"]) == ("d", "slow")
