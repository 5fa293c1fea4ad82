"""The answer store keeps every try, whatever happens to the process that writes it."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.asking.answers import SCHEMA, AnswerRange, Answers, Try
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.errors import ClusterError, DataError
from raymill.cluster.store.store import Store
from tests.support.stored_answers import ALL, tries_in

ONE = Try("ab01", "1", "run-1", "2026-11-26T10:00:00", "answered", status=200, input_tokens=9, body=b'{"a": "\xff"}')


@pytest.fixture
def answers(tmp_path):
    return Answers(Store(), str(tmp_path / "answers"), "run-1")


def journaled(answers, *tries, keys=ALL):
    with answers.journal(keys) as journal:
        for one in tries:
            journal.sending(one.key, one.id, '{"model":"m"}', TokenCounts(5, 0, 7))
            journal.add(one)


def files(answers):
    return sorted(path.name for path in Path(answers.uri).rglob("*") if path.is_file())


def test_a_try_is_there_before_it_is_settled_and_after_it_byte_for_byte(answers):
    journaled(answers, ONE)
    (before,) = tries_in(answers)["ab01"]
    assert before == replace(ONE, request='{"model":"m"}')
    answers.settle(ALL)
    assert tries_in(answers)["ab01"] == [before] and len(files(answers)) == 2
    answers.close()
    assert tries_in(answers)["ab01"] == [before] and [name[-8:] for name in files(answers)] == [".parquet"]
    answers.settle(ALL)
    assert len(files(answers)) == 1, "nothing new, no new file"


def test_the_line_that_a_killed_process_was_writing_is_left_out(answers):
    journaled(answers, ONE, replace(ONE, key="cd02", id="2"))
    (file,) = Path(answers.uri, "_open").iterdir()
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        found = tries_in(answers)
        assert [one.outcome for tries in found.values() for one in tries] in (
            [], ["in_flight"], ["answered"], ["in_flight", "answered"], ["answered", "in_flight"], ["answered"] * 2,
        )  # fmt: skip
        if size == len(whole) - 1:
            assert [one.outcome for one in found["ab01"]] == ["answered"], "a line counts once it is whole"


def test_what_was_in_flight_when_a_process_was_killed_counts_at_most(answers):
    with answers.journal(ALL) as journal:
        journal.sending("ab01", "1", '{"model":"m"}', TokenCounts(50, 0, 7))
    (lost,) = tries_in(answers)["ab01"]
    assert (lost.outcome, lost.most_input, lost.most_output, lost.input_tokens) == ("in_flight", 50, 7, 0)
    prices = TokenPrices(input=1, output=10)
    assert answers.spending().most(prices) == pytest.approx((50 + 70) / 1e6)
    answers.close()
    assert answers.spending().most(prices) == pytest.approx((50 + 70) / 1e6)
    journaled(answers, replace(ONE, input_tokens=3))  # the same try, seen to its end by another process
    assert answers.spending().most(prices) == pytest.approx(3 / 1e6)


def test_a_changed_journal_adds_no_try_of_other_types(answers):
    journaled(answers, ONE)
    (file,) = Path(answers.uri, "_open").iterdir()
    plain = file.read_text()
    for old, new in (('"status":200', '"status":"200"'), ('"key":"ab01"', '"key":["ab01"]'), ('"run"', '"ran"')):
        file.write_text(plain.replace(old, new))
        assert all(one.outcome == "in_flight" for tries in tries_in(answers).values() for one in tries)
    file.write_text("[]\n1\nnull\n{}\n" + plain)
    assert len(tries_in(answers)) == 1


def test_a_range_reads_its_own_keys_from_files_of_any_ranges(answers):
    low, high = AnswerRange("", "80000000"), AnswerRange("80000000", "")
    tries = [replace(ONE, key=key, id=key) for key in ("00", "7f", "80000000aa", "ff")]
    journaled(answers, *tries)
    answers.close()
    journaled(answers, replace(ONE, key="10", id="10"), keys=low)
    assert sorted(tries_in(answers, low)) == ["00", "10", "7f"]
    assert sorted(tries_in(answers, high)) == ["80000000aa", "ff"]
    assert not low.meets(high) and low.meets(ALL) and "7fffffffff" in low and "80000000" not in low


def test_two_runs_share_a_store_and_each_counts_its_own_tries(answers):
    journaled(answers, ONE)
    other = replace(answers, run="run-2")
    journaled(other, replace(ONE, key="cd02", id="2", run="run-2"))
    other.close()
    assert sorted(tries_in(answers)) == ["ab01", "cd02"]
    assert [one.spending().tries for one in (answers, other)] == [{"answered": 1}] * 2


def test_a_try_in_two_files_counts_once(answers):
    journaled(answers, ONE)
    answers.settle(ALL)
    journaled(answers, ONE)
    spent = answers.spending()
    assert spent.tries.total() == 1 and spent.tokens.input == 9 and len(tries_in(answers)["ab01"]) == 1


def test_tries_of_a_key_come_in_the_order_of_their_times(answers):
    journaled(
        answers, replace(ONE, id="b", at="2026-11-26T12"), replace(ONE, id="a", at="2026-11-26T11", outcome="again")
    )
    assert [one.id for one in tries_in(answers)["ab01"]] == ["a", "b"]


def test_a_run_that_ends_leaves_the_journal_of_another_alone(answers):
    other = replace(answers, run="run-2")
    with other.journal(ALL) as journal:
        journal.sending("cd02", "2", "{}", TokenCounts())
        journaled(answers, ONE)
        answers.close()
        journal.add(replace(ONE, key="cd02", id="2", run="run-2"))
    assert [one.outcome for one in tries_in(answers)["cd02"]] == ["answered"]
    other.close()
    assert sorted(tries_in(answers)) == ["ab01", "cd02"] and {name[-8:] for name in files(answers)} == {".parquet"}


def test_the_end_of_a_try_counts_in_whatever_file_it_is(answers):
    with answers.journal(ALL) as journal:
        journal.sending("ab01", "1", "{}", TokenCounts(50, 0, 7))
    answers.close()  # by a driver that took a suspended process for a dead one
    journaled(answers, ONE)
    answers.close()
    (found,) = tries_in(answers)["ab01"]
    assert found.outcome == "answered" and len(files(answers)) == 2
    assert answers.spending().tries == {"answered": 1} and answers.spending().unknown == TokenCounts()


def test_nothing_was_spent_where_nothing_is_stored(answers):
    assert answers.spending().most(TokenPrices(input=1, output=1)) == 0 and tries_in(answers) == {}


def test_a_worker_that_was_taken_for_lost_stops_when_another_does_its_unit(answers):
    low, high = AnswerRange("", "80000000"), AnswerRange("80000000", "")
    with answers.journal(low) as lost, answers.journal(high) as other, replace(answers, run="run-2").journal(low):
        lost.flush_old()
        with answers.journal(low) as later:
            with pytest.raises(ClusterError, match="another worker asks these requests"):
                lost.flush_old()
            later.flush_old()
            other.flush_old()


def stored(answers, **columns):
    """A file of the store with one try; of the columns given, other values."""
    columns = {name: [getattr(ONE, name)] for name in SCHEMA.names} | columns
    table = pa.table({name: pa.array(found) for name, found in columns.items() if found is not None})
    path = Path(answers.uri, f"0-g.{len(files(answers))}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "changed", [{"key": None}, {"run": [[5]]}, {"body": None}, {"input_tokens": ["x"]}, {"outcome": [{"a": 1}]}]
)
def test_a_file_of_other_columns_is_named(answers, changed):
    stored(answers, **changed)
    with pytest.raises(DataError, match="is no file of an answer store"):
        answers.finals(ALL, ["ab01"], 1000)


@pytest.mark.parametrize("name", ["key", "id", "at", "outcome", "status", "body", "input_tokens"])
def test_a_row_without_a_value_is_no_try(answers, name):
    type = SCHEMA.field(name).type
    stored(answers, **{name: pa.array([None], type)})
    assert answers.finals(ALL, ["ab01"], 1000) == ({}, {})


def test_a_number_below_zero_gives_no_money_back(answers):
    stored(answers, id=["2"], input_tokens=[-(10**12)])
    journaled(answers, replace(ONE, id="3", output_tokens=-(10**12)), replace(ONE, id="4", input_tokens=10**30))
    spent = answers.spending()
    assert (spent.tokens, spent.tries["answered"]) == (TokenCounts(), 0)
    answers.close()


def test_other_columns_are_not_read(answers):
    stored(answers, other=["x"])
    assert answers.finals(ALL, ["ab01"], 1000)[0]["ab01"] == ONE


def test_bodies_beyond_the_bound_and_of_other_requests_are_left_out(answers):
    journaled(answers, ONE, replace(ONE, key="cd02", id="2"))
    for _ in range(2):
        assert answers.finals(ALL, ["ab01"], 9)[0] == {}
        assert [*answers.finals(ALL, ["ab01"], 10)[0]] == ["ab01"]
        answers.close()


def test_the_first_answer_to_a_request_counts(answers):
    later, earlier = replace(ONE, id="b", at="2026-11-26T12"), replace(ONE, id="c", at="2026-11-26T09")
    journaled(answers, later, replace(ONE, id="r", outcome="refused"))
    answers.close()
    journaled(answers, earlier)
    answered, refused = answers.finals(ALL, ["ab01"], 1000)
    assert (answered["ab01"].id, refused["ab01"].id) == ("c", "r")


def test_lines_of_a_changed_journal_that_are_no_tries_are_left_out(answers):
    journaled(answers, ONE)
    (file,) = Path(answers.uri, "_open").iterdir()
    line = file.read_bytes().splitlines()[1]
    surrogate = line.replace(b'"reason":""', b'"reason":"\\ud800"').replace(b'"id":"1"', b'"id":"9"')
    file.write_bytes(b"[" * 100_000 + b"\n\n\n" + surrogate + b"\n" + file.read_bytes() + b"\x00" * 3_000_000)
    answers.close()
    assert [one.id for one in tries_in(answers)["ab01"]] == ["1"]


@pytest.mark.parametrize("number", ["²²²²²²", "123456abc", "9" * 200])
def test_a_journal_with_another_name_has_no_number(answers, number):
    journaled(answers, ONE)
    (file,) = Path(answers.uri, "_open").iterdir()
    of_range, mark, _, _ = file.name.split(".")
    (file.parent / f"{of_range}.{mark}.{number}-x.jsonl").write_text("")
    journaled(answers, replace(ONE, id="2"))
    assert any(f".{mark}.000001-" in name for name in files(answers))


@pytest.mark.parametrize("request_", ["", "{", "[]", '{"messages":null}', '{"messages":["x"]}', "[" * 100_000])
def test_a_request_of_another_form_has_no_size(answers, request_):
    stored(answers, request=[request_])
    assert answers.sizes(10) == ([], [], [])
