"""Data sets of the hub, and folders that `save_to_disk` wrote, as corpora and as evaluation sets."""

import json
import os
import posixpath
from collections import Counter
from functools import partial
from types import SimpleNamespace

import datasets
import pytest
from datasets import Dataset, DatasetDict

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.guard import WorkBounds
from raymill.cluster.readers.formats import hub as hub_reader
from raymill.cluster.readers.formats.hub import HubName, hub_files, hub_splits, pinned
from raymill.training.config import TrainConfig
from raymill.training.pack.corpus import freeze_corpora, freeze_sets, with_columns
from raymill.training.pack.documents import all_documents
from raymill.training.pack.split import Cuts, split_of
from tests.support.hub_server import hub_of_one
from tests.support.train_inline import PLAIN, train_inline

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def hub(tmp_path):
    with hub_of_one(str(tmp_path / "cache")) as found:
        yield found


def rows(word: str, count: int) -> list[dict]:
    return [{"text": f"The {word} number {number} is here. " * 3} for number in range(count)]


def config(path: str, **changes) -> TrainConfig:
    return with_columns(TrainConfig.model_validate(PLAIN | {"corpus": path, "output": "o"} | changes))


def split_counts(settings: TrainConfig) -> Counter:
    """Documents by the first word that tells them apart, and by split; all that no split is given go to train."""
    (frozen,) = freeze_corpora(settings, 1 << 20).values()
    cuts = Cuts((1 << 64, 1 << 64))
    return Counter((one.content.split()[1], SPLITS[split_of(one, cuts)]) for one in all_documents(frozen))


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("hf://acme/help", ("acme/help", None, None)),
        ("hf://datasets/acme/help", ("acme/help", None, None)),
        ("hf://acme/help/fr@v2", ("acme/help", "fr", "v2")),
        ("hf://squad", ("squad", None, None)),
    ],
)
def test_a_data_set_of_the_hub_is_written_as_curate_and_the_hub_write_it(uri, wanted):
    assert HubName.of(uri) == wanted


@pytest.mark.parametrize(
    ("place", "own", "is_checked"),
    [
        ("{private}/diary.jsonl", {}, True),
        ("{private}/*.jsonl", {"train": "*.jsonl"}, True),
        ("{private}/diary.jsonl", {"train": "*.jsonl"}, False),
        ("file://{private}/diary.jsonl", {}, False),
        ("{private}/*.jsonl", {}, False),
    ],
)
def test_files_outside_of_a_data_set_of_the_hub_that_its_card_names_are_not_read(
    hub, tmp_path, monkeypatch, place, own, is_checked
):
    private = tmp_path / "private"
    private.mkdir()
    (private / "diary.jsonl").write_text(json.dumps({"text": "private words"}) + "\n")
    files = own | {"diary" if own else "train": place.format(private=private)}
    named = [{"split": split, "path": path} for split, path in files.items()]
    commit = hub.publish(
        f"---\n{json.dumps({'configs': [{'config_name': 'default', 'data_files': named}]})}\n---\n",
        train=rows("boat", 2),
    )
    if not is_checked:  # as datasets before 5.2
        unchecked = vars(posixpath) | {"relpath": lambda *_, **how: "datasets/acme/help@"}
        monkeypatch.setattr("datasets.builder.posixpath", SimpleNamespace(**unchecked))
    said = "Data files don't belong to acme/help" if is_checked else "diary.jsonl, which is no file of acme/help"
    for read in (hub_splits, partial(hub_files, split="train")):
        with pytest.raises(DataError, match=said):
            read(f"hf://acme/help@{commit}")
    written = [path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(b"private words" in one for one in written)


@pytest.mark.parametrize("bound", ["time", "memory", "disk"])
def test_a_data_set_of_the_hub_that_goes_beyond_the_bounds_for_its_size_is_refused(hub, tmp_path, monkeypatch, bound):
    """The work is done in place of `datasets`, since the smallest inputs that need minutes or gigabytes are slow."""

    def work(builder, *more, **how):
        match bound:
            case "time":
                while True:
                    pass
            case "memory":
                bytearray(3 << 30)
            case "disk":
                (tmp_path / "large").write_bytes(b"")
                os.truncate(tmp_path / "large", 3 << 30)

    monkeypatch.setattr("datasets.DatasetBuilder.download_and_prepare", work)
    monkeypatch.setattr(hub_reader, "_CARD_BOUNDS", WorkBounds(2.0 if bound == "time" else 5.0, 1 << 30))
    commit = hub.publish(train=rows("boat", 2))
    said = r"File too large|\[Errno 27\]" if bound == "disk" else "goes beyond the bounds for its size"
    with pytest.raises(DataError, match=said):
        hub_files(f"hf://acme/help@{commit}", "train")


def test_a_data_set_of_the_hub_is_read_at_its_commit_by_its_splits(hub):
    commit = hub.publish(train=rows("boat", 5), test=rows("sea", 2))
    settings = config("hf://acme/help")
    assert settings.corpus[0].path == f"hf://acme/help@{commit}"
    assert split_counts(settings) == {("boat", "train"): 5, ("sea", "test"): 2}


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_trained_on_by_its_splits_at_the_commit_of_the_first_run(hub, tmp_path, monkeypatch):
    first = hub.publish(train=rows("boat", 40), validation=rows("port", 6), test=rows("sea", 6))
    settings = {"corpus": "hf://acme/help", "output": str(tmp_path / "run"), "steps": 2}
    run = train_inline(settings, monkeypatch)
    (corpus,) = run.report["fits"][0]["corpora"]
    assert corpus["path"] == f"hf://acme/help@{first}"
    assert {one["split"]: one["documents"] for one in corpus["splits"]} == {"train": 40, "validation": 6, "test": 6}
    card = (tmp_path / "run/export/full/README.md").read_text()
    assert "datasets:\n- acme/help\n" in card and first in card
    assert not train_inline(settings, monkeypatch).fresh
    second = hub.publish(train=rows("ship", 40), test=rows("sea", 6))
    with pytest.raises(DataError, match=f"corpus corpus-0 was hf://acme/help@{first}, now hf://acme/help@{second}"):
        train_inline(settings, monkeypatch)
    assert not train_inline(settings | {"corpus": f"hf://acme/help@{first}"}, monkeypatch).fresh


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {("boat", "train"): 5, ("sea", "test"): 2}),
        ({"split": {"train": 0.5, "validation": 0.5, "test": 0}}, {("boat", "train"): 5, ("sea", "test"): 2}),
        ({"corpus": [{"path": "PATH", "split": "test"}]}, {("sea", "train"): 2}),
        ({"corpus": [{"path": "PATH", "split": "other"}]}, {("cat", "train"): 3}),
    ],
)
def test_splits_of_a_saved_data_set_are_those_of_the_training_unless_one_is_named(tmp_path, changes, wanted):
    datasets.disable_progress_bars()
    parts = {"train": rows("boat", 5), "test": rows("sea", 2), "other": rows("cat", 3)}
    DatasetDict({name: Dataset.from_list(one) for name, one in parts.items()}).save_to_disk(tmp_path / "d")
    changes = json.loads(json.dumps(changes).replace("PATH", str(tmp_path / "d")))
    settings = config(**{"path": str(tmp_path / "d")} | changes)
    assert split_counts(settings) == wanted
    (frozen,) = freeze_corpora(settings, 1 << 20).values()
    assert ("its split other is not read" in frozen.note) is ("corpus" not in changes)


