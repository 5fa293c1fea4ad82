"""What the stages of a run are made from: a setting makes a stage and all after it again, and none before it.

The stages are planned on artifacts without content; no unit is done.
"""

import json
import os
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.stage import Output, Stage
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import CurateJob, machine_of, result_settings, run_stages
from raymill.pipelines.curate.stages.decide import decide_stage
from raymill.pipelines.curate.stages.measure import measure_stage
from raymill.pipelines.curate.stages.shared_keys import SLICE_MEMORY
from raymill.pipelines.curate.stages.write_corpus import select_memory
from raymill.pipelines.memory import NUMBERS_MEMORY, files_memory, task_memory
from tests.support.settings import changed, leaves, untold

# These artifacts have a file of 100 documents. The others have none: planning reads their files.
WITH_A_FILE = {"attributes", "_work/verdicts", "_work/groups", "_work/tallies"}

# Settings with another value, by the first stage that is made again. HERE is the folder of the inputs.
CHANGES: dict[str, dict[str, Any]] = {
    "measure": {
        "inputs.0.source": "other",
        "inputs.0.path": "HERE/other.jsonl",
        "inputs.0.format": "jsonl",
        "inputs.0.text": "name",
        "inputs.0.id": None,
        "inputs.0.columns": ["url", "robots"],
        "inputs.0.delimiter": ";",
        "inputs.0.encoding": "utf-16",
        "inputs.0.split": "test",
        "language": None,
        "language.max_chars": 50,
        "language.model": "HERE/changed",
        "rules.url_blocklist": None,
        "rules.dialect": "datatrove",
        "rules.gopher_quality.stop_words": "english",
        "rules.c4.min_words_per_line": 2,
        "rules.c4.max_word_length": 20,
        "rules.c4.require_terminal_punctuation": True,
        "rules.c4.remove_citations": False,
        "rules.c4.remove_javascript_lines": False,
        "rules.c4.remove_policy_lines": False,
        "rules.fineweb.short_line_characters": 20,
        "rules.fineweb.more_line_ends": "x",
        "rules.url_blocklist.paths": ["HERE/changed"],
        "rules.url_blocklist.column": "day",
        "rules.early_language.keep": ["de"],
        "rules.early_language.max_chars": 500,
        "rules.early_language.model": "HERE/changed",
        "rules.opt_out.directives": ["noindex"],
        "rules.opt_out.tdm_reservation": False,
        "rules.line_edits.max_uppercase_fraction": 0.4,
        "rules.line_edits.min_words": 3,
        "rules.bad_words.paths": {"en": "HERE/changed"},
        "rules.quality_classifier.model": "HERE/changed",
        "rules.quality_classifier.label": "bad",
        "rules.quality_classifier.max_chars": 50,
        "rules.quality_percentile.classifiers.0.model": "HERE/changed",
        "rules.quality_percentile.classifiers.0.label": "bad",
        "rules.quality_percentile.classifiers.0.max_chars": 50,
        "rules.quality_percentile.reference": "HERE/other.jsonl",
        "rules.quality_percentile.column": "name",
        "rules.judge_score.classifier": "HERE/classifier2",
        "rules.judge_score.embedding": {"embedding": "HERE/words"},
        "rules.decontamination.sets.0.name": "b",
        "rules.decontamination.sets.0.path": "HERE/changed",
        "rules.decontamination.sets.0.columns": ["answer"],
        "rules.decontamination.ngram_words": 20,
        "personal_data": None,
        "dedup.ngram_words": 3,
        "dedup.bands": 15,
        "dedup.rows_per_band": 7,
        "dedup.permutations": {"bands": None, "rows_per_band": None, "permutations": 16},
        "dedup.seed": 2,
        "dedup.exact_short": False,
        "dedup.symbols": True,
        "dedup.newest_by": {"keeper": "newest", "newest_by": "day"},
        "limits.max_document_bytes": 1000,
        "limits.max_expansion_ratio": 5,
        "limits.max_expanded_gib": 1,
        "limits.max_block_mib": 1,
        "limits.document_s": 5,
    },
    "decide": {
        "language.keep": ["en"],
        "language.min_scores": {"en": 0.5},
        "rules.packs": ["c4", "fineweb", "gopher_quality", "gopher_repetition"],
        "rules.decontamination.remove": False,
        "rules.judge_score.min_score": 2.5,
        "rules.c4.remove_lines": True,
        "rules.c4.drop_lorem_ipsum": False,
        "rules.c4.drop_curly_bracket": False,
        "rules.fineweb.max_char_dup_ratio": 0.5,
    },
    "group": {
        "dedup.threshold": 0.9,
        "dedup.keeper": "longest",
        "dedup.keeper_score": {"keeper": "score", "keeper_score": "quality_score"},
        "dedup.sources": {"keeper": "source", "sources": ["input"]},
        "dedup.scope": "source",
    },
    "select.pieces": {
        "personal_data.redact": ["email"],
        "dedup.remove": False,
        "boilerplate.cut": "paragraphs",
        "boilerplate.max_documents": 5,
        "boilerplate.min_words": 2,
        "boilerplate.min_words_left": 5,
        "repeats.min_words": 12,
        "repeats.cut": True,
        "repeats.min_words_left": 5,
        "corpus.file_mib": 1,
        "corpus.columns": ["quality_score"],
        "report.samples": 5,
    },
    "": {
        "name": "other",
        "inputs.0.exclude": ["x*"],
        "inputs.0.follow_links": True,
        "inputs.0.extractor": "justext",  # of HTML alone
        "inputs.0.licence": "CC0",
        "inputs.0.weight": 2,
        "inputs.0.snapshot": "s",  # see below
        "report.groups": 5,
        "report.warn_source_loss": 0.5,
        "output": "HERE/another",
        "inputs.0.storage": {"timeout_s": 5},
        "dedup.component_documents": 5,
        "dedup.connected_at_once": 5,
        "execution.unit_mib": 5,
        "execution.attempts": 5,
        "execution.losses": 2,
        "execution.stall_s": 5,
        "execution.max_bad_documents": 0.5,
        "execution.max_bad_files": 0.5,
        "execution.cpus": 5,
        "storage.endpoint_url": "http://store:80",
        "storage.path_style": True,
        "storage.region": "eu-west-1",
        "storage.profile": "p",
        "storage.access_key_id": {"access_key_id": "a", "secret_access_key": "s", "session_token": "t"},
        "storage.anonymous": True,
        "storage.timeout_s": 5,
        "storage.retries": 5,
        "storage.retry_deadline_s": 5,
    },
}
# Not tried: `kind` has one value, and these go with the settings named above.
UNTRIED = {"kind", "storage.secret_access_key", "storage.session_token", "dedup.against"}
# A finished run with another value of these is the same run.
NO_OTHER_RUN = (
    "output", "inputs.0.storage", "dedup.component_documents", "dedup.connected_at_once", "execution.", "storage.",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    row = {"text": "Boats.", "name": "n", "url": "u", "day": "2026-11-23", "robots": ""}
    for name in ("in", "other"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("model.bin", "words", "urls", "changed"):
        (tmp_path / name).write_text(f"{name}\n")
    for name in ("classifier", "classifier2"):
        (tmp_path / name).mkdir()
        for file in ("model.bin", "head.json", "threshold.json"):
            (tmp_path / name / file).touch()
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "What is asked?", "answer": "This."}) + "\n")
    given = {
        "inputs": [{"path": f"{tmp_path}/in.jsonl", "id": "name", "columns": ["url", "day", "robots"]}],
        "rules": {
            "url_blocklist": {"paths": [f"{tmp_path}/urls"]},
            "opt_out": {},
            "early_language": {"keep": ["en"]},
            "line_edits": {},
            "bad_words": {"paths": {"en": f"{tmp_path}/words"}},
            "quality_classifier": {"model": f"{tmp_path}/model.bin", "label": "good"},
            "judge_score": {"classifier": f"{tmp_path}/classifier"},
            "quality_percentile": {
                "classifiers": [{"model": f"{tmp_path}/model.bin", "label": "good"}],
                "reference": f"{tmp_path}/set.jsonl",
            },
            "decontamination": {"sets": [{"name": "a", "path": f"{tmp_path}/set.jsonl", "columns": ["question"]}]},
        },
    }
    base = {"kind": "curate", "name": "test", "output": f"{tmp_path}/out", "boilerplate": {}, "repeats": {}}
    return CurateConfig.model_validate(base | given).model_dump(mode="json")


