"""Keys of requests: equal for what has the same answer, different for everything else."""

import pytest

from raymill.cluster.asking.requests import address_class, boundaries, range_of, request_of, sample_seed

BODY = {"model": "m", "messages": [{"role": "user", "content": "Grüße"}], "temperature": 0.7, "max_tokens": 9}
ASKED = {"at": "private", "revision": ""}


def test_the_order_of_fields_makes_no_other_key():
    one, other = request_of(ASKED, BODY), request_of(dict(reversed(ASKED.items())), dict(reversed(BODY.items())))
    assert one == other and len(one.key) == 32 and one.plain == BODY


@pytest.mark.parametrize(
    ("asked", "body", "sample"),
    [
        ({"at": "api.example.com/v1"}, {}, 0),
        ({"revision": "b"}, {}, 0),
        ({}, {"model": "n"}, 0),
        ({}, {"temperature": 0.8}, 0),
        ({}, {"max_tokens": 10}, 0),
        ({}, {"response_format": {"type": "json_object"}}, 0),
        ({}, {"messages": [{"role": "system", "content": "Be brief."}, *BODY["messages"]]}, 0),
        ({}, {}, 1),
    ],
)
def test_everything_that_changes_the_answer_makes_another_key(asked, body, sample):
    assert request_of(ASKED | asked, BODY | body, sample).key != request_of(ASKED, BODY).key


def test_samples_of_one_prompt_are_neighbours():
    keys = [request_of(ASKED, BODY | {"seed": seed}, seed).key for seed in range(5)]
    assert len({*keys}) == 5 and len({key[:12] for key in keys}) == 1
    assert request_of(ASKED, BODY | {"model": "n"}).key[:12] != keys[0][:12]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:8000/v1", "private"),
        ("http://127.0.0.1:9000/v1", "private"),
        ("http://10.1.2.3/v1", "private"),
        ("http://vllm:8000/v1", "private"),
        ("http://vllm.models.svc:8000/v1", "private"),
        ("https://api.openai.com/v1/", "api.openai.com/v1"),
        ("https://API.openai.com/v1", "api.openai.com/v1"),
        ("https://8.8.8.8/v1", "8.8.8.8/v1"),
    ],
)
def test_a_server_of_ones_own_may_move(url, kind):
    assert address_class(url) == kind


@pytest.mark.parametrize("count", [1, 2, 3, 7, 256])
def test_every_key_is_in_one_range(count):
    firsts = boundaries(count)
    assert firsts == sorted(firsts) and len({*firsts}) == count and firsts[0] == ""
    keys = [request_of(ASKED, BODY | {"seed": n, "messages": [n]}).key for n in range(500)]
    for key in keys:
        at = range_of(key, firsts)
        assert firsts[at] <= key and (at + 1 == count or key < firsts[at + 1])
    assert len({range_of(key, firsts) for key in keys}) == min(count, len({range_of(key, firsts) for key in keys}))


def test_the_seed_of_a_sample_is_the_same_everywhere_and_fits_31_bits():
    asked = [[{"role": "user", "content": text}] for text in ("Name a colour.", "Name a fruit.")]
    seeds = {sample_seed(seed, sample, one) for seed in range(20) for sample in range(20) for one in asked}
    assert len(seeds) == 800 and max(seeds) < 1 << 31
    assert sample_seed(1, 0, asked[0]) == 1045107799
