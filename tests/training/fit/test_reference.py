"""Log-probabilities by the reference model: computed once, continued after a kill, refused if others changed them."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raymill.cluster.errors import DataError
from raymill.training.fit import reference
from raymill.training.fit.loop import Training
from tests.support.answer_jobs import LENGTH, answer_job, pack_answers
from tests.support.fit_jobs import Interrupted, column, final_weights, fit_alone, fit_here, fit_until
from tests.support.ranks import RankPool

torch.set_num_threads(1)
ALL = ("dpo", "ipo", "simpo", "orpo", "kto", "reward")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    root = str(tmp_path_factory.mktemp("packed"))
    for objective in ALL:
        pack_answers(root, objective)
    return root


@pytest.fixture
def own(tmp_path) -> str:
    """Packed rows that a test may change."""
    for objective in ("dpo", "kto"):
        pack_answers(str(tmp_path), objective)
    return str(tmp_path)


@pytest.fixture(scope="module")
def two():
    with RankPool(2) as ranks:
        yield ranks


def references(root: str, objective: str) -> dict[str, Path]:
    """Name of the split -> folder of its log-probabilities."""
    found = {}
    for split in ("train", "validation"):
        digest = json.loads(Path(root, f"packed-{objective}/test/{split}/_manifest.json").read_text())["digest"]
        (found[split],) = Path(root, f"packed-{objective}/reference", digest[:32]).iterdir()
    return found


def tables(root: str, objective: str) -> dict[str, pa.Table]:
    return {
        split: pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("part-*.parquet"))])
        for split, folder in references(root, objective).items()
    }


@pytest.mark.parametrize("objective", ALL)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(packed, tmp_path, objective):
    whole = answer_job(packed, objective, output=str(tmp_path / "whole"), checkpoint={"every_steps": 3})
    resumed = answer_job(packed, objective, output=str(tmp_path / "resumed"), checkpoint={"every_steps": 3})
    wanted = final_weights(fit_alone(whole))
    fit_until(resumed, 3, alone=True)
    outcome = fit_alone(resumed)
    assert outcome["restarts"] == 1
    found = final_weights(outcome)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    for name in ("loss", "grad_norm", "reward_margin", "reward_accuracy", "validation"):
        assert column(resumed, name) == column(whole, name), name


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_on_two_workers_too(packed, tmp_path, two, objective):
    whole, resumed = (answer_job(packed, objective, output=str(tmp_path / name)) for name in ("whole", "resumed"))
    wanted = final_weights(two.run(fit_here, whole)[0])
    two.run(fit_until, resumed, 3)
    found = final_weights(two.run(fit_here, resumed)[0])
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("engine", ["ddp", "zero3"])
@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_workers_compute_it_together_each_row_for_itself(own, packed, tmp_path, two, objective, engine):
    """The numbers of one worker, of another artifact; and equal models begin with the loss of equal models."""
    fit_alone(answer_job(packed, objective, output=str(tmp_path / "alone")))
    job = answer_job(own, objective, output=str(tmp_path / "run"), engine=engine)
    two.run(fit_here, job)
    for split, table in tables(own, objective).items():
        whole = tables(packed, objective)[split]
        for name in table.column_names:
            for found, expected in zip(table[name].to_pylist(), whole[name].to_pylist(), strict=True):
                assert found == pytest.approx(expected, abs=1e-5)
    assert column(job, "reward_chosen")[0] == column(job, "reward_rejected")[0] == 0
    if objective == "dpo":
        assert column(job, "loss")[0] == pytest.approx(math.log(2), abs=6e-8)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_kill_between_two_parts_continues_with_the_next(own, packed, tmp_path, monkeypatch, objective):
    fit_alone(answer_job(packed, objective, output=str(tmp_path / "whole")))  # in one part
    monkeypatch.setattr(reference, "_PART_TOKENS", 3 * LENGTH)
    computed, killed_after, part = [], 2, reference._Computing._part

    def counted(self, first, end):
        if len(computed) == killed_after:
            raise Interrupted
        computed.append((first, end))
        return part(self, first, end)

    monkeypatch.setattr(reference._Computing, "_part", counted)
    job = answer_job(own, objective, output=str(tmp_path / "run"))
    with pytest.raises(Interrupted):
        fit_alone(job)
    assert not list(Path(own).rglob("reference/*/*/_manifest.json"))
    killed_after = 99
    fit_alone(job)
    rows = {split: len(table) for split, table in tables(own, objective).items()}
    starts = [*range(0, rows["train"], 3), *range(0, rows["validation"], 3)]
    assert [first for first, _ in computed] == starts
    for split, table in tables(own, objective).items():
        whole = tables(packed, objective)[split]
        assert table.num_rows == whole.num_rows
        for name in table.column_names:
            assert table[name].to_pylist() == whole[name].to_pylist()


def test_other_settings_of_the_loss_find_it_and_another_model_does_not(own, tmp_path, monkeypatch):
    runs = []
    run = reference._Computing.run
    monkeypatch.setattr(reference._Computing, "run", lambda self: (runs.append(self.uri), run(self))[1])
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "first")))
    assert len(runs) == 2  # train, validation
    other_loss = ("ipo", {"packed": f"{own}/packed-dpo"})
    for number, (name, more) in enumerate([("dpo", {"dpo": {"beta": 0.7}}), other_loss, ("dpo", {"steps": 4})]):
        job = answer_job(own, name, output=str(tmp_path / f"same-{number}"), **more)
        fit_alone(job)
        assert column(job, "reward_margin")[0] == 0
    assert len(runs) == 2
    job = answer_job(own, "dpo", output=str(tmp_path / "other"), seed=7)
    fit_alone(job)
    assert len(runs) == 4 and column(job, "reward_margin")[0] == 0
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "lora"), method="lora", lora={"rank": 2}))
    assert len(runs) == 6


def test_rows_that_are_packed_anew_do_not_find_it(own, tmp_path):
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "first")))
    before = set(Path(own).rglob("reference/*/*/_manifest.json"))
    for one in Path(own, "packed-dpo").iterdir():
        if one.name != "reference":
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    pack_answers(own, "dpo", 50)
    job = answer_job(own, "dpo", output=str(tmp_path / "second"))
    fit_alone(job)
    assert len(set(Path(own).rglob("reference/*/*/_manifest.json")) - before) == 2
    assert column(job, "reward_margin")[0] == 0


def write(folder: Path, table: pa.Table, with_manifest: bool = True) -> None:
    """Write a part in place of the first, with a manifest that names it."""
    part = folder / "part-000000.parquet"
    pq.write_table(table, part)
    if with_manifest:
        path = folder / "_manifest.json"
        manifest = json.loads(path.read_text())
        data = part.read_bytes()
        manifest["digest"] = ""  # computed
        manifest["files"][0] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": len(table)}
        path.write_text(json.dumps(manifest))


def with_first(table: pa.Table, name: str, values: list) -> pa.Table:
    lists = table[name].to_pylist()
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(name), pa.array([values, *lists[1:]], table.schema.field(name).type))


CHANGES = {
    "fewer numbers": (lambda t: with_first(t, "reference", t["reference"][0].as_py()[:-1]), "a number for each answer"),
    "no list": (lambda t: with_first(t, "reference", None), "a number for each answer in column reference"),
    "no number": (
        lambda t: with_first(t, "reference", [None] * len(t["reference"][0])),
        "does not have a number for each answer in column reference",
    ),
    "NaN": (lambda t: with_first(t, "reference", [float("nan")] * len(t["reference"][0])), "no log-probabilities"),
    "above 0": (lambda t: with_first(t, "reference", [3.0] * len(t["reference"][0])), "no log-probabilities"),
    "no loss of float32": (
        lambda t: with_first(t, "reference", [-1e38] * len(t["reference"][0])),
        "in column reference that are no log-probabilities",
    ),
    "infinite, of others' answers": (
        lambda t: with_first(t, "reference_mismatched", [-float("inf")] * len(t["reference"][0])),
        "in column reference_mismatched that are no log-probabilities",
    ),
    "fewer rows": (lambda t: t.slice(1), r"(is of other packed rows|has \d+ rows, and \d+ were written)"),
    "another type": (
        lambda t: t.set_column(0, "reference", t["reference"].cast(pa.list_(pa.float32()))),
        "has the type list<.*float> in column reference",
    ),
    "no column": (lambda t: t.drop_columns(["reference_mismatched"]), "has no column reference_mismatched"),
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "part"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_others_changed_is_refused(own, tmp_path, monkeypatch, change, finished):
    fit_alone(answer_job(own, "kto", output=str(tmp_path / "first")))
    folder = references(own, "kto")["train"]
    how, words = CHANGES[change]
    write(folder, how(pq.read_table(folder / "part-000000.parquet")))
    if not finished:
        (folder / "_manifest.json").unlink()
    monkeypatch.setattr(Training, "_step", None)
    with pytest.raises(DataError, match=words) as refused:
        fit_alone(answer_job(own, "kto", output=str(tmp_path / "second")))
    message = str(refused.value)
    assert message.startswith(str(folder if finished else folder / "part-000000.parquet")) and message.endswith(
        f"It was changed after it was written. Delete {folder} and make the same call again: it is computed again."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda part: part.write_bytes(part.read_bytes() + b"1"), r"has [\d,]+ bytes, and [\d,]+ were written"),
        (
            lambda part: part.write_bytes(bytes([part.read_bytes()[0]]) + bytes(len(part.read_bytes()) - 1)),
            "has another sha256 than what was written",
        ),
        (lambda part: part.unlink(), "is gone"),
    ],
    ids=["larger", "other bytes", "gone"],
)
def test_files_that_are_not_those_of_the_manifest_are_refused(own, tmp_path, change, words):
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "first")))
    folder = references(own, "dpo")["validation"]
    change(folder / "part-000000.parquet")
    job = answer_job(own, "dpo", output=str(tmp_path / "second"))
    with pytest.raises(DataError, match=rf"part-000000.parquet: {words}\. It was changed after it was written"):
        fit_alone(job)
    for file in folder.iterdir():
        file.unlink()
    fit_alone(job)
    assert column(job, "reward_margin")[0] == 0


def test_parts_that_are_no_parquet_or_too_large_are_refused(own, tmp_path):
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "first")))
    folder = references(own, "dpo")["train"]
    (folder / "_manifest.json").unlink()
    for content, words in (
        (b"", "cannot be read as Parquet"),
        (b"PAR1" * 9, "cannot be read as Parquet"),
        (b"1" * (1 << 20), "at most"),
    ):
        (folder / "part-000000.parquet").write_bytes(content)
        with pytest.raises(DataError, match=words):
            fit_alone(answer_job(own, "dpo", output=str(tmp_path / "second")))


def test_a_manifest_of_other_rows_is_refused(own, tmp_path):
    fit_alone(answer_job(own, "dpo", output=str(tmp_path / "first")))
    folder = references(own, "dpo")["train"]
    plain = json.loads((folder / "_manifest.json").read_text())
    (folder / "_manifest.json").write_text(json.dumps(plain | {"fingerprint": "0" * 64}))
    with pytest.raises(DataError, match="is of other packed rows"):
        fit_alone(answer_job(own, "dpo", output=str(tmp_path / "second")))