def stages_of(config: CurateConfig) -> dict[str, Stage]:
    """Every stage of a run by name, in order, but those that prepare `group` on several ranges."""
    found: dict[str, Stage] = {}

    def run(stage: Stage) -> dict[str, Artifact]:
        if stage.prepare:
            stage = replace(stage, units=stage.prepare(run))
        found[stage.name] = stage
        return {output.name: artifact(config, stage, output) for output in stage.outputs}

    run_stages(config, CurateJob(config).frozen, run)
    return found


def artifact(config: CurateConfig, stage: Stage, output: Output) -> Artifact:
    files = [DataFile("file", 0, 100, 0, "")] if output.name in WITH_A_FILE else []
    made = {"fingerprint": stage.fingerprint, "counters": {}, "seconds": 0.0, "made": "", "version": ""}
    manifest = Manifest(output.name, files=files, **describe_schema(output.schema), **made)
    return Artifact(config.store, f"/run/{output.name}", manifest)


def made_again(before: dict[str, Stage], after: dict[str, Stage]) -> list[str]:
    """The stages of `before` that `after` makes from something else, in order."""
    return [name for name, stage in before.items() if after.get(name, stage).fingerprint != stage.fingerprint]


def test_a_setting_makes_the_stages_again_that_depend_on_it(settings, tmp_path):
    """The settings named in CHANGES, and every number of a rule, which is a bound unless it is named there."""
    config = CurateConfig.model_validate(settings)
    before, result = stages_of(config), result_settings(config)
    named = {name: (stage, value) for stage, some in CHANGES.items() for name, value in some.items()}
    bounds = {name: value for name, value in leaves(settings) if name.startswith(("rules.", "language.min_score"))}
    numbers = {name: value for name, value in bounds.items() if isinstance(value, int | float) and name not in named}
    named |= {
        name: ("decide", value + 1 if isinstance(value, int) else value / 2 + 0.01) for name, value in numbers.items()
    }
    for name, (stage, value) in named.items():
        here = json.loads(json.dumps(value).replace("HERE", str(tmp_path)))
        other = CurateConfig.model_validate(changed(settings, name, here))
        after = stages_of(other)
        first = list(before).index(stage) if stage else len(before)
        assert made_again(before, after) == [one for one in list(before)[first:] if one in after], name
        assert (result_settings(other) == result) == name.startswith(NO_OTHER_RUN), name
    assert not untold(settings, set(named) | UNTRIED)


