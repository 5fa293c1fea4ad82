"""Workers that share rows (workers.context), on 2 and 4 gloo workers: the numbers of one worker with whole rows."""

from dataclasses import replace

import pytest

from tests.support.ranks import RankPool
from tests.support.training_cases import Case, differences, train_reference, train_with_engine

HEADS = {"grouped": {}, "of_its_own": {"num_key_value_heads": 4}, "single": {"num_key_value_heads": 1}}


def shared(engine: str, method: str = "full", workers: int = 2, context: int = 2, heads="grouped", **more) -> Case:
    own = {name: more.pop(name) for name in ("tied", "weighted", "rows", "micro_rows", "packed") if name in more}
    more |= {"workers": {"count": workers, "context": context}}
    return Case(engine, method, steps=4, more=more, model=HEADS[heads], **own)


@pytest.fixture(scope="module")
def four():
    with RankPool(4) as ranks:
        yield ranks


@pytest.mark.parametrize("case", [shared("ddp", workers=4), shared("fsdp2", "lora", workers=4, context=4), shared("ddp", heads="of_its_own", workers=4, context=4),shared("ddp", heads="single", workers=4, context=4),
 shared("fsdp2", workers=4, more=0) if 0 else shared("fsdp2", workers=4, weighted=True, tied=True, activation_checkpointing=True),
  shared("ddp", "lora", workers=4, rows=5, micro_rows=1, packed=False),
 ], ids=str)
def test_two(four, case):
    result = four.run(train_with_engine, case)[0]
    found = differences(result, train_reference(replace(case, micro_rows=1, engine="ddp", more={k:v for k,v in case.more.items() if k!="workers"})))
    print(found)
    assert max(found.values()) < 1e-6
@pytest.mark.parametrize("case", [shared("zero1", workers=4), shared("zero2", "lora", workers=4, context=4), shared("zero3", workers=4, context=4),shared("zero3","lora", workers=4, context=2)], ids=str)
def test_zero(four, case, monkeypatch):
    result = four.run(zero, case)[0]
    found = differences(result, train_reference(replace(case, micro_rows=1, engine="ddp", more={k:v for k,v in case.more.items() if k!="workers"})))
    print(found)
    assert max(found.values()) < 1e-6
def zero(case):
    from raymill.training.config import TrainConfig
    TrainConfig._check_context=lambda self: None
    return train_with_engine(case)
