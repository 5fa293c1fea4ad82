"""Packed files that are damaged or gone: found at every start, named, and packed again."""

import json
import os
from pathlib import Path

import pytest
import yaml

from raymill.cluster.plan.plan import plan as plan_verb
from raymill.cluster.store.store import Store
from raymill.training.commands import pack as pack_verb
from raymill.training.pack import job
from raymill.training.pack.packed_run import PackedRun
from tests.support.inline import InlineEngine
from tests.support.pack_runs import packed_by, settings_of, write_lines
from tests.support.train_inline import train_inline, write_corpus

TEXTS = [f"Document {n}: " + "the quick brown fox jumps over the lazy dog. " * (n % 5 + 1) for n in range(60)]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(job, "Engine", InlineEngine)


@pytest.fixture
def corpus(tmp_path) -> str:
    return write_lines(tmp_path / "texts.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])


def file_of(packed: PackedRun, folder: str) -> Path:
    (found,) = Path(packed.uri, folder).glob("*.parquet")
    return found


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


TRAIN, EXAMPLES = "corpus-0/train", "_work/examples/corpus-0"
DAMAGES = {
    "a truncated file": ((TRAIN, shorten),),
    "a file that is gone": ((TRAIN, Path.unlink),),
    "files of two splits": ((TRAIN, shorten), ("corpus-0/test", Path.unlink)),
    "a split without its manifest, another without its file": (
        (TRAIN, lambda path: next(path.parent.glob("*manifest.json")).unlink()),
        ("corpus-0/validation", Path.unlink),
    ),
    "what the rows are packed from, too": ((TRAIN, Path.unlink), (EXAMPLES, shorten)),
    "a tokenizer without its file": (("tokenizer", lambda path: path.unlink()),),
    "a tokenizer that is cut": (("tokenizer", shorten),),
}


def harm(packed: PackedRun, damage: str) -> None:
    for folder, how in DAMAGES[damage]:
        how(Path(packed.uri, folder, "tokenizer.json") if folder == "tokenizer" else file_of(packed, folder))


def whole(packed: PackedRun) -> bool:
    return not packed.damage(compare_sha256=True) and Path(packed.uri, "tokenizer", "tokenizer.json").is_file()


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_or_gone_is_named_and_packed_again_to_the_same_rows(corpus, tmp_path, damage, caplog):
    packed = packed_by(corpus, tmp_path / "run")
    tables = {split: artifact.table() for split, artifact in packed.corpora["corpus-0"].items()}
    kept = file_of(packed, "corpus-0/train").stat().st_mtime_ns if "tokenizer" in damage else None
    harm(packed, damage)
    again = packed_by(corpus, tmp_path / "run")
    assert again.fingerprint == packed.fingerprint and whole(again)
    assert {split: artifact.table() for split, artifact in again.corpora["corpus-0"].items()} == tables
    assert "packed again" in caplog.text
    assert kept is None or file_of(again, "corpus-0/train").stat().st_mtime_ns == kept, "the rows still apply"
    caplog.clear()
    packed_by(corpus, tmp_path / "run")
    assert not caplog.text


def test_a_changed_byte_is_found_with_verify_and_the_file_is_named(corpus, tmp_path, caplog):
    packed = packed_by(corpus, tmp_path / "run")
    path = file_of(packed, TRAIN)
    flip(path)
    assert not whole(packed_by(corpus, tmp_path / "run")), "its size is right"
    assert whole(packed_by(corpus, tmp_path / "run", verify=True))
    assert str(path) in caplog.text and "sha256" in caplog.text


def test_a_changed_byte_in_what_an_interrupted_packing_left_is_found_with_verify(corpus, tmp_path, caplog):
    packed = packed_by(corpus, tmp_path / "run")
    Path(packed.uri, "pack.json").unlink()
    flip(file_of(packed, TRAIN))
    assert whole(packed_by(corpus, tmp_path / "run", verify=True)) and "sha256" in caplog.text


def config_file(path: Path, corpus: str) -> str:
    plain = {"kind": "train", "name": "t", "steps": 2} | settings_of(corpus, path / "run")
    (path / "train.yaml").write_text(yaml.safe_dump(plain))
    return str(path / "train.yaml")


@pytest.mark.parametrize(("options", "fixed"), [({"replace": True}, True), ({"verify": True}, True), ({}, False)])
def test_pack_replaces_with_replace_and_reads_everything_with_verify(corpus, tmp_path, capsys, options, fixed):
    verb = config_file(tmp_path, corpus)
    pack_verb(verb)
    packed = PackedRun.load(Store(), str(tmp_path / "run" / "packed"))
    flip(file_of(packed, TRAIN))
    flip(file_of(packed, EXAMPLES))
    before = file_of(packed, "corpus-0/validation").name
    pack_verb(verb, **options)
    again = PackedRun.load(Store(), packed.uri)
    assert whole(again) is fixed and again.fingerprint == packed.fingerprint
    replaced = file_of(again, "corpus-0/validation").name != before
    assert replaced is options.get("replace", False), "--replace makes every file anew, --verify what is damaged"


def test_a_training_packs_again_what_is_gone_and_a_finished_one_does_not_look(tmp_path, monkeypatch, caplog):
    settings = {"corpus": write_corpus(tmp_path), "output": str(tmp_path / "run"), "steps": 1}
    packed = packed_by(settings["corpus"], tmp_path / "run", steps=1)
    file_of(packed, TRAIN).unlink()
    first = train_inline(settings, monkeypatch)
    assert first.fresh and whole(PackedRun.load(Store(), packed.uri)) and "packed again" in caplog.text
    file_of(packed, TRAIN).unlink()
    assert not train_inline(settings, monkeypatch).fresh
    assert not list(Path(packed.uri, TRAIN).glob("*.parquet")), "who needs them no more may remove them"


def test_plan_says_that_packed_files_are_damaged(corpus, tmp_path, capsys):
    verb = config_file(tmp_path, corpus)
    pack_verb(verb)
    shorten(file_of(PackedRun.load(Store(), str(tmp_path / "run" / "packed")), TRAIN))
    capsys.readouterr()
    plan_verb(verb, json_=True)
    told = json.loads(capsys.readouterr().out)["phases"][0]["data"]["how"]
    assert "1 packed file is damaged or gone" in told and "raymill pack" in told
    assert os.path.exists(tmp_path / "run" / "packed" / "pack.json"), "a plan changes nothing"
