"""DeploymentLoad: the tokens of the last minute, by which deployments are ranked."""

from gateway.routing.load import MINUTE_S, DeploymentLoad

START_S = 100.0 * MINUTE_S


def test_a_call_counts_once_in_the_minute_in_which_it_ends() -> None:
    clock = [START_S]
    load = DeploymentLoad(lambda: clock[0])
    load.begin("up", 100)
    assert load.used_tokens(["up"]) == [100]
    clock[0] += MINUTE_S
    load.end("up", 100, 120)
    assert load.used_tokens(["up"]) == [120]
    clock[0] += MINUTE_S
    assert load.used_tokens(["up"]) == [120]
    clock[0] += MINUTE_S
    assert load.used_tokens(["up"]) == [0]


def test_a_call_that_fails_over_the_turn_of_a_minute_leaves_nothing_behind() -> None:
    clock = [START_S]
    load = DeploymentLoad(lambda: clock[0])
    load.begin("up", 100)
    clock[0] += 1.5 * MINUTE_S
    load.end("up", 100, 0)
    assert load.used_tokens(["up"]) == [0], "fewer than none made a failing deployment the least used one"
