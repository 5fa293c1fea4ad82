"""Where a training may write: never among what it reads."""

import json

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.commands import verb_of
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training.config import TrainConfig
from raymill.training.job import train
from raymill.training.output_folder import refuse_output_among_inputs
from raymill.training.pack.job import located_config, pack
from tests.support.train_inline import PLAIN


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A corpus at data, a model's folder at base, a tokenizer's at words, and links to data and to the folder above."""
    for folder in ("data/deep", "base", "words"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "a.jsonl").write_text(json.dumps({"text": "A text."}) + "\n")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "above").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(**changes) -> TrainConfig:
    return TrainConfig.model_validate(PLAIN | {"corpus": "data", "output": "runs/out"} | changes)


NAMED = {"name": "base", "tokenizer": "words"}


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"output": "data"}, r"output: \S+/data is the folder of the corpus corpus-0 \("),
        ({"output": "data/sub"}, r"output: \S+/data/sub lies inside the corpus corpus-0 \("),
        ({"output": "link/sub"}, "output: .* lies inside the corpus"),
        ({"output": "above/data/sub"}, "output: .* lies inside the corpus"),
        ({"output": "data/sub", "corpus": "data/**/*.jsonl"}, "output: .* lies inside the corpus"),
        ({"output": "data/sub", "corpus": "data/*/*.jsonl"}, "output: .* lies inside the corpus"),
        ({"output": "data/sub", "corpus": "link"}, "output: .* lies inside the corpus"),
        ({"output": "."}, "output: .* contains the corpus"),
        ({"packed": "data/rows"}, "packed: .* lies inside the corpus"),
        ({"output": "base", "model": "base"}, r"output: \S+/base is the folder of the model \("),
        ({"output": "base/tuned", "model": NAMED}, r"output: \S+/base/tuned lies inside the model \("),
        ({"output": "words/x", "model": NAMED}, "output: .* lies inside the tokenizer"),
        ({"corpus": "s3://b/data", "output": "s3://b/data/run"}, "output: .* lies inside the corpus"),
        ({"corpus": "s3://b/data/", "output": "s3://b/data"}, "output: .* is the folder of the corpus"),
        ({"model": "s3://b/base", "output": "s3://b/base/run"}, "output: .* lies inside the model"),
        ({"phases": [{"name": "a"}, {"name": "b", "corpus": "runs/out/b/x"}]}, "output: .* contains the corpus"),
    ],
)
def test_an_output_among_the_inputs_is_refused_with_both_places(here, changes, seen):
    with pytest.raises(ConfigError, match=seen):
        refuse_output_among_inputs(config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output": "data-trained"},
        {"output": "data/sub", "corpus": "data/*.jsonl"},
        {"output": "data/sub", "corpus": "data/a.jsonl"},
        {"output": "based", "model": "base"},
        {"corpus": "s3://b/data", "output": "s3://b/data-run"},
        {"corpus": "s3://b/data", "output": "data"},
        {"model": "some/hub-model", "output": "some/hub-model"},
        {"phases": [{"name": "a"}, {"name": "b"}]},
    ],
)
def test_an_output_apart_from_the_inputs_is_accepted(here, changes):
    refuse_output_among_inputs(config(**changes))


def test_training_packing_and_the_dry_run_refuse_before_anything_is_written(here):
    settings = config(output="data/sub")
    (here / "c.yaml").write_text(settings.model_dump_json(exclude_unset=True))
    for refuse in (
        lambda: train(settings, Session(address="nowhere:1"), Progress()),
        lambda: pack(settings, Session(address="nowhere:1"), Progress()),
        lambda: verb_of(kind_of("train"))("c.yaml", dry_run=True),
    ):
        with pytest.raises(ConfigError, match="lies inside the corpus"):
            refuse()
    assert not (here / "data" / "sub").exists()


def test_a_jobs_paths_are_absolute_since_its_workers_have_another_working_folder(here):
    found = located_config(config(corpus=["data", "base"], packed="packed", model=NAMED))
    assert [one.path for one in found.corpus] == [f"{here}/data", f"{here}/base"]
    assert (found.output, found.packed) == (f"{here}/runs/out", f"{here}/packed")
    assert (found.model.name, found.model.tokenizer) == (f"{here}/base", f"{here}/words")
