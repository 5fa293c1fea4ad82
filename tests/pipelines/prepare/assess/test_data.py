"""`raymill assess` of a split, of a curated corpus, and of files that nothing has prepared."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.commands import configs_of
from raymill.pipelines.prepare.config import PrepareConfig
from tests.support.assessments import gate, metric
from tests.support.inline import curate_inline, prepare_inline
from tests.support.queues import rows, settings_of

NO_VECTORS = ("-o", "assess.embeddings=null")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(folder: Path) -> dict:
    return json.loads((folder / "assessment.json").read_text())


def test_a_split_is_assessed_into_a_folder_of_its_own(tmp_path, monkeypatch, assess):
    plain = settings_of(tmp_path, rows(60), embeddings=None) | {
        "split": {"train": 0.5, "validation": 0.25, "test": 0.25}
    }
    run = prepare_inline(plain, monkeypatch)
    before = snapshot(tmp_path / "out")
    train, there = run.split("train").manifest.rows, tmp_path / "there"
    code, out, error = assess(f"{run.uri}/train", "--output", str(there), "--gate", "-o", "gates.completeness=1")
    assert code == 0 and f"assessment  {there}/assessment.json" in out, error
    found = written(there)
    assert found["records"] == train < 60 and gate(found, "completeness")["state"] == "passed"
    assert found["findings"]["values"]["source"]["shown"] == {"desk": train}
    assert "test: train" in (there / "report.html").read_text() and snapshot(tmp_path / "out") == before
    code, out, _ = assess(
        f"{run.uri}/train", "--output", str(there), "-o", "gates.relevance=1", "-o", "assess.topics=[x]"
    )
    assert f"raymill assess {run.uri}/train --output {there} --config CONFIG" in out
    # All splits, elsewhere: the same as in the run.
    assert assess(run.uri, "--output", str(tmp_path / "all"))[0] == 0
    assert written(tmp_path / "all")["metrics"] == run.assessment["metrics"] and snapshot(tmp_path / "out") == before
    for refused in (run.uri, f"{run.uri}/train", f"{run.uri}/new"):
        code, _, error = assess(f"{run.uri}/train", "--output", refused)
        assert code == 2 and "--output: " in error and "of its own" in error
    other = prepare_inline(plain | {"output": str(tmp_path / "other")}, monkeypatch)
    code, _, error = assess(f"{run.uri}/train", "--output", other.uri)
    assert code == 2 and "holds a finished run" in error
    code, _, error = assess(f"{run.uri}/train")
    assert code == 2 and "add `--output FOLDER`, where the assessment is written" in error
    assert snapshot(tmp_path / "out") == before


def test_a_file_of_pairs_is_assessed_as_it_is(tmp_path, assess):
    """Records that the rules of `prepare` would change or remove stay, and count against the rules."""
    made = [{"id": one["id"], "prompt": one["q"], "completion": one["a"], "category": one["queue"]} for one in rows(30)]
    made[3]["completion"] = "No."
    made[7]["category"] = None
    made[9]["prompt"] = f"{made[8]['prompt']}  "
    made[11]["id"] = made[10]["id"]
    file = tmp_path / "in" / "tickets.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(one) + "\n" for one in made))
    before, there = snapshot(file.parent), tmp_path / "there"
    asked = ("-o", "assess.label=category", "-o", "validate.allowed.category=[billing,network]")
    code, out, error = assess(str(file), "--output", str(there), *asked)
    assert code == 0 and f"report      {there}/report.html" in out, error
    found = written(there)
    assert found["records"] == 30 and metric(found, "completeness") == 29 / 30
    assert found["findings"]["rules"] == {"not_allowed": 10 + 1 - 1, "answer_too_short": 1}
    assert found["findings"]["incomplete"]["ids"] == ["r007"] and "r003" in str(found["findings"]["violating"])
    assert found["findings"]["questions"]["exact"] == 1 and found["findings"]["values"]["category"]["shown"]["network"]
    assert metric(found, "label_quality") is not None
    texts = [one["completion"] for one in pq.read_table(there / "train").to_pylist()]
    assert sorted(texts) == sorted(one["completion"] for one in made), "nothing is changed or left out"
    assert snapshot(file.parent) == before
    # Again, with other settings: what was brought into form is found.
    code, out, _ = assess(str(file), "--output", str(there), "--gate", *NO_VECTORS, "-o", "gates.completeness=1")
    assert code == 2 and "r007" in out and "semantic_diversity" not in str(written(there)["metrics"])
    swapped = ("-o", "inputs.0.columns={prompt: completion, completion: prompt}")
    code, _, error = assess(str(file), "--output", str(there), *NO_VECTORS, *swapped)
    assert code == 2 and "add --replace" in error
    code, _, error = assess(str(file), "--output", str(file.parent), *NO_VECTORS)
    assert code == 2 and "output: " in error and "the run would write among" in error


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"text": "The router is in the cellar."}, "text"),
        ({"instruction": "Sum up.", "input": "A text of three lines.", "output": "Three lines."}, "instruction"),
        ({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}, "messages"),
        ({"prompt": "Why?", "chosen": "So it is.", "rejected": "No."}, "preference_messages"),
    ],
)
def test_a_folder_of_parquet_is_assessed_in_the_shape_of_its_columns(tmp_path, assess, row, shape):
    (tmp_path / "in").mkdir()
    for number in range(2):
        pq.write_table(pa.Table.from_pylist([row | {"domain": "abc"[number]}]), tmp_path / "in" / f"{number}.parquet")
    code, _, error = assess(str(tmp_path / "in"), "--output", str(tmp_path / "there"), *NO_VECTORS)
    assert code == 0, error
    found = written(tmp_path / "there")
    manifest = json.loads((tmp_path / "there" / "manifest.json").read_text())
    assert (found["records"], manifest["shape"]) == (2, shape) and metric(found, "domain_diversity") == 1


def test_a_curated_corpus_is_assessed(tmp_path, monkeypatch, assess):
    texts = [f"{one['q']} {one['a']} This is the text with number {n} of all." for n, one in enumerate(rows(20))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    entry = {"source": "web", "path": str(tmp_path / "in.jsonl")}
    curated = curate_inline(
        {"inputs": [entry], "language": None, "rules": None, "output": str(tmp_path / "c")}, monkeypatch
    )
    before = snapshot(tmp_path / "c")
    found = []
    for number, data in enumerate((curated.uri, f"{curated.uri}/corpus")):
        code, _, error = assess(data, "--output", str(tmp_path / str(number)), *NO_VECTORS)
        assert code == 0, error
        found.append(written(tmp_path / str(number)))
    assert found[0]["records"] == found[1]["records"] == len(pq.read_table(f"{curated.uri}/corpus")) > 10
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["findings"]["values"]["source"]["shown"] == {"web": found[0]["records"]}
    assert snapshot(tmp_path / "c") == before
    code, _, error = assess(curated.uri)
    assert code == 2 and "a run of kind curate; wanted the output of `raymill prepare`" in error and "--output" in error


def test_a_config_gives_its_settings_but_not_its_inputs(tmp_path, assess):
    made = [{"question": one["q"], "answer": one["a"], "queue": one["queue"]} for one in rows(12)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    config = settings_of(tmp_path, rows(3), embeddings=None, fields=["queue"]) | {
        "kind": "prepare", "name": "x", "gates": {"coverage": 0.5}, "clean": {"terminology": {"router": "gateway"}},
    }  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    (tmp_path / "p.yaml").write_text(json.dumps(config))
    code, _, error = assess(
        str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "there"), "--config", str(tmp_path / "p.yaml")
    )
    assert code == 0, error
    found = written(tmp_path / "there")
    assert found["records"] == 12 and metric(found, "balance_queue") == pytest.approx(1)
    assert found["findings"]["terms"]["records"] == sum(
        "router" in f"{one['question']} {one['answer']}" for one in made
    )
    assert gate(found, "coverage")["bound"] == 0.5


def test_the_columns_that_a_config_names_are_read_of_other_data(tmp_path):
    """Those of `assess` and `validate`, a column of predictions and the fields of outliers among them."""
    row = {"prompt": "Why?", "completion": "So it is.", "model": "{}", "desk": "a", "unnamed": "b"}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    plain = {"kind": "prepare", "inputs": [{"path": "a.csv"}], "output": str(tmp_path / "out")}
    plain |= {"assess": {"predictions": "model", "label": "queue"}, "validate": {"outliers": {"by": ["desk"]}}}
    settings = PrepareConfig.model_validate(plain)
    as_it_is, _ = configs_of(Store(), str(tmp_path / "data.jsonl"), str(tmp_path / "there"), settings, ())
    assert as_it_is.inputs[0].columns == {"model": "model", "desk": "desk"}


def test_what_has_no_records_is_refused(tmp_path, assess):
    def refused(data: Path, *words: str) -> str:
        code, _, error = assess(str(data), "--output", str(tmp_path / "there"), *words)
        assert code == 2 and not (tmp_path / "there" / "train").exists()
        return error

    assert "the folder does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "columns.jsonl").write_text('{"a": 1, "b": "x"}\n')
    assert "no column text (columns.text). It has: a, b. Name the columns" in refused(tmp_path / "columns.jsonl")
    (tmp_path / "data.bin").write_text("x")
    assert "no format has this ending" in refused(tmp_path / "data.bin")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\n')
    unknown = refused(tmp_path / "in.jsonl", "-o", "assess.label=queue")
    assert "assess.label: no input has a field or column queue" in unknown
    assert Store().list_files(str(tmp_path / "there")) == []
