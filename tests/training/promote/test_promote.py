"""An alias is moved with evidence, read, rolled back, and moved by two programs at once."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import raymill
from raymill.cluster import cli
from raymill.cluster.errors import BusyError, ConfigError, DataError, StorageError
from raymill.cluster.failpoints import VARIABLE
from raymill.cluster.frame.work import work_of
from raymill.cluster.garbage import find_garbage
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.training.promote.alias import Alias, model_digest
from tests.support.model_folders import folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYMILL_MODELS", raising=False)
    folder(tmp_path / "one")
    folder(tmp_path / "two", hidden_size=64)
    judged("judged", passed=True)


def judged(output: str, kind: str = "words", **report) -> None:
    """A finished run with this report."""
    Path(output).mkdir()
    Path(output, "report.json").write_text(json.dumps(report))
    RunFolder(Store(), str(Path(output).absolute())).put(kind, output, {}, "in", {"words": json.dumps(report)})


def compared(output: str, model: Path, **more) -> None:
    """A finished comparison, of which this is the first model, and folder `two` the other."""
    models = {letter: {"at": str(at), "revision": model_digest(Store(), str(at))}
              for letter, at in (("A", model), ("B", Path("two").absolute()))}  # fmt: skip
    judged(output, "compare", **{"passed": True, "models": models} | more)


def promote(model="one", output="p1", **more):
    return raymill.promote(model=model, alias="champion", output=output, progress=False, **more)


def test_a_model_is_promoted_once_with_its_evidence(tmp_path):
    run = promote(evidence="judged")
    assert run.fresh and str(run) == f"champion is {tmp_path}/one (version 1)"
    found = raymill.alias("models", "champion")
    digest = model_digest(Store(), str(tmp_path / "one"))
    assert (found["version"], found["model"], found["digest"]) == (1, str(tmp_path / "one"), digest)
    evidence = RunFolder(Store(), str(tmp_path / "judged")).finished("words")["digest"]
    assert found["evidence"] == {"run": str(tmp_path / "judged"), "digest": evidence, "passed": True}
    assert f"digest    {digest}" in str(found)
    assert not promote(evidence="judged").fresh and len(list(Path("models/aliases/champion").iterdir())) == 1
    assert promote(evidence="judged", output="p2").report["version"] == 1, "it names this model already"
    assert "champion" in Path("p1/report.html").read_text()
    assert not find_garbage(Store(), str(tmp_path / "p1"), 0).unknown


def test_a_comparison_is_evidence_for_its_first_model_alone(tmp_path):
    compared("cmp", tmp_path / "one")
    with pytest.raises(
        ConfigError, match=r"cmp compared .*/one \(fingerprint model-\w{18}\) with others, and .*/two .* is to be"
    ):
        promote("two", "p2", evidence="cmp")
    assert not Path("models").exists()
    assert promote(evidence="cmp").report["evidence"]["run"] == str(tmp_path / "cmp")
    shutil.copytree("one", "copy")
    with pytest.raises(ConfigError, match="Compare it as the first"):
        promote("copy", "p2", evidence="cmp")
    shutil.rmtree("one")
    folder(tmp_path / "one", hidden_size=48)
    with pytest.raises(ConfigError, match="Compare it as the first"):
        promote("one", "p2", evidence="cmp")


@pytest.mark.parametrize(
    "models",
    [None, [], {}, {"A": 5}, {"A": {}}, {"A": {"at": "/x", "revision": None}}, {"A": {"at": {}, "revision": []}}],
)
def test_a_comparison_with_other_values_is_evidence_for_no_model(tmp_path, models):
    compared("cmp", tmp_path / "one", models=models)
    with pytest.raises((ConfigError, DataError), match=r"not the report of this run|Compare it as the first"):
        promote(evidence="cmp")
    assert not Path("models").exists()


@pytest.mark.parametrize("kind", ["compare", "words"])
@pytest.mark.parametrize("passed", [None, False, "true", 1, 1.0, [True], {}, "gone"])
def test_a_run_that_did_not_pass_is_evidence_for_no_model(tmp_path, kind, passed):
    judged("run", kind, **({} if passed == "gone" else {"passed": passed}))
    with pytest.raises(
        ConfigError, match=r"has `passed: .*` in its report, so the model is not promoted; true is wanted"
    ):
        promote(evidence="run")
    assert not Path("models").exists()


def test_the_newest_holds_and_a_rollback_names_the_one_before(tmp_path, capsys):
    first = promote().report
    second = promote("two", "p2").report
    assert (second["version"], second["before"]) == (2, first["model"])
    assert promote().report["version"] == 1, "a promotion that is finished is not repeated"
    assert raymill.alias("models", "champion")["model"] == second["model"]
    with pytest.raises(SystemExit) as leaving:
        cli.main(["alias", "models", "champion", "--rollback"])
    out = capsys.readouterr().out
    assert leaving.value.code == 0 and out.startswith("alias     champion, version 3, back to version 1, moved ")
    found = raymill.alias("models", "champion")
    assert (found["promoted"], found["digest"]) == (1, first["digest"])
    with pytest.raises(DataError, match="no model was promoted before"):
        raymill.alias("models", "champion", rollback=True)
    assert promote("two", "p3").report["version"] == 4
    assert raymill.alias("models", "champion", rollback=True)["promoted"] == 1, "the model before"


def test_a_second_rollback_names_the_model_before_that_one(tmp_path):
    models = [tmp_path / name for name in ("one", "two", "three")]
    folder(models[2], hidden_size=48)
    for model in models:
        promote(model.name, f"of-{model.name}")
    found = [raymill.alias("models", "champion", rollback=True) for _ in range(2)]
    assert [(one["version"], one["promoted"], one["model"]) for one in found] == [
        (4, 2, str(models[1])), (5, 1, str(models[0])),
    ]  # fmt: skip


def test_the_same_model_with_other_evidence_is_a_new_version():
    promote()
    assert promote(output="p2", evidence="judged").report["version"] == 2


def test_a_changed_digest_or_another_folder_is_a_new_version(tmp_path):
    alias = Alias(Store(), str(tmp_path / "models"), "champion")
    moves = [("/m", "d"), ("/m", "d"), ("/m", "e"), ("/n", "e")]
    assert [alias.move(model, digest, None).version for model, digest in moves] == [1, 1, 2, 3]


def test_a_model_on_another_store_than_the_aliases_is_not_named(tmp_path):
    """A request with the user's keys would go where the record says."""
    promote()
    record = RECORDS / "00000001.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"model": "s3://others/model"}))
    alias = Alias(Store(), str(tmp_path / "models"), "champion")
    with pytest.raises(DataError, match="s3://others/model: is on another store than the aliases"):
        alias.check(alias.current())


