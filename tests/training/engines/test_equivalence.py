"""Losses, gradient norms and weights of every engine against a plain loop in one process.

Everything is float32, so what differs is the order of additions alone: a relative 1e-5 for each step's loss and norm,
and for each weight after the last step 1e-5 of its tensor's largest. (Of a single weight near zero the difference is
not small relative to itself: AdamW's update does not shrink with the weight.) AdamW's epsilon is large here, for with
the usual one its update is +-1 wherever the gradient is nothing but rounding, and rounding is what differs.

The default run takes a sample that has every engine with full weights and adapters; `-m slow` takes all.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pytest

from tests.support.ranks import RankPool
from tests.support.reference_loop import Trained
from tests.support.training_cases import Case, differences, train_reference, train_with_engine

TOLERANCE = 1e-5
ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")

# With 8 rows a step: 1 to 8 micro-batches of each worker; 3 workers have 3, 3 and 2 rows.
MATRIX = [
    (world, Case(engine, method, micro_rows, packed=packed))
    for engine, method, world, micro_rows, packed in product(
        ENGINES, ("full", "lora"), (1, 2, 3, 4), (1, 2, 4), (True, False)
    )
]
DECAYED = {"optimizer": {"learning_rate": 1e-2, "epsilon": 1e-3, "weight_decay": 0.1, "layer_decay": 0.5}}
PLUS = {"lora": {"rank": 4, "alpha": 8, "loraplus_ratio": 4, "dora": True}}
# Learning rates of their own for layers, and for the matrices of an adapter.
RATES = {
    engine: [(2, Case(engine, more=DECAYED, tied=True)), (3, Case(engine, "lora", more=DECAYED | PLUS))]
    for engine in ENGINES
}
# Embeddings and lm_head are trained beside the adapter; where they are tied, as one weight.
SAVED = {
    engine: Case(engine, "lora", more={"lora": {"rank": 4, "alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]}})
    for engine in ENGINES
}
PISSA = {engine: Case(engine, "lora", more={"lora": {"rank": 4, "alpha": 8, "init": "pissa"}}) for engine in ENGINES}
BESIDES = [
    (world, case)
    for engine in ENGINES
    for world, case in [
        (4, Case(engine, rows=5, micro_rows=1)),  # two micro-batches each, three of the eight all padding
        (2, Case(engine, tied=True)),
        (2, Case(engine, weighted=True)),
        (3, Case(engine, "lora", micro_rows=1, weighted=True)),
        (4, Case(engine, "probe", packed=False)),  # three classes, so FSDP2's last worker has no row of the head
        (2, Case(engine, "lora", more={"lora": {"rank": 4, "dora": True}})),
        (2, Case(engine, more={"activation_checkpointing": True})),
        (2, Case(engine, "lora", more={"activation_checkpointing": True})),
        (2, Case(engine, more={"optimizer": {"learning_rate": 1e-2, "epsilon": 1e-3, "clip": None}})),
        *RATES[engine],
        (2, SAVED[engine]),
        (2, PISSA[engine]),
        (3, replace(SAVED[engine], tied=True)),
    ]
]
OFFLOADED = [
    (2, Case(engine, "full", more={"offload": offload}))
    for engine, offload in [
        ("zero1", "optimizer"),
        ("zero2", "optimizer"),
        ("zero3", "optimizer"),
        ("zero3", "parameters"),
    ]
]
WHOLE = [(2, Case("zero3", method, whole_below=limit)) for method in ("full", "lora") for limit in (0, 1 << 20)]
ALL = MATRIX + BESIDES + OFFLOADED + WHOLE


def sample(seed: int) -> list[tuple[int, Case]]:
    """One case of each engine, of two workers; test_engines has all engines on three."""
    by_engine = defaultdict(list)
    for world, case in MATRIX:
        if world == 2:
            by_engine[case.engine].append((world, replace(case, steps=4)))
    chooser = random.Random(seed)
    # The sample of each engine has weighted tokens; a batch without weights is a part of every weighted case.
    weighted = [(world, replace(case, weighted=True)) for world, case in map(chooser.choice, by_engine.values())]
    rates = [replace(RATES[engine][method][1], steps=4) for engine, method in (("fsdp2", 0), ("zero1", 1))]
    tied = replace(SAVED["fsdp2"], tied=True, steps=4)
    saved = [tied, replace(SAVED["zero2"], steps=4), replace(PISSA["fsdp2"], steps=4)]
    return [*weighted, BESIDES[0], OFFLOADED[-1], *((2, case) for case in (*rates, *saved))]


def failures(cases: Iterable[tuple[int, Case]]) -> list[str]:
    """What differs by more than the tolerance. One set of ranks runs all cases of a number of workers."""
    references: dict[str, Trained] = {}
    by_world = defaultdict(list)
    for world, case in cases:
        by_world[world].append(case)
    found = []
    for world, own in by_world.items():
        with RankPool(world) as ranks:
            for case in own:
                plain = replace(case, engine="ddp", micro_rows=1, more=case.more | {"offload": "none"})
                if repr(plain) not in references:
                    references[repr(plain)] = train_reference(plain)
                result = ranks.run(train_with_engine, case)[0]
                off = {
                    name: size
                    for name, size in differences(result, references[repr(plain)]).items()
                    if size > TOLERANCE
                }
                found += [f"{world} workers, {case}: {off}"] if off else []
    return found


def test_a_sample_of_engines_trains_as_the_plain_loop_does():
    assert failures(sample(seed=5)) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_trains_as_the_plain_loop_does(engine):
    assert failures((world, case) for world, case in ALL if case.engine == engine) == []
