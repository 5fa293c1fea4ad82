"""Cuts and classes of a corpus: any number of units find what one process finds, and the driver reads little."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.engine import Engine
from raymill.cluster.errors import ConfigError
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import run_unit
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus, Split
from raymill.training.pack import job
from raymill.training.pack import split as split_module
from raymill.training.pack.corpus import FrozenCorpus, freeze_corpus
from raymill.training.pack.packed_run import PackedRun
from raymill.training.pack.split import (
    Surveyed,
    find_classes,
    read_survey,
    survey_first_documents,
    survey_here,
    survey_name,
    survey_stage,
)
from tests.support.inline import InlineEngine
from tests.support.packed_examples import config as plain_config

COLUMNS = Columns(text="text", group="group", stratify="language", label="label")
SPLIT = Split(train=0.5, validation=0.3, test=0.2)


def frozen(folder: Path, rows: list[dict], units: int = 1, columns: Columns = COLUMNS) -> FrozenCorpus:
    path = folder / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return freeze_corpus(Store(), Corpus(path=str(path)), columns, -(-path.stat().st_size // units))


def rows(count: int, groups: int = 1 << 30) -> list[dict]:
    return [
        {"text": f"text {n}", "group": n % groups, "language": "en" if n % 3 else f"l{n % 7}", "label": n % 5}
        for n in range(count)
    ]


def by_units(root: Path, corpus: FrozenCorpus, classes: bool = True) -> Surveyed:
    stage = survey_stage("c", corpus, Store(), SPLIT, classes)
    return read_survey(InlineEngine(str(root), Session(), Progress()).run(stage)[survey_name("c")])


@pytest.mark.parametrize("units", [1, 3, 8, 30])
def test_units_find_what_reading_the_whole_corpus_finds(tmp_path, monkeypatch, units):
    monkeypatch.setattr(split_module, "_FILES_AT_ONCE", 3)
    corpus = frozen(tmp_path, rows(300), units)
    assert len(corpus.units) == units
    expected = survey_here(corpus, SPLIT, classes=True)
    assert len(expected.cuts.strata) == 8 and expected.classes == {"0", "1", "2", "3", "4"}
    assert by_units(tmp_path, corpus) == expected
    assert not list((tmp_path / "_work" / "survey").rglob("*.slices")), "only the cuts and classes stay"


def test_classes_are_in_the_order_of_their_numbers(tmp_path):
    """Of more digits than a number has: as texts. A text is no class."""
    names = ["10", "9", "-1", "b", "9" * 900, "9" * 5000]
    corpus = frozen(
        tmp_path,
        [{"text": f"text {at}", "label": name, "group": at, "language": "en"} for at, name in enumerate(names)],
        1,
    )
    surveyed = survey_here(corpus, SPLIT, classes=True)
    assert find_classes([corpus], [surveyed]) == ("-1", "9", "10", "9" * 900, "b")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1),
    st.integers(1, 9),
)
def test_any_groups_strata_and_classes_are_counted_alike(tmp_path_factory, made, units):
    """With so few ranked groups, a stratum has too many in one unit, in several together, or nowhere."""
    folder = tmp_path_factory.mktemp("s")
    plain = [{"text": f"t{n}", "group": g, "language": s, "label": c} for n, (g, s, c) in enumerate(made)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "MAX_RANKED", 6)
        patch.setattr(split_module, "_FILES_AT_ONCE", 2)
        corpus = frozen(folder, plain, units)
        assert by_units(folder, corpus) == survey_here(corpus, SPLIT, classes=True)


# --- what the driver reads


def read_by_driver(monkeypatch, corpus: FrozenCorpus, classes: bool) -> tuple[Surveyed | None, int]:
    read, documents_of = Counter(), split_module.documents_of

    def counted(*arguments):
        for one in documents_of(*arguments):
            read["documents"] += 1
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(split_module, "documents_of", counted)
        return survey_first_documents(corpus, SPLIT, classes, 100), read["documents"]


def test_the_driver_reads_a_bounded_number_of_documents(tmp_path, monkeypatch):
    assert split_module.LOOKED_AT == 16_384
    monkeypatch.setattr(split_module, "MAX_RANKED", 30)
    plain = Columns(text="text")
    few, many = rows(90), rows(1000)
    assert read_by_driver(monkeypatch, frozen(tmp_path, many, 5, plain), False) == (
        survey_here(frozen(tmp_path, many, 5, plain), SPLIT), 31
    ), "more than 30 groups: the shares decide"  # fmt: skip
    corpus = frozen(tmp_path, few, 5)
    assert read_by_driver(monkeypatch, corpus, True) == (survey_here(corpus, SPLIT, True), 90), "the whole corpus"
    for columns, classes in ((COLUMNS, False), (plain.model_copy(update={"label": "label"}), True)):
        assert read_by_driver(monkeypatch, frozen(tmp_path, many, 5, columns), classes) == (None, 101)
    grouped = Columns(text="text", group="group")
    assert read_by_driver(monkeypatch, frozen(tmp_path, rows(1000, groups=20), 5, grouped), False) == (None, 101)


def test_rows_that_are_no_documents_are_bounded_too(tmp_path, monkeypatch):
    corpus = frozen(tmp_path, [{"text": "good"}, *[{"text": 5}] * 1000], 8, Columns(text="text"))
    assert read_by_driver(monkeypatch, corpus, False) == (None, 1), "it stops after the first unit"
    assert by_units(tmp_path, corpus, False) == survey_here(corpus, SPLIT)


# --- errors


def test_too_many_classes_and_strata_are_refused_wherever_they_are_found(tmp_path, monkeypatch):
    for units in (1, 6):
        for limit, module, message in (
            ("_MAX_CLASSES", split_module, r"column label \(columns\.label\) has more than 4 values"),
            ("_MAX_STRATA", split_module, "columns.stratify: more than 4 different values"),
        ):
            corpus = frozen(tmp_path, rows(60), units)
            with monkeypatch.context() as patch, pytest.raises(ConfigError, match=message) as refused:
                patch.setattr(module, limit, 4)
                by_units(tmp_path / f"{units}{limit}", corpus)
            assert refused.value.is_final, "it is not tried again"


# --- in a run


class Killed(Exception): ...


SETTINGS = {
    "stratified": {"columns": {"text": "text", "stratify": "language"}},
    "probe": {
        "method": "probe",
        "columns": {"text": "text", "label": "label"},
        "packing": {"mode": "none", "overflow": "truncate"},
    },
}


def packed_by(corpus: str, output: Path, session: Session | None = None, **more) -> PackedRun:
    model = {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"}
    plain = {"corpus": corpus, "output": str(output), "sequence_length": 64, "tokens_per_step": 64, "model": model}
    return job.pack(plain_config(**plain | more), session or Session(), Progress())


@pytest.fixture
def corpus(tmp_path) -> str:
    return freeze_path(tmp_path / "corpus")


def freeze_path(folder: Path) -> str:
    folder.mkdir()
    for number in range(4):
        part = rows(400)[number * 100 : number * 100 + 100]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return str(folder)


@pytest.mark.parametrize("kind", SETTINGS)
def test_packing_is_the_same_with_a_survey_by_units_and_it_is_not_made_twice(corpus, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(job, "Engine", InlineEngine)
    expected = packed_by(corpus, tmp_path / "driver", **SETTINGS[kind])
    assert not (tmp_path / "driver" / "packed" / "_work" / "split").exists()
    monkeypatch.setattr(job, "survey_first_documents", lambda *_: None)
    ran: Counter[str] = Counter()

    def run(stage, *rest):
        ran[stage.name] += 1
        if stage.name == "pack-corpus-0" and ran[stage.name] == 1:
            raise Killed
        return run_unit(stage, *rest)

    monkeypatch.setattr("tests.support.inline.stages.run_unit", run)
    with pytest.raises(Killed):
        packed_by(corpus, tmp_path / "units", **SETTINGS[kind])
    assert ran["split-corpus-0"] == 1 and ran["split-corpus-0.survey"] == 1
    assert packed_by(corpus, tmp_path / "units", **SETTINGS[kind]).fingerprint == expected.fingerprint
    assert ran["split-corpus-0"] == 1, "what was found is read"


@pytest.mark.ray
@pytest.mark.slow
def test_over_ray_the_survey_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(split_module, "SMALL_BYTES", 0)
    corpus = frozen(tmp_path, rows(300), 6)
    with Session(cpus=3) as session:
        made = Engine(str(tmp_path), session, Progress()).run(survey_stage("c", corpus, Store(), SPLIT, True))
        assert session.started
    assert read_survey(made[survey_name("c")]) == survey_here(corpus, SPLIT, classes=True)
