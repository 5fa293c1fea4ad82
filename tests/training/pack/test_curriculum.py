"""`order: curriculum` follows the stages of a prepared data set: in what the model sees, and after a resume."""

import json
from functools import partial
from itertools import groupby

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus
from raymill.training.data.batch import Loader
from raymill.training.data.order import Order
from raymill.training.data.packed import PackedRows
from raymill.training.pack import job
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import LeftOut, all_documents
from raymill.training.pack.job import pack
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.packing import pack_stage
from tests.support.inline import InlineEngine, prepare_inline
from tests.support.packed_examples import config

LENGTH = 128


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> str:
    """120 records whose answers become longer."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = [
        {
            "id": f"r{n}",
            "question": f"What is number {n} of all?",
            "answer": "It follows the others. " * (1 + n % 12),
        }
        for n in range(120)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {
        "inputs": [{"path": str(folder / "in.jsonl"), "id": "id"}],
        "records": {"shape": "pairs"},
        "dedup": None,
        "curriculum": {"stages": 3},
        "output": str(folder / "out"),
    }
    with pytest.MonkeyPatch.context() as patch:
        return prepare_inline(plain, patch).uri


def settings(prepared: str, output, **more) -> dict:
    plain = {"corpus": prepared, "output": str(output), "sequence_length": LENGTH, "tokens_per_step": 4 * LENGTH}
    plain["columns"] = {"prompt": "prompt", "completion": "completion"}
    return plain | {"model": {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"}} | more


@pytest.fixture(scope="module")
def packed(prepared, tmp_path_factory) -> PackedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Engine", InlineEngine)
        patch.setattr(job, "pack_stage", partial(pack_stage, unit_tokens=1 << 9))
        plain = config(**settings(prepared, tmp_path_factory.mktemp("run"), order="curriculum"))
        return pack(plain, Session(), Progress())


@pytest.fixture(scope="module")
def stage_of(prepared) -> dict[str, int]:
    return {row["id"]: row["stage"] for row in Artifact.load(Store(), f"{prepared}/train").table().to_pylist()}


def seen(packed: PackedRun, how: str, steps: range, world: int = 1) -> list[list[frozenset[str]]]:
    """Of each step the documents of its rows, of all workers."""
    order = Order.for_training(config(**settings("-", "-", order=how)), packed)
    rows = packed.split("train")[0]
    loaders = [Loader(order, [PackedRows(rows)], rank, world, 2, LENGTH, 0) for rank in range(world)]
    try:
        batches = [[batch for loader in loaders for batch in loader.micro_batches(step)] for step in steps]
        return [sorted((frozenset(row) for one in step for row in one.documents), key=sorted) for step in batches]
    finally:
        for loader in loaders:
            loader.close()


def steps_of(packed: PackedRun) -> range:
    return range(packed.rows("train") // 4)  # whole steps of the first epoch


@pytest.mark.parametrize(("how", "sequence"), [("curriculum", [1, 2, 3]), ("reverse", [3, 2, 1])])
def test_the_model_gets_the_stages_in_order(packed, stage_of, how, sequence):
    found = seen(packed, how, steps_of(packed))
    of_rows = [[{stage_of[name] for name in row} for row in step] for step in found]
    assert all(len(stages) == 1 for step in of_rows for stages in step), "a row has documents of one stage"
    of_steps = [sorted({stage for stages in step for stage in stages}) for step in of_rows]
    flat = [stage for step in of_steps for stage in (step if how == "curriculum" else reversed(step))]
    assert [stage for stage, _ in groupby(flat)] == sequence
    assert len(packed.split("train")[0].manifest.files) > 3, "stages of several units"


def test_mixed_steps_have_all_stages(packed, stage_of):
    found = [{stage_of[name] for row in step for name in row} for step in seen(packed, "mixed", steps_of(packed))]
    assert sum(map(len, found)) / len(found) > 2.5


@pytest.mark.parametrize("how", ["curriculum", "reverse", "mixed"])
def test_a_resume_and_any_number_of_workers_see_the_same_batches(packed, how):
    whole = seen(packed, how, range(3 * len(steps_of(packed))))
    assert seen(packed, how, range(7, len(whole))) == whole[7:]
    assert seen(packed, how, range(len(whole)), world=3) == whole


def test_orders_of_stages_share_what_is_packed_and_shuffled_does_not(prepared, packed, monkeypatch):
    def packed_again(how: str) -> bool:
        plain = config(**settings(prepared, packed.uri.removesuffix("/packed"), order=how))
        return job.PackJob.of(plain, replace=False).finished

    assert packed_again("reverse") and packed_again("mixed")
    with pytest.raises(DataError, match="staged was true, now false"):
        packed_again("shuffled")


def test_validation_is_not_in_stages(packed, prepared):
    rows = packed.corpora["corpus-0"]["validation"].table().to_pylist()
    assert {name for row in rows for name in row["documents"]} and not any(
        name.startswith("stage_rows/") and int(name.partition("/")[2]) not in (1, 2, 3)
        for name in packed.packed("corpus-0")
    )
    assert sum(v for n, v in packed.packed("corpus-0").items() if n.startswith("stage_rows/")) == packed.rows("train")


def test_data_without_stages_is_refused(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "a", "level": 300}\n{"text": "b", "level": 3}\n')
    corpus = Corpus(path=str(tmp_path / "c.jsonl"))
    with pytest.raises(ConfigError, match=r"no stages of a curriculum.*columns\.stage"):
        freeze_corpus(Store(), corpus, Columns(text="text"), 1 << 20, staged=True)
    left_out = LeftOut()
    frozen = freeze_corpus(Store(), corpus, Columns(text="text", stage="level"), 1 << 20, staged=True)
    assert [one.stage for one in all_documents(frozen, left_out)] == [3] and left_out.reasons == {"bad_stage": 1}
    with pytest.raises(ValueError, match=r"columns\.stage: only the orders"):
        config(columns={"text": "text", "stage": "level"})