def test_documents_of_snapshots_with_other_names_are_compared_again(settings):
    settings["dedup"]["scope"] = "snapshot"
    given = (changed(settings, "inputs.0.snapshot", name) for name in ("2025", "2026"))
    one, other = (stages_of(CurateConfig.model_validate(one)) for one in given)
    assert made_again(one, other)[0] == "group"


def test_the_content_of_a_model_or_list_is_measured_again(settings, tmp_path):
    config = CurateConfig.model_validate(changed(settings, "language.model", f"{tmp_path}/changed"))
    for name in ("model.bin", "words", "urls", "set.jsonl", "changed"):
        before = stages_of(config)
        (tmp_path / name).write_text((tmp_path / name).read_text() * 2)
        assert made_again(before, stages_of(config))[0] == "measure", name


def test_a_unit_is_measured_again_if_a_column_that_it_carries_has_another_type(settings):
    """As when a file is added in which numbers are text."""
    config = CurateConfig.model_validate(settings)
    inputs = CurateJob(config).frozen
    keys = []
    for kind in (pa.string(), pa.int64()):
        reading = replace(
            inputs.reading, carried=pa.schema([("url", pa.string()), ("day", kind), ("robots", pa.string())])
        )
        stage = measure_stage(config, config.filters, replace(inputs, reading=reading))
        keys.append(stage.record_name(0, inputs.units[0]))
    assert keys[0] != keys[1]


