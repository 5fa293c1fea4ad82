"""Rules of the user: from a config, from Python, by an entry point; their errors, and what becomes of them in a run."""

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ray import cloudpickle

import raymill
from raymill.cluster import plugins
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load, load_values
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.frame.calls import config_of
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import job_config
from raymill.pipelines.curate import job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.what_if import compare_decisions
from raymill.pipelines.prepare import job as prepare_job
from raymill.pipelines.ray_data.operators import Rules
from raymill.pipelines.rules import Check
from raymill.pipelines.rules.rule import Analysis
from tests.support.inline import without_ray

TEXTS = {"calm": "A quiet text about rain.", "loud": "A LOUD TEXT ABOUT RAIN!", "half": "A HALF loud text HERE."}

SHOUTING = """
    from dataclasses import dataclass
    from typing import Annotated, ClassVar

    import numpy as np
    import pyarrow.compute as pc
    from pydantic import Field

    from raymill.pipelines.rules import Check

    @dataclass(frozen=True, kw_only=True)
    class Shouting:
        max_upper_fraction: Annotated[float, Field(ge=0, le=1)] = 0.6
        letters: str = r"\\p{Lu}"

        reasons: ClassVar = ("too_many_capitals",)
        signals: ClassVar = {"upper_fraction": "upper-case letters / characters"}
        measured_by: ClassVar = ("letters",)

        def measure(self, analysis):
            texts = analysis.texts.to_arrow()
            capitals = pc.count_substring_regex(texts, self.letters).to_numpy()
            return {"upper_fraction": capitals / np.maximum(pc.utf8_length(texts).to_numpy(), 1)}

        def checks(self, dialect):
            return (Check("too_many_capitals", "upper_fraction", maximum=self.max_upper_fraction),)

    def no_rain(text: str, *, word: str = "rain") -> bool:
        return word not in text

    class Quiet:
        def __init__(self, marks: str = "!") -> None:
            self.marks = marks

        def keep(self, text: str) -> bool:
            return not any(mark in text for mark in self.marks)
"""


class Folder:
    """A folder with a config, an input and the user's module `my_rules`."""

    def __init__(self, path: Path, monkeypatch) -> None:
        self.path, self.monkeypatch = path, monkeypatch
        path.mkdir(exist_ok=True)
        lines = [json.dumps({"id": id, "text": text}) for id, text in TEXTS.items()]
        (path / "in.jsonl").write_text("\n".join(lines))
        self.module(SHOUTING)

    def module(self, source: str, name: str = "my_rules.py") -> None:
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(textwrap.dedent(source))

    def values(self, custom: list, **settings) -> dict:
        return {
            "kind": "curate",
            "name": "own",
            "inputs": [{"path": str(self.path / "in.jsonl"), "id": "id"}],
            "output": str(self.path / "run"),
            "language": None,
            "dedup": None,
            "rules": {"packs": [], "custom": custom},
            **settings,
        }

    def config(self, custom: list, overrides: tuple[str, ...] = (), **settings) -> CurateConfig:
        file = self.path / "curate.json"
        file.write_text(json.dumps(self.values(custom, **settings)))
        return load(str(file), overrides)

    def run(self, config: CurateConfig, **options) -> job.CurateRun:
        with self.monkeypatch.context() as patch:
            without_ray(patch)
            return job.curate(config, Session(), Progress(), **options)

    def removed(self) -> dict[str, str]:
        """id -> rule and reason of every removed document."""
        return {row["id"]: f"{row['stage']}: {row['reason']}" for row in self.rows("removed")}

    def rows(self, artifact: str) -> list[dict]:
        return Artifact.load(Store(), str(self.path / "run" / artifact)).table().to_pylist()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    yield Folder(tmp_path / "own", monkeypatch)
    sys.modules.pop("my_rules", None)


def test_a_class_beside_the_config_removes_documents_with_its_reason_signal_and_threshold(folder):
    folder.run(folder.config(["my_rules:Shouting"]))
    (row,) = folder.rows("removed")
    assert (row["id"], row["stage"], row["reason"], row["threshold"]) == ("loud", "shouting", "too_many_capitals", 0.6)
    assert row["value"] == pytest.approx(18 / 23)
    assert {row["id"]: round(row["upper_fraction"], 2) for row in folder.rows("attributes")} == {
        "calm": 0.04,
        "loud": 0.78,
        "half": 0.41,
    }


