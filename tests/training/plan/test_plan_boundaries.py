"""Advice, choices, estimates and words of a plan at their boundaries, against plain computations."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from raymill.cluster.formats import plural
from raymill.cluster.plan.plan import money
from raymill.training.config import TrainConfig
from raymill.training.data.order import Order
from raymill.training.fit.memory import with_rows_that_fit
from raymill.training.fit.ranks import Ranks
from raymill.training.gpus import AssumedGpu
from raymill.training.models.cost import shape_of
from raymill.training.plan import planning
from raymill.training.plan.advice import advise, usual_rates
from raymill.training.plan.data import Data, _guessed, bytes_per_token
from raymill.training.plan.memory import CHOICES, GIB, USABLE, changes, first_that_fits, memory, possible_choices
from raymill.training.plan.planning import machine, plan_run, plan_text
from tests.support.plan_cases import LORA, TINY, big, config, facts

GPUS = {"count": 8, "gpus_each": 1}


def warned(known, name: str) -> bool:
    return any(warning.startswith(name) for warning in advise(known))


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "prompt", "probe"])
def test_both_ends_of_the_usual_learning_rates_are_usual(method):
    settings = config(method=method) if method == "full" else config()
    known = facts(settings)
    lowest, highest = usual_rates(method, known.shape.total, True)
    for rate, odd in ((lowest, False), (highest, False), (0.99 * lowest, True), (1.01 * highest, True)):
        optimizer = settings.optimizer.model_copy(update={"learning_rate": rate})
        one = replace(known, config=settings.model_copy(update={"method": method, "optimizer": optimizer}))
        assert warned(one, "optimizer.learning_rate") is odd
    for parameters in (10**8, 10**10):
        trained, scratch = (usual_rates(method, parameters, start) for start in (False, True))
        assert trained[0] <= scratch[0] < scratch[1] and trained[1] < scratch[1]
    if method == "full":
        for start in (False, True):
            under, at = usual_rates("full", 10**9 - 1, start), usual_rates("full", 10**9, start)
            assert at[0] < under[0] and at[1] < under[1]


@pytest.mark.parametrize(
    ("changes", "known", "name"),
    [
        # (just unremarkable, just remarkable)
        (({"steps": 400}, {"steps": 401}), {"tokens": 100 * 1024}, "epochs"),
        (({"optimizer": {"warmup_steps": 20}}, {"optimizer": {"warmup_steps": 21}}), {}, "optimizer.warmup_steps"),
        (
            ({"optimizer": {"warmup_fraction": 0.2}}, {"optimizer": {"warmup_fraction": 0.21}}),
            {},
            "optimizer.warmup_fraction",
        ),
        (({"workers": {"count": 7, "gpus_each": 1}}, {"workers": GPUS}), {}, "workers.count"),
        (
            ({"workers": GPUS, "tokens_per_step": 65536}, {"workers": GPUS, "tokens_per_step": 65408}),
            {},
            "workers.count",
        ),
        ((LORA | {"lora": {"rank": 64}}, LORA | {"lora": {"rank": 65}}), {"tokens": 100}, "lora.rank"),
    ],
)
def test_advice_begins_right_after_its_limit(changes, known, name):
    assert [warned(facts(config(**one), **known), name) for one in changes] == [False, True]


@pytest.mark.parametrize(
    ("mode", "tokens_per_row", "documents", "said"),
    [
        ("none", 64, 1000, False),  # half of 128
        ("none", 63, 1000, True),
        ("best_fit", 63, 1000, False),
        ("best_fit", 120, 16_000, False),
        ("best_fit", 120, 16_001, True),
        ("none", 10, None, False),
    ],
)
def test_short_documents_are_named_below_half_a_row_or_above_sixteen_a_row(mode, tokens_per_row, documents, said):
    settings = config(packing={"mode": mode})
    order = Order([1000], [1000], 8, 64, 1, [float(tokens_per_row)])
    data = Data(True, "told", {"corpus-0": 1000}, {"corpus-0": 1000 * tokens_per_row}, documents, order)
    assert warned(replace(facts(settings), data=data), "sequence_length") is said


@examples(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 5))
def test_idle_workers_are_those_of_the_worst_number_that_does_not_divide_the_rows(rows, least, more):
    most = least + more
    if most > rows:
        return
    workers = {"count": least if not more else {"min": least, "max": most}}
    settings = config(workers=workers, tokens_per_step=128 * rows)
    found = [line for line in advise(replace(FACTS, config=settings)) if line.startswith("tokens_per_step")]
    share = {world: 1 - rows / (world * math.ceil(rows / world)) for world in range(least, most + 1)}
    worst = max(share.values())
    assert [f": {worst:.0%} of their time" in line for line in found] == ([True] if worst else [])
    for line in found:
        world = next(world for world in share if share[world] == worst)
        assert f"{world} workers cannot" in line or f"workers, {world} cannot" in line


@pytest.mark.parametrize(("rows", "said"), [(3, False), (4, True), (6, False)])
def test_groups_that_share_rows_are_idle_if_they_do_not_divide_the_rows(rows, said):
    settings = config(workers={"count": 6, "context": 2}, tokens_per_step=128 * rows)  # three groups
    found = [line for line in advise(facts(settings)) if line.startswith("tokens_per_step")]
    assert len(found) == said
    if found:
        assert "6 workers cannot share evenly: 33%" in found[0] and "among 2, 4, 8 workers" in found[0]


FACTS = facts(config())


def test_engines_that_a_config_cannot_use_are_no_choices():
    def choices(settings: TrainConfig) -> list[tuple[str, str]]:
        return [(one.engine, one.offload) for one in possible_choices(settings)]

    on_gpus = big()
    assert choices(on_gpus) == list(CHOICES)
    for compiled in ({"compile": True}, {"activation_checkpointing": "selective"}):
        assert choices(big(**compiled)) == [one for one in CHOICES if one[0] != "zero3"]
    assert choices(big(engine="zero1", offload="optimizer")) == [*CHOICES, ("zero1", "optimizer")]
    assert choices(config()) == [one for one in CHOICES if one[1] == "none"]
    assert choices(big(method="qlora", model="m")) == [("ddp", "none")]
    after = on_gpus.model_copy(update={"engine": "zero2", "offload": "optimizer", "activation_checkpointing": True})
    assert changes(on_gpus, after) == "activation_checkpointing: true, engine: zero2, offload: optimizer"
    assert changes(on_gpus, on_gpus) == ""


def test_selective_recomputing_is_named_where_layers_are_compiled_alone():
    settings = big(micro_batch=1)
    shape, selective = shape_of(settings), settings.model_copy(update={"activation_checkpointing": "selective"})
    engines = [settings.model_copy(update={"engine": one}) for one in ("zero3", "ddp")]
    found = first_that_fits([selective], engines, shape, 1 << 60)
    assert found is not None and found.engine == "ddp"
    assert first_that_fits([selective], engines, replace(shape, model_type="mamba"), 1 << 60) is None
    plain = first_that_fits([settings], engines, shape, 1 << 60)
    assert plain is not None and plain.engine == "zero3"


def test_what_is_given_of_a_gpu_holds_before_the_table_and_the_table_before_the_config():
    settings = config(device_memory_gib=10)
    table = machine(settings, "H100", None, None, 0.3, 2.0)
    assert table == AssumedGpu("H100", 79.1, None, 989.4e12, 0.3, 2.0)
    assert machine(settings, "H100", 20.0, 5.0, 0.3, None) == AssumedGpu("H100", 20.0, 5e12, 989.4e12, 0.3, None)
    assert machine(settings, None, None, None, 0.4, None) == AssumedGpu(None, 10, None, None, 0.4, None)
    assert machine(settings, None, None, 5.0, 0.4, 1.0).price == 1.0
    assert (table.peak(True), table.peak(False)) == (989.4e12, None)
    given = machine(settings, "H100", None, 5.0, 0.4, None)
    assert (given.peak(True), given.peak(False)) == (5e12, 5e12)
    assert [AssumedGpu(price=2.0).is_gpu, AssumedGpu(memory_gib=1).is_gpu, AssumedGpu("H100").is_gpu] == [
        False,
        True,
        True,
    ]


def test_an_estimate_is_the_text_over_its_bytes_a_token_in_rows_that_are_not_quite_full():
    corpora = [{"path": "a", "weight": 3}, {"path": "b", "weight": 1}]
    settings = config(corpus=corpora, split={"train": 0.9, "validation": 0.1, "test": 0})
    found = _guessed(settings, {"corpus-0": 100_000, "corpus-1": 7}, 1024)
    ratio = bytes_per_token(1024)
    assert ratio == pytest.approx(1.8)
    tokens = {"corpus-0": round(100_000 * 0.9 / ratio), "corpus-1": round(7 * 0.9 / ratio)}
    assert found.tokens == tokens
    assert found.rows == {name: math.ceil(count / (0.98 * 128)) for name, count in tokens.items()}
    filled = [tokens[name] / found.rows[name] for name in tokens]
    assert found.tokens_per_row == pytest.approx(1 / (0.75 / filled[0] + 0.25 / filled[1]))
    assert (found.exact, found.documents, found.documents_per_row, found.label_share) == (False, None, None, 1.0)
    assert "100 kB of documents at 1.8 bytes a token" in found.how and "90% of them to train on" in found.how
    assert "leaves out" not in found.how
    assert _guessed(settings, {"corpus-0": 0, "corpus-1": 0}, 256).rows == {"corpus-0": 1, "corpus-1": 1}
    assert found.epochs(10) == pytest.approx(10 * 8 / sum(found.rows.values()))


def test_documents_per_row_are_over_all_corpora():
    data = replace(FACTS.data, rows={"a": 10, "b": 30}, documents=80)
    assert data.documents_per_row == 2
    assert replace(data, documents=None).documents_per_row is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.99, "under 1 s"), (1, "1 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"),
        (3600 * 1234.5, "1,234.5 h"),
    ],
)  # fmt: skip
def test_a_time_has_its_own_unit(seconds, said):
    assert planning._time(seconds) == said


def test_numbers_are_written_with_their_words():
    assert [money(n) for n in (0, 0.009, 0.01, 1234.567)] == ["0.00", "under 0.01", "0.01", "1,234.57"]
    assert [plural(n, "row") for n in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]
    assert plural(2, "micro-batch", "es") == "2 micro-batches"
    verdicts = [(None, None), (True, None), (False, 3), (False, 0)]
    assert [planning._verdict({"fits": fits, "fewer_rows": rows}) for fits, rows in verdicts] == [
        "", "  fits", "  fits with micro_batch: 3", "  too large",
    ]  # fmt: skip


def test_a_shape_has_the_sizes_of_its_config():
    shape = shape_of(config(model={"config": TINY | {"head_dim": 32}, "tokenizer": "train"}))
    assert (shape.hidden, shape.feed_forward, shape.query, shape.key) == (64, 192, 4 * 32, 2 * 32)
    assert (shape.layers, shape.heads, shape.vocabulary, shape.exact) == (2, 4, 320, True)
    lora = shape_of(config(**LORA))
    assert lora.trained + lora.frozen == lora.total and lora.frozen == shape_of(config()).total


def test_a_worker_takes_the_configs_rows_else_the_most_that_its_device_holds(caplog):
    alone = Ranks(0, 1, torch.device("cpu"))
    unknown = config(workers=GPUS | {"count": 1})
    assert with_rows_that_fit(unknown, alone, 2) is unknown
    given = unknown.model_copy(update={"device_memory_gib": 80.0, "micro_batch": 3})
    assert with_rows_that_fit(given, alone, 2) is given
    shape = shape_of(unknown)
    for rows in (2, 4, 8):
        gib = (memory(unknown, shape, rows, 1).total + 10) / USABLE / GIB
        limited = unknown.model_copy(update={"device_memory_gib": gib})
        assert with_rows_that_fit(limited, alone, 2).micro_batch == rows
    assert not caplog.records
    tight = unknown.model_copy(update={"device_memory_gib": (memory(unknown, shape, 1, 1).total - 10) / USABLE / GIB})
    assert with_rows_that_fit(tight, alone, 2).micro_batch == 1
    assert "with one row at a time" in caplog.text
    with_rows_that_fit(tight, Ranks(1, 1, torch.device("cpu")), 2)
    assert len(caplog.records) == 1, "the first worker alone warns"


def test_the_line_of_the_time_has_the_rates_that_it_was_computed_with(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "some text"}\n')
    settings = config(corpus=str(tmp_path / "a.jsonl"), output=str(tmp_path / "run"), workers=GPUS)
    plan = plan_run(settings, AssumedGpu(peak_flops=5e12, mfu=0.25, price=1.0))
    (phase,) = plan["phases"]
    giga = f"{phase['flops_per_token'] / 10**9:,.4g}"
    assert f"at MFU 25% of 5 TFLOP/s, {giga} GFLOP a token;" in plan_text(plan)