def test_a_model_that_changed_is_not_named_again(tmp_path):
    promote()
    promote("two", "p2")
    shutil.rmtree("one")
    folder(tmp_path / "one", hidden_size=48)
    with pytest.raises(DataError, match="It was made again"):
        raymill.alias("models", "champion", rollback=True)
    assert raymill.alias("models", "champion")["version"] == 2


def test_what_cannot_be_promoted_is_refused_and_leaves_the_alias(capsys):
    promote()
    judged("failed", passed=False)
    Path("p.yaml").write_text("{kind: promote, model: two, alias: champion, evidence: failed, output: p2}")
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["promote", "p.yaml", *more])
        assert leaving.value.code == 2 and "has `passed: false`" in capsys.readouterr().err.replace("False", "false")
    for model, evidence, error in (("none", None, Exception), ("two", "nowhere", DataError), ("two", "one", DataError)):
        with pytest.raises(error):
            promote(model, "p3", evidence=evidence)
    with pytest.raises(ConfigError, match="alias"):
        raymill.promote(model="two", alias="../x", output="p4")
    assert raymill.alias("models", "champion")["version"] == 1
    with pytest.raises(ConfigError, match="there is no alias best here"):
        raymill.alias("models", "best")
    with pytest.raises(ConfigError, match=r"no alias chmpion here\. Did you mean champion\?"):
        raymill.alias("models", "chmpion")


def test_another_model_at_the_same_output_is_refused_or_replaces():
    promote()
    with pytest.raises(DataError, match="the model or the evidence was made again"):
        promote("two")
    assert promote("two", replace=True).report["version"] == 2


def test_programs_that_promote_at_once_each_have_a_version_of_their_own(tmp_path):
    alias = Alias(Store(), str(tmp_path / "models"), "champion")
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda number: alias.move(f"/m{number}", f"d{number}", None), range(8))]
    assert sorted(one.version for one in made) == [*range(1, 9)]
    assert alias.current() == max(made, key=lambda one: one.version)


def test_a_rollback_that_another_program_overtakes_changes_nothing(tmp_path, monkeypatch):
    promote()
    promote("two", "p2")
    alias = Alias(Store(), str(tmp_path / "models"), "champion")
    current = Alias.current

    def overtaken(self):
        found = current(self)
        if found.version == 2:
            record = Path(self.uri, "00000002.json").read_text()
            Path(self.uri, "00000003.json").write_text(record.replace('"version": 2', '"version": 3'))
        return found

    monkeypatch.setattr(Alias, "current", overtaken)
    with pytest.raises(BusyError, match="moved this alias meanwhile"):
        alias.rollback()


RECORDS = Path("models/aliases/champion")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 0}', b"[1]"])
def test_a_record_of_others_is_refused(tmp_path, content):
    promote()
    (RECORDS / "00000002.json").write_bytes(content)
    with pytest.raises(DataError, match="not the record of an alias"):
        raymill.alias("models", "champion")