def test_its_settings_stand_beside_its_name(folder):
    folder.run(folder.config([{"use": "my_rules:Shouting", "max_upper_fraction": 0.2}]))
    assert folder.removed() == {"loud": "shouting: too_many_capitals", "half": "shouting: too_many_capitals"}


def test_a_function_on_one_text_is_a_rule(folder):
    folder.run(folder.config(["my_rules:no_rain"]))
    assert folder.removed() == {"calm": "no_rain: no_rain"}
    assert {row["id"]: row["no_rain_score"] for row in folder.rows("attributes")} == {"calm": 0, "loud": 1, "half": 1}


def test_a_class_on_one_text_is_a_rule_with_the_settings_of_its_constructor(folder):
    folder.run(folder.config([{"use": "my_rules:Quiet", "marks": "!."}]))
    assert folder.removed() == dict.fromkeys(TEXTS, "quiet: quiet")


def test_several_rules_apply_in_their_order(folder):
    folder.run(folder.config(["my_rules:Quiet", "my_rules:Shouting"]))
    assert folder.removed() == {"loud": "quiet: quiet"}


@dataclass(frozen=True)
class Short:
    """A rule in Python."""

    max_characters: int = 22

    reasons: ClassVar = ("too_long",)
    signals: ClassVar = {"length": "characters"}

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        return {"length": pc.utf8_length(analysis.texts.to_arrow()).to_numpy()}

    def checks(self, dialect: str) -> tuple[Check, ...]:
        return (Check("too_long", "length", maximum=self.max_characters),)


def test_in_python_the_class_itself_is_given(folder):
    folder.run(load_values(folder.values([{"use": Short, "max_characters": 23}]), "curate"))
    assert folder.removed() == {"calm": "short: too_long"}
    report = json.loads((folder.path / "run" / "report.json").read_text())
    assert report["run"]["config"]["rules"]["custom"][0]["use"] == f"{__name__}:Short"


def test_a_function_defined_in_a_function_is_given_itself(folder):
    def keep(text: str) -> bool:
        return "loud" not in text

    folder.run(CurateConfig.model_validate(folder.values([keep])))
    assert set(folder.removed()) == {"half"}


def test_a_config_object_with_a_function_takes_changes_of_settings(folder):
    def keep(text: str, *, word: str = "loud") -> bool:
        return word not in text

    config = config_of(folder.values([keep]))
    changed = config_of(config, override={"rules.custom.0.word": "rain", "name": "changed"})
    assert [rule.settings["word"] for rule in (*config.filters.rules, *changed.filters.rules)] == ["loud", "rain"]


def test_an_installed_package_registers_a_name(folder, monkeypatch):
    packages = folder.path.parent / "packages"
    info = packages / "acme_rules-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "acme_rules-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme-rules\nVersion: 1.0"
    )
    (packages / "acme_rules-1.0.dist-info" / "entry_points.txt").write_text(
        "[raymill.rules]\nshouting = acme_rules:Shouting"
    )
    (packages / "acme_rules.py").write_text(textwrap.dedent(SHOUTING))
    monkeypatch.syspath_prepend(str(packages))
    folder.run(folder.config([{"use": "shouting", "max_upper_fraction": 0.5}]))
    assert folder.removed() == {"loud": "shouting: too_many_capitals"}
    with pytest.raises(ConfigError, match=r"'shoutin' given; .*register shouting\. Did you mean"):
        folder.config(["shoutin"])


# --- the report, what-if, explain


def test_what_if_changes_a_bound_without_measuring_again(folder):
    before = folder.config(["my_rules:Shouting"])
    folder.run(before)
    after = folder.config(["my_rules:Shouting"], ("rules.custom.0.max_upper_fraction=0.2",))
    total = compare_decisions(before, after)["total"]
    assert (total["before"]["documents"], total["after"]["documents"]) == (2, 1)