def test_a_unit_of_decide_covers_at_most_64_units_of_measure(settings):
    config = CurateConfig.model_validate(settings)
    attributes = artifact(config, stages_of(config)["measure"], Output("attributes", pa.schema([])))
    small = [DataFile("file", unit, 1, 0, "") for unit in range(150)]
    many = Artifact(config.store, "/run/attributes", replace(attributes.manifest, files=small))
    assert [len(unit) for unit in decide_stage(config.filters, many, 150).units] == [64, 64, 22]


def test_every_stage_states_the_memory_of_a_unit(settings):
    config = CurateConfig.model_validate(
        settings | {"limits": {"max_document_bytes": 1_000_000_000}, "corpus": {"file_mib": 512}}
    )
    unit = max(unit.bytes for unit in CurateJob(config).frozen.units)
    limits = config.limits
    windows = config.repeats.memory(limits, unit)
    stages = stages_of(config)
    assert [name for name, stage in stages.items() if not stage.memory] == ["ids"], "one small unit, in the driver"
    numbers = dict.fromkeys(("index", "ids.ranges", "decide", "duplicates", "merge"), NUMBERS_MEMORY)
    assert {name: stage.memory for name, stage in stages.items() if stage.memory} == numbers | {
        "measure": task_memory(limits) + files_memory(config.store, config.filters.rules),
        "group": (1 << 29) + 1500 * 100,
        "select.pieces": config.boilerplate.memory(limits, unit),
        "select.shared": SLICE_MEMORY,
        "select.anchors": windows,
        "select.shared_anchors": SLICE_MEMORY,
        "select.windows": windows,
        "select.shared_windows": SLICE_MEMORY,
        "select": select_memory(limits, 512 << 20, cuts=True),
    }
    plain = CurateConfig.model_validate(settings | {"boilerplate": None, "repeats": None})
    assert stages_of(plain)["select"].memory == select_memory(plain.limits, 128 << 20, cuts=False)


def test_measure_states_the_memory_of_its_models_and_lists(settings, tmp_path):
    """A process loads them: a classifier of 0.5 GB takes more than the GiB of a unit without."""
    sizes = {"model.bin": 500_000_000, "urls": 64_000_000, "words": 10_000, "set.jsonl": 100_000, "changed": 1_000_000}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"")
        os.truncate(tmp_path / name, size)  # takes no disk
    (tmp_path / "small.ftz").write_bytes(bytes(1000))
    config = CurateConfig.model_validate(changed(settings, "language.model", f"{tmp_path}/changed"))
    lists = 4 * 64_000_000 + 120 * 10_000 + 36 * 100_000
    reference = int(2.5 * 100_000)  # of quality_percentile; two rules name one model
    loaded = int(2.5 * 500_000_000) + int(2.5 * 1_000_000) + lists + reference
    assert files_memory(config.store, (config.language, *config.filters.rules)) == loaded
    unit = task_memory(config.limits) + loaded
    assert measure_stage(config, config.filters, CurateJob(config).frozen).memory == unit
    machine = machine_of(config, 2, 1000, 1 << 20)
    assert machine.largest_task == unit and machine.memory > 2 * unit
    assert f"{loaded / (1 << 30):.2f} GiB of it for models and lists" in machine.reasons["memory"]
    given = changed(changed(settings, "language.model", f"{tmp_path}/small.ftz"), "rules", None)
    quantised = CurateConfig.model_validate(given)
    assert files_memory(quantised.store, (quantised.language,)) == 20 * 1000
    built_in = CurateConfig.model_validate(changed(settings, "rules", None))
    assert files_memory(built_in.store, (built_in.language,)) == 0, "measured with the built-in model"
    absent = CurateConfig.model_validate(changed(settings, "language.model", f"{tmp_path}/absent"))
    assert files_memory(absent.store, (absent.language,)) == 0, "its error is raised elsewhere"


def test_an_error_names_the_files_of_its_unit(settings, tmp_path):
    stages = stages_of(CurateConfig.model_validate(settings))
    described = {name: stage.describe(stage.units[0]) for name, stage in stages.items()}
    given, attributes = f"{tmp_path}/in.jsonl", "/run/attributes/file"
    assert {name: files for name, files in described.items() if files} == {
        "measure": given,
        "index": attributes,
        "decide": attributes,
        "group": attributes,
        "duplicates": "/run/_work/groups/file",
        "select": given,
        "merge": "/run/_work/tallies/file",
    }
