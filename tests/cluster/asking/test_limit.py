"""The limit finds where a server is full, from throughput alone. Servers are simulated, without a clock."""

import heapq
import random

import pytest

from raymill.cluster.asking.limit import Limit


def simulated(latency_of, most=512, seconds=300, refuse=lambda flying, now: False, seed=1):
    """(values of the limit over the second half, throughput). latency_of(requests in flight, now) -> seconds."""
    draw, limit, now, flying, values = random.Random(seed), Limit(most, 0.0), 0.0, [], []
    report, count, total = 0.0, 0, 0
    while now < seconds:
        while len(flying) < limit.value:
            latency = latency_of(len(flying) + 1, now) * draw.uniform(0.7, 1.3)
            heapq.heappush(flying, now + latency)
        if flying[0] <= report:
            now = heapq.heappop(flying)
            count, total = count + 1, total + 1
        else:
            now = report
            if refuse(len(flying), now):
                limit.overloaded(now)
            limit.ended(now, count, 100 * count, True)
            count, report = 0, report + 0.25
            values.append(limit.value)
    return values[len(values) // 2 :], total / seconds


def queue(capacity, seconds):
    """A server that computes `capacity` requests at a time, lets others wait, and refuses none."""
    free = [0.0] * capacity

    def latency(_, now):
        begins = max(heapq.heappop(free), now)
        heapq.heappush(free, begins + seconds)
        return begins + seconds - now

    return latency


@pytest.mark.parametrize(("capacity", "seconds"), [(4, 0.5), (16, 1.0), (64, 2.0), (200, 1.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_that_only_becomes_slower_is_not_overrun_and_kept_busy(capacity, seconds, seed):
    values, throughput = simulated(queue(capacity, seconds), seed=seed)
    mean = sum(values) / len(values)
    assert 0.8 * capacity < mean < 1.6 * capacity, mean
    assert throughput > 0.85 * capacity / seconds


def test_a_server_that_batches_gets_more_while_that_brings_more():
    values, _ = simulated(lambda flying, now: 1 + 0.01 * flying)
    assert 100 < sum(values) / len(values) < 300, "throughput squared by latency is largest at 200"


def test_a_server_that_becomes_slower_gets_fewer_requests():
    fast, slow = queue(64, 1.0), queue(8, 1.0)
    values, _ = simulated(lambda flying, now: (fast if now < 300 else slow)(flying, now), seconds=1200)
    assert sum(values[-400:]) / 400 < 20


def test_refusals_lower_it_at_once_and_never_below_one():
    values, throughput = simulated(lambda flying, now: 0.5, refuse=lambda flying, now: flying > 20)
    assert max(values) <= 30 and sum(values) / len(values) > 10 and throughput > 20
    limit = Limit(512, 0.0)
    for now in range(100):
        limit.overloaded(float(now * 10))
    assert limit.value == 1


def test_it_never_exceeds_the_largest_value_and_stays_without_demand():
    assert max(simulated(lambda flying, now: 0.1, most=10)[0]) == 10
    limit = Limit(512, 0.0)
    for now in range(1, 1000):
        limit.ended(float(now), 100, 100, saturated=False)
    assert limit.value == 8


def test_refusals_of_one_moment_lower_it_once():
    limit = Limit(64, 0.0)
    for now, value in [(1.0, 6), (1.1, 6), (1.9, 6), (2.0, 4), (2.5, 4), (3.5, 3)]:
        limit.overloaded(now)
        assert limit.value == value, now