def test_what_if_refuses_a_rule_that_would_be_measured_in_another_way(folder):
    before = folder.config(["my_rules:Shouting"])
    folder.run(before)
    after = folder.config(["my_rules:Shouting"], ("rules.custom.0.letters=A",))
    with pytest.raises(DataError, match=r"shouting\.letters would be measured in another way"):
        compare_decisions(before, after)


def test_what_if_refuses_a_rule_whose_code_changed_since_the_run(folder):
    folder.run(folder.config(["my_rules:Shouting"]))
    folder.module(SHOUTING.replace("capitals =", "found = capitals ="))
    changed = folder.config(["my_rules:Shouting"])
    with pytest.raises(DataError, match="my_rules:Shouting has other code than in the run"):
        compare_decisions(changed, changed)


def test_explain_names_the_rule_the_value_and_the_bound_without_importing_the_code_of_the_record(folder):
    folder.run(folder.config(["my_rules:Shouting"]))
    folder.module("raise SystemExit('imported')")
    del sys.modules["my_rules"]
    text = explain(RunReader(Store(), str(folder.path / "run")), "loud")
    assert "removed by shouting: too_many_capitals" in text
    assert "0.7826 is over the most that may stay, 0.6" in text
    assert "my_rules" not in sys.modules


def test_the_report_has_its_histogram_and_its_reason(folder):
    folder.run(folder.config(["my_rules:Shouting", "my_rules:no_rain"]))
    report = json.loads((folder.path / "run" / "report.json").read_text())
    histograms = {one["signal"]: one for one in report["histograms"]}
    assert histograms["upper_fraction"]["description"] == "upper-case letters / characters"
    assert sum(histograms["upper_fraction"]["documents"]) == sum(histograms["no_rain_score"]["documents"]) == 3
    assert "too_many_capitals" in (folder.path / "run" / "report.html").read_text()


# --- fingerprint


def test_the_same_code_is_not_run_again_and_changed_code_is_another_setting(folder):
    folder.run(folder.config(["my_rules:Shouting"]))
    first = folder.rows("removed")
    folder.run(folder.config(["my_rules:Shouting"]))
    folder.module(SHOUTING.replace("\\p{Lu}", "[a-z]"))
    changed = folder.config(["my_rules:Shouting"])
    with pytest.raises(DataError, match=r"rules\.custom\.0\.code was .*, now "):
        folder.run(changed)
    folder.run(changed, replace=True)
    assert {row["id"] for row in folder.rows("removed")} == {"calm"} != {row["id"] for row in first}


def test_the_fingerprint_covers_modules_that_it_imports_beside_it_and_no_others(folder):
    folder.module("", "own/__init__.py")
    folder.module("LIMIT = 3", "own/limits.py")
    folder.module(
        "from . import limits\nimport helper\n\ndef keep(text: str) -> bool:\n    return True", "own/rules.py"
    )
    folder.module("", "helper.py")
    folder.module("", "other.py")

    def code() -> str:
        return folder.config(["own.rules:keep"]).rules.custom[0].code

    first = code()
    folder.module("changed = 1", "other.py")
    assert code() == first
    folder.module("LIMIT = 4", "own/limits.py")
    second = code()
    folder.module("changed = 1", "helper.py")
    assert len({first, second, code()}) == 3


def test_the_fingerprint_of_a_function_in_a_notebook_covers_what_it_names_there(folder):
    def code(limit: int, unused: int) -> str:
        def keep(text: str) -> bool:
            return len(text) < limit

        return load_values(folder.values([keep]), "curate").rules.custom[0].code

    assert code(3, 1) == code(3, 2) != code(4, 1)


def test_without_rules_of_the_user_the_recorded_settings_are_those_of_earlier_versions(folder):
    assert "custom" not in json.loads(folder.config([]).model_dump_json())["rules"]