@pytest.mark.parametrize(
    "changed",
    [{"version": 1}, {"version": 3}, {"version": 99_999_999}, {"version": 100_000_000}, {"version": True},
     {"promoted": 3}, {"promoted": 0}, {"digest": "x" * 5_000}, {"digest": "a\nb"}, {"digest": 5}, {"moved": "x" * 50},
     {"model": "relative"}, {"evidence": []}, {"evidence": {"run": "/x"}},
     {"evidence": {"run": "/x", "digest": "d", "passed": "yes"}},
     {"evidence": {"run": "x", "digest": "d", "passed": True}}],
)  # fmt: skip
def test_a_record_with_other_values_is_refused_by_every_verb(tmp_path, changed):
    """One whose `version` was lower than the number of its file made a promotion try for ever."""
    plain = json.loads(json.dumps(promote().report | {"version": 2, "promoted": 2}))
    plain = {name: plain[name] for name in ("version", "promoted", "model", "digest", "evidence", "moved")}
    (RECORDS / "00000002.json").write_text(json.dumps(plain))
    assert raymill.alias("models", "champion")["version"] == 2
    (RECORDS / "00000002.json").write_text(json.dumps(plain | changed))
    for call in (
        lambda: raymill.alias("models", "champion"),
        lambda: raymill.alias("models", "champion", rollback=True),
        lambda: promote("two", "p2"),
    ):
        with pytest.raises(DataError, match=r"00000002.json: not the record of an alias .*delete it"):
            call()
    assert sorted(path.name for path in RECORDS.iterdir()) == ["00000001.json", "00000002.json"]


def test_after_the_highest_number_nothing_is_promoted_and_the_record_is_named(tmp_path):
    """The next record had nine digits, and was not found."""
    first = promote().report
    plain = {name: first[name] for name in ("model", "digest", "evidence", "moved")}
    (RECORDS / "99999999.json").write_text(json.dumps({"version": 99_999_999, "promoted": 1, **plain}))
    assert raymill.alias("models", "champion")["version"] == 99_999_999
    with pytest.raises(DataError, match=r"99999999.json: has the highest number. Delete it"):
        promote("two", "p2")
    (RECORDS / "99999999.json").unlink()
    assert promote("two", "p2").report["version"] == 2


def test_other_files_beside_and_below_the_records_are_left_alone(tmp_path):
    promote()
    (RECORDS / "old").mkdir()
    for name in ("notes.txt", "00000009.json.bak", "000000009.json", "old/00000009.json"):
        (RECORDS / name).write_text("x")
    assert raymill.alias("models", "champion")["version"] == 1 and promote("two", "p2").report["version"] == 2


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.with_name("gone"))])
def test_something_else_in_the_place_of_the_next_record_ends_the_promotion(tmp_path, make):
    promote()
    make(RECORDS / "00000002.json")
    with pytest.raises(BusyError, match=r"00000002.json: cannot be created, and is no record"):
        promote("two", "p2")


@pytest.mark.parametrize("link", ["models/aliases", "models/aliases/champion"])
def test_a_link_in_place_of_the_folder_of_aliases_is_refused(tmp_path, link):
    Path("elsewhere").mkdir()
    Path(link).parent.mkdir(parents=True)
    Path(link).symlink_to(tmp_path / "elsewhere")
    for call in (promote, lambda: raymill.alias("models", "champion")):
        with pytest.raises(StorageError, match=r"aliases/champion: a link to "):
            call()
    assert not [*Path("elsewhere").iterdir()]


def test_a_link_in_place_of_a_record_is_refused_and_the_folder_of_models_may_be_one(tmp_path):
    Path("disk").mkdir()
    Path("models").symlink_to("disk")
    content = json.dumps({**{name: promote().report[name] for name in ("model", "digest", "evidence", "moved")},
                          "version": 2, "promoted": 2})  # fmt: skip
    assert Path("disk/aliases/champion/00000001.json").exists()
    Path("mine.json").write_text(content)
    (RECORDS / "00000002.json").symlink_to(tmp_path / "mine.json")
    with pytest.raises(StorageError, match=r"00000002.json: a link to "):
        raymill.alias("models", "champion")


def test_killed_anywhere_it_continues_with_one_version_and_an_equal_digest(tmp_path):
    wanted, passed = promote(evidence="judged").manifest["digest"], 0
    while True:
        shutil.rmtree("models", ignore_errors=True)
        shutil.rmtree("p1")
        passed += 1
        points = tmp_path / f"points-{passed}"
        points.mkdir()
        if (child := os.fork()) == 0:
            points.joinpath("plan").write_text(f"any@{passed} tests.support.disturbances:kill\n")
            os.environ[VARIABLE] = str(points)
            try:
                promote(evidence="judged")
            finally:
                os._exit(0)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        run = promote(evidence="judged")
        assert (run.manifest["digest"], run.report["version"]) == (wanted, 1)
        if not was_killed:
            break
    assert passed > 5


def test_the_alias_of_a_job_and_of_the_environment_are_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYMILL_MODELS", "shared")
    Path("p.yaml").write_text("{kind: promote, model: one, alias: champion, output: p1}")
    work = work_of("p.yaml", [], None, None)
    assert (work.config["folder"], work.config["model"]) == (str(tmp_path / "shared"), str(tmp_path / "one"))
    assert promote().report["folder"] == str(tmp_path / "shared") and work_of("p.yaml", [], None, None).finished
    assert "a few requests" in str(raymill.plan("p.yaml"))
