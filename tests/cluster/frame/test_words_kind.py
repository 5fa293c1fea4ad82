"""A kind of run that another package declares has all that the frame does, for 120 lines of its own."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import StageError, StorageError
from raymill.cluster.frame import kinds
from raymill.cluster.frame.work import work_of
from raymill.cluster.garbage import FINISHED, UNNAMED, find_garbage
from raymill.cluster.lease import held
from raymill.cluster.store.store import Store
from tests.support import inline, words_kind
from tests.support.words_commands import words_commands


@pytest.fixture
def raymill(tmp_path, monkeypatch, capsys):
    """Call the command line with one run over two files in w.yaml."""
    config = "{kind: words, name: pets, inputs: [{path: in}], output: run}"
    with words_commands(tmp_path, monkeypatch, capsys, config) as call:
        yield call


def test_its_verb_counts_and_a_second_run_does_nothing(raymill):
    assert "words" in raymill("--help")[1] and "Count the words" in raymill("words", "--help")[1]
    code, out, _ = raymill("words", "w.yaml")
    assert code == 0 and out.startswith("7 words\n") and re.search(r"^words +.*/run/words$", out, re.MULTILINE)
    table = Artifact.load(Store(), "run/words").table()
    assert dict(zip(*table.to_pydict().values(), strict=True))["the"] == 2
    assert json.loads(Path("run/report.json").read_text()) == {"words": 7}
    page = Path("run/report.html").read_text()
    assert "Report of words" in page and "pets" in page and ">7<" in page
    assert "finished before, nothing to do" in raymill("words", "w.yaml")[1]
    assert "run       pets (words), finished" in raymill("inspect", "run")[1]


def test_it_is_continued_refused_replaced_and_repaired(raymill):
    done = []

    class Engine(inline.InlineEngine):
        most = 1

        def _round(self, stage, missing, records, failures):
            done.extend(missing[: self.most])
            super()._round(stage, missing[: self.most], records, failures)

    class Whole(Engine):
        most = None

    each = ("-o", "execution.unit_bytes=1")  # a unit for each file
    assert raymill("words", "w.yaml", *each, "-o", "execution.attempts=1", engine=Engine)[0] == StageError.exit_code
    assert "unfinished (finished stages: none), to be continued" in raymill("words", "w.yaml", *each, "--dry-run")[1]
    assert raymill("words", "w.yaml", *each, engine=Whole)[0] == 0 and done == [0, 1]
    code, _, err = raymill("words", "w.yaml", *each, "-o", "lower=true")
    assert code == 2 and "lower was false, now true" in err and "--replace" in err
    assert raymill("words", "w.yaml", *each, "-o", "lower=true", "--replace")[1].startswith("7 words\n")
    manifest = json.loads(Path("run/manifest.json").read_bytes())
    file = next(Path("run/words").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    again = ("words", "w.yaml", *each, "-o", "lower=true")
    assert "a finished run with 1 damaged file" in raymill(*again, "--dry-run")[1]
    assert "Damaged files are made again" in raymill(*again)[2]
    assert json.loads(Path("run/manifest.json").read_bytes())["digest"] == manifest["digest"]
    file = next(Path("run/words").glob("*.parquet"))
    content, kept = file.read_bytes(), {*Path("run/words").glob("*.parquet")} - {file}
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "finished before" in raymill(*again)[1], "sizes alone do not show it"
    assert "Damaged files are made again" in raymill(*again, "--verify")[2]
    (made,) = set(Path("run/words").glob("*.parquet")) - kept
    assert made.read_bytes() == content, "it is made again, and the other one stays"
    assert "finished before" in raymill(*again, "--verify")[1]


def test_a_file_that_another_process_made_again_meanwhile_stays(raymill, monkeypatch):
    raymill("words", "w.yaml")
    file = next(Path("run/words").glob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    @contextmanager
    def held_after_the_other(store, root):
        file.write_bytes(content)
        with held(store, root) as lease:
            yield lease

    monkeypatch.setattr("raymill.cluster.frame.job.held", held_after_the_other)
    assert "finished before" in raymill("words", "w.yaml", "--verify")[1] and file.read_bytes() == content


def test_an_unfinished_run_of_other_settings_is_refused_with_what_differs(raymill, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(words_kind.WordsJob, "page", lambda self, made: 1 / 0)
        assert raymill("words", "w.yaml")[0] == 1
    code, _, err = raymill("words", "w.yaml", "-o", "lower=true")
    assert code == 2 and "holds an unfinished run with other settings or inputs: lower was false, now true" in err
    assert raymill("words", "w.yaml")[0] == 0


def test_an_input_that_is_gone_is_named_and_is_no_change_of_the_inputs(raymill):
    raymill("words", "w.yaml")
    shutil.rmtree("in")
    code, _, err = raymill("words", "w.yaml")
    assert code == 2 and "in" in err and "--replace" not in err


def test_after_is_called_once_for_a_run_and_the_exit_code_equals_the_one_of_the_kind(raymill, monkeypatch):
    calls = []
    monkeypatch.setattr(words_kind.WordsJob, "after", lambda self: calls.append(self.root))
    monkeypatch.setattr(words_kind.WordsRun, "exit_code", 7)
    assert [raymill("words", "w.yaml")[0] for _ in range(2)] == [7, 7] and len(calls) == 1


def test_a_store_without_conditional_writes_is_refused_before_anything_is_made(raymill, monkeypatch):
    def refuse(store, root):
        raise StorageError(f"{root}: no conditional writes")

    monkeypatch.setattr(Store, "require_conditional_writes", refuse)
    assert raymill("words", "w.yaml")[0] == 2 and not Path("run").exists()


def test_it_is_planned_and_shown_before_it_runs(raymill):
    code, out, _ = raymill("words", "w.yaml", "--dry-run")
    assert code == 0 and "inputs   2 files, 1 unit" in out and "run: to be made" in out and not Path("run").exists()
    code, out, _ = raymill("plan", "w.yaml", "--json", "--documents", "2000", "--cores", "4")
    plan = json.loads(out)
    assert code == 0 and [stage["name"] for stage in plan["stages"]] == ["count"]
    assert plan["input"]["documents"] == 2000 and plan["on_cores"][0]["cores"] == 4 and not Path("run").exists()
    assert "plan of pets" in raymill("plan", "w.yaml")[1]


def test_it_is_submitted_and_its_leftovers_are_found(raymill, tmp_path):
    work = work_of("w.yaml", [], None, None)
    assert (work.verb, work.finished, work.workers[0].cpus) == ("words", False, 2)
    assert work.config["output"] == str(tmp_path / "run") and work.run_id.startswith("pets-")
    raymill("words", "w.yaml")
    after = work_of("w.yaml", [], None, None)
    assert after.finished and after.run_id == work.run_id
    assert json.loads(raymill("config", "schema")[1])["discriminator"]["mapping"]["words"]
    Path("run/words/000007-000-0123456789ab.parquet").write_bytes(b"")
    garbage = find_garbage(Store(), str(tmp_path / "run"), 0)
    assert [one.why for one in garbage.old] == [FINISHED, UNNAMED] and not garbage.unknown


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("no_such_module:WORDS", "cannot be loaded (No module named 'no_such_module')"),
        ("zlib:GONE", "cannot be loaded (module 'zlib' has no attribute 'GONE')"),
        ("tests.support.words_kind:GIB", "is no kind of this name, but int"),
    ],
)
def test_a_package_that_is_broken_is_named_and_leaves_the_other_kinds_alone(raymill, tmp_path, caplog, value, seen):
    (tmp_path / "site/words-1.dist-info/entry_points.txt").write_text(f"[{kinds.GROUP}]\nwords = {value}\n")
    code, out, _ = raymill("--help")
    said = f"kind words: {value} {seen}. Install a whole version of the package words, or remove it."
    assert code == 0 and "curate" in out and said in caplog.text
    assert raymill("words", "w.yaml")[::2] == (2, f"{said}\n")
    assert raymill("config", "check", "w.yaml")[::2] == (2, f"{said}\n")
    assert raymill("gc", "nowhere")[0] == 2 and "no such file" in raymill("curate", "nowhere.yaml")[2]


def test_it_is_short():
    assert len(Path(words_kind.__file__).read_text().splitlines()) < 150