# --- mistakes in the config


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("my_rules:Shoutin", r"my_rules\.py has no Shoutin\. Did you mean Shouting\?$"),
        ("my_rulez:Shouting", r"there is no module my_rulez, neither beside the config nor"),
        ("my_rules.Shouting", r"'my_rules\.Shouting' given; wanted `module:attribute`, as in"),
        ("my_rules:np", r"my_rules:np: is module; wanted a function of \(text\), or a class with the method keep or"),
        ("json:JSONDecodeError", r"is a class without keep or measure"),
        ("json:loads", r"kw without a fixed name"),
        (
            {"use": "my_rules:Shouting", "max_uper": 1},
            r"max_uper: no such setting\. Did you mean max_upper_fraction\? my_rules:Sh",
        ),
        ({"use": "my_rules:Shouting", "max_upper_fraction": 2}, r"max_upper_fraction: 2 given; wanted less than or"),
        ({"use": "my_rules:no_rain", "word": 3}, r"word: 3 given; wanted a valid string"),
        ({"max_upper_fraction": 0.2}, r"\.use: missing"),
        (3, r"rules\.custom\.0"),
    ],
)
def test_a_mistake_names_the_place_what_was_seen_and_what_is_wanted(folder, use, message):
    with pytest.raises(ConfigError, match=rf"curate\.json, rules\.custom\.0.*{message}" if use != 3 else message):
        folder.config([use])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", r"importing my_rules raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", r"importing my_rules raised SystemExit: 3"),
        ("def Shouting(: pass", r"importing my_rules raised SyntaxError"),
        ("def Shouting(): return True", r"takes \(\); wanted a function of \(text\)"),
        ("def Shouting(text, limit): return True", r"limit has no default"),
        ("Shouting = lambda text: True", r"is a lambda"),
        ("class Shouting:\n    def keep(self): return True", r"cannot be called with one text"),
        ("class Shouting:\n    def __init__(self): 1 / 0\n    def keep(self, text): 1", r"raised ZeroDivisionError"),
        ("class Shouting:\n    def measure(self, analysis): 1", r"signals is None; wanted a dictionary"),
        (
            "class Shouting:\n    signals = {'a': 'b'}\n    reasons = ('c',)\n    def measure(self, analysis): 1",
            r"without checks\(dialect\)",
        ),
        (SHOUTING.replace('("too_many_capitals",)', '("Too many",)'), r"wanted all reasons of removal"),
        (SHOUTING.replace('Check("too_many_capitals"', 'Check("shouts"'), r"names a signal, reason or bound"),
        (SHOUTING.replace('"upper_fraction"', '"language_score"'), r"language_score is measured already"),
    ],
)  # fmt: skip
def test_a_module_that_is_no_rule_is_refused_before_anything_runs(folder, source, message):
    folder.module(source)
    with pytest.raises(ConfigError, match=message):
        folder.config(["my_rules:Shouting"])


def test_two_rules_of_one_name_are_refused(folder):
    with pytest.raises(ConfigError, match="two rules have the name shouting"):
        folder.config(["my_rules:Shouting", {"use": "my_rules:Shouting", "max_upper_fraction": 0.2}])


def test_the_code_that_a_record_names_is_never_imported(folder):
    folder.module("raise SystemExit('imported')")
    config = CurateConfig.model_validate(folder.values(["my_rules:Shouting"]))
    assert "my_rules" not in sys.modules
    with pytest.raises(ConfigError, match=r"such code is not imported\. Give the config of the run"):
        folder.run(config)


@pytest.mark.parametrize("use", ["theirs:keep", "subprocess:getoutput"])
def test_what_if_of_a_run_that_was_opened_imports_no_code_that_its_record_names(folder, monkeypatch, use):
    folder.run(folder.config([]))
    folder.module("raise SystemExit('imported')", "theirs.py")
    monkeypatch.chdir(folder.path)
    path = folder.path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["rules"] = {"custom": [use]}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError):
        raymill.open(folder.path / "run").what_if({"language": None}, progress=False)
    assert "theirs" not in sys.modules


def test_what_if_of_a_run_that_was_opened_reads_no_list_that_its_record_names(folder):
    folder.run(folder.config([]))
    path = folder.path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    for changed in (
        {"rules": {"bad_words": {"paths": {"en": "/dev/zero"}}}},
        {"dedup": {"against": ["s3://theirs/run"]}},
    ):
        path.write_text(json.dumps(manifest | {"config": manifest["config"] | changed}))
        with pytest.raises(ConfigError, match="is named by the record of this run alone"):
            raymill.open(folder.path / "run").what_if({"language": None}, progress=False)


