"""What workers are granted, together, never exceeds the bounds."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from raymill.cluster.asking.money import TokenCounts, TokenPrices, tokens_of
from raymill.cluster.asking.throttle import REPORT_S, AskingBounds, Report, Throttle

FREE = AskingBounds(100, None, None, None, None, 60)
PRICES = TokenPrices(input=1, output=2)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_limit_is_divided_fairly_and_never_exceeded(clock):
    throttle, draw = Throttle(FREE, 0, clock), random.Random(1)
    throttle._limit.value = 100
    workers = {name: Report() for name in "abc"}
    wants = {"a": 10, "b": 500, "c": 500}
    for _ in range(200):
        for name, made in workers.items():
            grant = throttle.report(name, replace(made, waiting=wants[name]))
            made.in_flight = min(grant.in_flight, wants[name], made.in_flight + 50)
            assert sum(one.in_flight for one in workers.values()) <= 100
            made.in_flight -= draw.randint(0, made.in_flight // 2)
        clock.now += REPORT_S
    grants = {
        name: throttle.report(name, replace(made, waiting=wants[name])).in_flight for name, made in workers.items()
    }
    assert 90 <= sum(grants.values()) <= 100 and abs(grants["b"] - grants["c"]) <= 30


def test_a_worker_that_is_lost_gives_its_part_back(clock):
    throttle = Throttle(FREE, 0, clock)
    throttle._limit.value = 10
    assert throttle.report("a", Report(waiting=50)).in_flight == 10
    assert throttle.report("b", Report(waiting=50)).in_flight == 0
    clock.now += 31
    assert throttle.report("b", Report(waiting=50)).in_flight == 10


def test_a_worker_that_is_done_holds_neither_requests_nor_money(clock):
    throttle = Throttle(replace(FREE, budget=1.0, prices=PRICES), 0, clock)
    throttle._limit.value = 10
    assert throttle.report("a", Report(waiting=50, next_cost=0.01)).in_flight == 10
    spent = TokenCounts(input=400_000)
    throttle.report("a", Report(answered=9, tokens=spent, done=True))
    grant = throttle.report("b", Report(waiting=50, next_cost=0.01))
    assert grant.in_flight == 10 and grant.reserve == pytest.approx(0.6)
    assert throttle.report("c", Report(in_flight=1, reserved=0.1)).reserve == 0.1, "nothing more waits there"


def test_requests_of_a_minute_are_granted_evenly_over_workers(clock):
    throttle, started = Throttle(replace(FREE, requests_per_minute=600), 0, clock), Counter()
    for _ in range(400):  # 100 seconds
        for name in "ab":
            started[name] += throttle.report(name, Report(waiting=1000)).starts or 0
        clock.now += REPORT_S
    assert 950 <= started.total() <= 1005 and 0.5 < started["a"] / started["b"] < 2


def test_tokens_of_a_minute_hold_requests_back(clock):
    throttle, made = Throttle(replace(FREE, tokens_per_minute=6000), 0, clock), Report(waiting=100)
    for _ in range(400):
        grant = throttle.report("a", replace(made, failed=Counter()))
        started = min(5, grant.in_flight if grant.starts is None else grant.starts)
        made.tokens, made.answered = made.tokens + TokenCounts(50 * started, 0, 50 * started), made.answered + started
        clock.now += REPORT_S
    assert 9_000 < made.tokens.input + made.tokens.output < 11_500


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_never_exceeded_and_nearly_used_up(clock, workers, seed):
    """Each request may cost 0.01, and costs between a fifth and all of it."""
    draw, throttle = random.Random(seed), Throttle(replace(FREE, budget=1.0, prices=PRICES), 0.1, clock)
    reports = {f"w{number}": Report(waiting=1000, next_cost=0.01) for number in range(workers)}
    flying = dict.fromkeys(reports, 0)
    stopped = ""
    for _ in range(3000):
        name = draw.choice(sorted(reports))
        made = reports[name]
        made.in_flight, made.reserved = flying[name], 0.01 * flying[name]
        grant = throttle.report(name, replace(made, failed=Counter()))
        clock.now += 0.05
        if grant.stop:
            stopped = grant.stop
            if not any(flying.values()):
                break
        while (
            not grant.stop
            and flying[name] < grant.in_flight
            and 0.01 * (flying[name] + 1) <= (grant.reserve or 0) + 1e-12
        ):
            flying[name] += 1
        for _ in range(draw.randint(0, flying[name])):
            flying[name] -= 1
            made.tokens += TokenCounts(draw.randint(2000, 10_000))
        spent = 0.1 + sum(one.tokens.cost(PRICES) for one in reports.values())
        assert spent + 0.01 * sum(flying.values()) <= 1.0 + 1e-9
    assert "the budget of 1 has no room" in stopped and "larger budget" in stopped
    assert 0.97 < 0.1 + sum(one.tokens.cost(PRICES) for one in reports.values()) <= 1.0


def test_a_run_without_any_answer_is_stopped_with_what_was_seen(clock):
    throttle = Throttle(FREE, 0, clock)
    made = Report(in_flight=3, waiting=9, failed=Counter({"status 500": 5, "no connection": 2}))
    assert throttle.report("a", made).stop == ""
    clock.now += 59
    assert throttle.report("a", made).stop == ""
    clock.now += 2
    assert throttle.report("a", made).stop == (
        "no answer for 61 s (model.give_up_s: 60): status 500 (5 times), no connection (2 times). All answers are "
        "stored: run the same command again once the server answers"
    )
    assert throttle.report("b", Report(waiting=1)).stop, "all are stopped"


def test_time_that_the_server_asked_to_wait_does_not_count(clock):
    throttle, made = Throttle(FREE, 0, clock), Report(in_flight=1, failed=Counter(x=1), paused_until=1000 + 300)
    throttle.report("a", made)
    for _ in range(30):
        clock.now += 10
        grant = throttle.report("a", made)
    assert grant.stop == "" and grant.paused_until == 1300


def test_who_stops_first_waits_until_nobody_has_requests_in_flight(clock):
    throttle = Throttle(FREE, 0, clock)
    throttle.report("b", Report(in_flight=2))
    assert not throttle.report("a", Report(stop="status 401")).quiet
    assert not throttle.report("b", Report(in_flight=1)).quiet
    assert throttle.report("b", Report()).quiet and throttle.report("a", Report()).stop == "status 401"


def test_tokens_cost_what_the_prices_say():
    prices = TokenPrices(input=2, output=8, cached=0.5, reasoning=10)
    assert TokenCounts(1000, 400, 300, 100).cost(prices) == pytest.approx(
        (600 * 2 + 400 * 0.5 + 200 * 8 + 100 * 10) / 1e6
    )
    assert TokenCounts(1000, 400, 300, 100).cost(TokenPrices(input=2, output=8)) == pytest.approx(
        (1000 * 2 + 300 * 8) / 1e6
    )
    assert TokenCounts(9, 0, 9).cost(None) == 0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (
            {
                "prompt_tokens": 120, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 8},
            },
            TokenCounts(120, 64, 30, 8),
        ),
        ({"prompt_tokens": 5}, TokenCounts(5)),
        (None, TokenCounts()),
        ([], TokenCounts()),
        ({"prompt_tokens": -1, "completion_tokens": "9"}, TokenCounts()),
        ({"prompt_tokens": True, "completion_tokens": 1e9}, TokenCounts()),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, TokenCounts(3, 3)),
        ({"prompt_tokens": 3, "prompt_tokens_details": None}, TokenCounts(3)),
    ],
)  # fmt: skip
def test_usage_is_read_as_far_as_it_makes_sense(usage, tokens):
    assert tokens_of(usage) == tokens


def test_a_server_that_asks_to_wait_again_and_again_is_not_waited_for_without_end(clock):
    throttle = Throttle(FREE, 0, clock)
    made, stopped = Report(in_flight=1, failed=Counter({"status 429": 1})), ""
    while not stopped:
        made.paused_until = clock.now + 3600
        stopped = throttle.report("a", replace(made)).stop
        clock.now += 20
    assert clock.now < 1000 + 3600 + 60 + 100 and "no answer for 3,6" in stopped


def test_the_state_has_what_all_workers_did_and_what_it_cost(clock):
    prices = TokenPrices(input=1, output=10)
    throttle = Throttle(AskingBounds(8, None, None, 5.0, prices, 900), 1.0, clock)
    throttle.report("a", Report(in_flight=3, waiting=7, answered=4, found=2, tokens=TokenCounts(1_000_000, 0, 0)))
    throttle.report("b", Report(in_flight=1, answered=6, tokens=TokenCounts(0, 0, 50_000), unknown=0.25))
    state = throttle.state()
    assert (state.running, state.in_flight, state.answered) == (12, 4, 10)
    assert state.spent == pytest.approx(2.75) and state.of_answered == pytest.approx(1.75)
    assert state.text(8, 40, prices, 5.0) == "20/40 requests, 4 in flight, spent 2.75 of 5, about 3.5 to go"
    throttle.report("b", Report(answered=8, tokens=TokenCounts(0, 0, 60_000), unknown=0.25, done=True))
    state = throttle.state()
    assert (state.running, state.in_flight, state.answered) == (6, 3, 12), (
        "the requests of b are in its unit's counters"
    )
    assert state.spent == pytest.approx(2.85)
    assert state.text(34, 40, None, None) == "40/40 requests, 3 in flight"