def test_evaluation_sets_are_the_test_split_or_the_one_that_is_named_or_the_only_one(tmp_path):
    datasets.disable_progress_bars()
    both = {"train": Dataset.from_list(rows("boat", 5)), "test": Dataset.from_list(rows("sea", 2))}
    DatasetDict(both).save_to_disk(tmp_path / "both")
    both["train"].save_to_disk(tmp_path / "one")
    sets = {
        "both": str(tmp_path / "both"),
        "named": {"path": str(tmp_path / "both"), "split": "train"},
        "one": str(tmp_path / "one"),
    }
    found = freeze_sets(config(str(tmp_path / "one"), evaluate={"sets": sets}), 1 << 20)
    counts = {name: len(list(all_documents(one))) for name, one in found.items()}
    assert counts == {"_evaluate-both": 2, "_evaluate-named": 5, "_evaluate-one": 5}
    with pytest.raises(DataError, match=r"both: no split dev. It has: train, test. Set `split`"):
        config(str(tmp_path / "one"), evaluate={"sets": {"a": {"path": str(tmp_path / "both"), "split": "dev"}}})


@pytest.mark.parametrize("saved", [Dataset.from_list([]), DatasetDict(train=Dataset.from_list([]))])
def test_a_saved_data_set_without_rows_is_refused(tmp_path, saved):
    datasets.disable_progress_bars()
    saved.save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="d: the data set has no rows"):
        config(str(tmp_path / "d"))


def test_columns_of_usual_names_of_a_saved_data_set_are_read(tmp_path):
    named = [{"id": f"d{n}", "group_id": n % 2, "split": ["train", "dev"][n % 2]} | row
             for n, row in enumerate(rows("boat", 4))]  # fmt: skip
    Dataset.from_list(named).save_to_disk(tmp_path / "d")
    (frozen,) = freeze_corpora(config(str(tmp_path / "d")), 1 << 20).values()
    found = list(all_documents(frozen))
    assert [one.id for one in found] == ["d0", "d1", "d2", "d3"]
    assert [SPLITS[one.split] for one in found] == ["train", "validation"] * 2
    assert len({one.key for one in found}) == 2, "documents of a group are in one split"


def test_a_split_of_a_corpus_that_is_no_data_set_of_datasets_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one"}))
    with pytest.raises(ConfigError, match=r"is no data set of `datasets`.*columns"):
        freeze_corpora(config([{"path": str(tmp_path / "a.jsonl"), "split": "test"}]), 1 << 20)


def test_a_hub_that_does_not_have_the_data_set_is_an_error_that_says_what_to_check(hub):
    assert pinned("hf://acme/none") == "hf://acme/none"
    with pytest.raises(DataError, match=r"hf://acme/none: .*Check the name, the network and HF_TOKEN"):
        config("hf://acme/none")


def test_a_link_that_leads_out_of_the_folder_is_refused_unless_it_is_allowed(tmp_path):
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    (folder / "sub" / "b.jsonl").symlink_to("../../b.jsonl")
    (folder / "sub" / ".c.jsonl").symlink_to("../../b.jsonl")
    (folder / "inside.jsonl").symlink_to("a.jsonl")
    for path in (str(folder), f"{folder}/**/*.jsonl"):
        with pytest.raises(DataError, match=r"sub/b\.jsonl: a link that leads out of the corpus's folder\. Copy"):
            freeze_corpora(config(path), 1 << 20)
        freeze_corpora(config({"path": path, "follow_links": True}), 1 << 20)
    freeze_corpora(config(str(folder / "sub" / "b.jsonl")), 1 << 20)


def test_a_damaged_arrow_file_is_refused(tmp_path):
    Dataset.from_list(rows("boat", 5)).save_to_disk(tmp_path / "d")
    (file,) = (tmp_path / "d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"arrow: Arrow stream that cannot be read after row 0 \(truncated\)\. Save"):
        freeze_corpora(config(str(tmp_path / "d")), 1 << 20)