# --- hostile and faulty code


def test_a_document_on_which_a_rule_raises_is_in_quarantine_and_named(folder):
    folder.module("def keep(text: str) -> bool:\n    return text.index('loud') < 0 or True")
    folder.run(folder.config(["my_rules:keep"], execution={"max_bad_documents": 0.9}))
    quarantine = {row["where"].partition("document ")[2]: row["problem"] for row in folder.rows("quarantine")}
    assert quarantine == {
        f"{id} (my_rules:keep: ValueError: substring not found)": "plugin_error" for id in ("calm", "loud")
    }
    assert [row["id"] for row in folder.rows("corpus")] == ["half"]


def test_on_arrays_only_the_document_that_fails_is_in_quarantine(folder):
    folder.module(SHOUTING.replace("texts = analysis.texts.to_arrow()", "texts = analysis.texts.to_arrow()\n" + " " * 12
        + "assert not pc.any(pc.match_substring(texts, 'quiet')).as_py(), 'quiet'"))  # fmt: skip
    folder.run(folder.config(["my_rules:Shouting"], execution={"max_bad_documents": 0.9}))
    (row,) = folder.rows("quarantine")
    assert row["where"].endswith("document calm (my_rules:Shouting: AssertionError: quiet)")
    assert folder.removed() == {"loud": "shouting: too_many_capitals"}


def test_a_rule_that_fails_on_everything_ends_the_run_by_the_bound_of_unreadable_documents(folder):
    folder.module("import sys\n\ndef keep(text: str) -> bool:\n    sys.exit(1)")
    with pytest.raises(DataError, match=r"3 of 3 documents could not be read.*(?s:.*)my_rules:keep: SystemExit: 1"):
        folder.run(folder.config(["my_rules:keep"]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def Shouting(text: str) -> bool: return 'yes'", r"returned 'yes' for the text that begins 'A quiet"),
        ("def Shouting(text: str) -> bool: return None", r"returned None"),
        (SHOUTING.replace("capitals / np.maximum(pc.utf8_length(texts).to_numpy(), 1)", "capitals[:2] / 2"),
         r"measure returned float64\[2\] for upper_fraction; wanted one number for each of 3 documents"),
        (SHOUTING.replace("capitals /", "capitals / 0 + "), r"infinite"),
        (SHOUTING.replace('return {"upper_fraction"', 'return {"upper"'), r"measure returned signals \['upper'\]"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_rule_that_returns_nonsense_ends_the_run_and_is_named(folder, source, message):
    folder.module(source)
    with pytest.raises(DataError, match=f"my_rules:Shouting: .*{message}"):
        folder.run(folder.config(["my_rules:Shouting"]))


# --- elsewhere


def test_the_operators_of_ray_data_apply_it(folder):
    batch = pa.table({"text": list(TEXTS.values())})
    assert Rules(packs=[], custom=[Short])(batch)["reason"].to_pylist() == ["too_long", "too_long", None]


def test_the_config_of_a_job_has_the_source_and_its_driver_the_same_rule(folder, monkeypatch):
    folder.module(SHOUTING, "company/rules.py")
    config = folder.config([{"use": "company.rules:Shouting", "max_upper_fraction": 0.2}])
    monkeypatch.setenv("RAYMILL_CONFIG", json.dumps(job_config(config)))
    for path in ("company/rules.py", "my_rules.py"):
        (folder.path / path).unlink()
    sys.modules.pop("company.rules"), sys.modules.pop("company", None)
    there = load("env:RAYMILL_CONFIG")
    assert job.result_settings(there) == job.result_settings(config)
    folder.run(there)
    assert set(folder.removed()) == {"loud", "half"}


def test_a_function_of_a_script_is_no_part_of_a_job(folder):
    def keep(text: str) -> bool:
        return True

    with pytest.raises(ConfigError, match="Move it into a module"):
        job_config(load_values(folder.values([keep]), "curate"))


def test_in_prepare_it_removes_records_and_an_exception_ends_the_run(folder):
    rows = [{"prompt": f"Where is parcel {n}?", "completion": text} for n, text in enumerate(TEXTS.values())]
    (folder.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(folder.path / "rows.jsonl"), "columns": {"prompt": "prompt", "completion": "completion"}}
    folder.module("def loud(text):\n    return 'LOUD' not in text\n\ndef fails(text):\n    raise ValueError('no')")

    def prepared(use: str, name: str) -> list[dict]:
        plain = {"kind": "prepare", "name": "own", "inputs": [source], "output": str(folder.path / name)}
        plain |= {"validate": {"rules": {"custom": [use]}, "same_language": None}}
        with folder.monkeypatch.context() as patch:
            patch.chdir(folder.path)
            without_ray(patch)
            run = prepare_job.prepare(config_of(plain), Session(), Progress())
        return Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()

    assert [row["reason"] for row in prepared("my_rules:loud", "loud")] == ["loud"]
    with pytest.raises(UserError, match=r"my_rules:fails: ValueError: no, for the text that begins"):
        prepared("my_rules:fails", "fails")


def test_a_cleaning_step_changes_the_texts_of_prepare_and_a_faulty_one_ends_the_run(folder):
    rows = [{"text": text} for text in TEXTS.values()]
    (folder.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.module(
        "def soften(text: str, *, mark: str = '!') -> str:\n    return text.replace(mark, '.')\n\n"
        "def fails(text: str) -> str:\n    raise ValueError('no')\n\n"
        "def nothing(text: str) -> str:\n    pass\n\nclass Wrong:\n    pass\n"
    )

    def prepared(use: str | dict, name: str) -> set[str]:
        source = {"path": str(folder.path / "rows.jsonl")}
        plain = {"kind": "prepare", "name": "own", "inputs": [source], "output": str(folder.path / name)}
        with folder.monkeypatch.context() as patch:
            patch.chdir(folder.path)
            without_ray(patch)
            settings = {"records": {"shape": "text"}, "clean": {"custom": [use]}, "validate": {"same_language": None}}
            run = prepare_job.prepare(config_of(plain, settings), Session(), Progress())
        tables = [Artifact.find(Store(), f"{run.uri}/{split}") for split in SPLITS]
        return {row["text"].strip() for table in tables if table for row in table.table().to_pylist()}

    assert prepared({"use": "my_rules:soften", "mark": "!"}, "soft") == {
        text.replace("!", ".") for text in TEXTS.values()
    }
    with pytest.raises(DataError, match=r"clean\.custom: my_rules:fails: ValueError: no, for the text that begins"):
        prepared("my_rules:fails", "fails")
    with pytest.raises(DataError, match=r"clean\.custom: my_rules:nothing: returned None"):
        prepared("my_rules:nothing", "nothing")
    with pytest.raises(ConfigError, match=r"clean\.custom\.0: .*wanted a function of \(text\), or a class"):
        prepared("my_rules:Wrong", "wrong")


def test_a_worker_imports_its_source_from_memory(folder):
    """A process without the folder unpickles the rules, and measures with them."""

    folder.module("LIMIT = 23", "limits.py")
    folder.module("import limits\n\ndef keep(text: str) -> bool:\n    return len(text) < limits.LIMIT", "my_rules.py")
    rules = folder.config(["my_rules:keep"]).filters.rules
    sent = folder.path.parent / "sent"
    sent.write_bytes(cloudpickle.dumps(rules))
    code = (
        "import pickle, sys\n"
        "from raymill.pipelines.rules.rule import Analysis\n"
        "from raymill.pipelines.text.texts import Texts\n"
        "(rule,) = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(rule.measure(Analysis(Texts.from_strings(['a' * 22, 'a' * 23]), 'paper', None, None)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, sent], capture_output=True, text=True, cwd="/")
    assert "array([1., 0.])" in done.stdout, done.stderr


def test_folders_of_configs_are_searched_last_and_the_newest_of_them_first(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/python"])
    monkeypatch.setattr(plugins, "_folders", [])
    for folder in ("/first", "/second", "/python", "/first"):
        plugins._put_on_path(folder)
    assert sys.path == ["/python", "/first", "/second"]
    sys.path.append("/installed")
    plugins._put_on_path("/second")
    assert sys.path == ["/python", "/installed", "/second", "/first"]
