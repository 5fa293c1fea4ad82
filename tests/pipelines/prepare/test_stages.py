"""What the stages of a preparation are made from: a setting makes a stage and all after it again, and none before it.

The stages are planned on artifacts without content; no unit is done.
"""

import json
from typing import Any

import pytest

from raymill.cluster.artifact import Artifact, DataFile, Manifest, describe_schema
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.freeze import freeze_listing
from raymill.cluster.stage import Output, Stage, prefix_of
from raymill.pipelines.language import fasttext_classifier
from raymill.pipelines.prepare.assess import job as assessing
from raymill.pipelines.prepare.assess.embed import embed_memory, fit_memory, learn_memory
from raymill.pipelines.prepare.augment.settings import Operations
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob, listed_inputs, run_stages
from raymill.pipelines.prepare.stages.augment import augment_memory
from raymill.pipelines.prepare.stages.collect import collect_memory, rules_memory
from raymill.pipelines.prepare.stages.split_stage import find_kept, split_memory
from raymill.pipelines.prepare.stages.tables import tables_memory
from tests.support.settings import changed, untold


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    rows = [{"ticket": "t1", "q": "Why?", "a": "So.", "queue": "it", "day": "2026-11-23", "said": []}]
    for name in ("in", "chat", "other"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "parts.csv").write_text("part,price\nscrew,3\n")
    for name in ("words", "changed", "model.bin"):
        (tmp_path / name).write_text(f"{name}\n")
    for name in ("thesaurus", "other-thesaurus"):
        (tmp_path / name).write_text("screw,bolt\n")
    (tmp_path / "terms.yaml").write_text("PC: computer\n")
    (tmp_path / "patch.jsonl").write_text(
        '{"id": "t1", "field": "queue", "old": "it", "new": "hr", "edited_by": "a"}\n'
    )
    columns = {"prompt": "q", "completion": "a", "queue": "queue", "day": "day"}
    chats = {"messages": "said", "queue": "queue"}
    table = {
        "types": {"part": "text", "price": "number"},
        "missing": {"price": "median"},
        "outliers": {"columns": ["price"]},
        "unique": ["part"],
        "derive": {"double": "price * 2"},
        "template": {"prompt": "What does {part} cost?", "completion": "It costs {price}."},
    }
    given = {
        "inputs": [
            {"source": "desk", "path": f"{tmp_path}/in.jsonl", "id": "ticket", "columns": columns, "share": 0.5},
            {"source": "chat", "path": f"{tmp_path}/chat.jsonl", "columns": chats, "speakers": {"Ann": "user"},
             "share": 0.25},
            {"source": "parts", "path": f"{tmp_path}/parts.csv", "table": table, "columns": {"queue": "part"},
             "share": 0.25},
        ],
        "mixture": {"records": 10},
        "clean": {
            "labels": {"queue": {"it": ["I.T."]}}, "terminology": {"PC": "computer"}, "redact": ["email"],
            "pseudonyms": "per_corpus", "pseudonym_key": "KEY",
        },
        "validate": {
            "json_schema": {"type": "object"}, "bad_words": {"paths": {"en": f"{tmp_path}/words"}},
            "inappropriate": {"model": f"{tmp_path}/model.bin", "label": "bad"}, "outliers": {},
            "answer_relevance": {},
            "allowed": {"queue": ["it", "hr"]}, "since": {"day": "2026-01-01"}, "until": {"day": "2026-12-31"},
        },
        "duplicates": {"questions": "remove", "answers": "remove"},
        "split": {
            "stratify": ["queue"], "group": ["day"], "folds": 3, "balance": {"by": ["queue"]},
        },
        "curriculum": {"domain": ["router"]},
        "augment": {
            "operations": {name: {} for name in Operations.model_fields} | {
                "synonyms": {"thesaurus": f"{tmp_path}/thesaurus"}, "entities": {"names": [["Ann", "Bob"]]},
            },
            "by": ["queue"], "to": 5,
        },
        "assess": {
            "topics": {"net": ["router"]}, "examples": ["Switch it on."], "fields": ["day"], "label": "queue",
            "groups": {"queue": {"it": 0.5, "hr": 0.5}}, "period": "day", "annotators": ["queue", "source"],
        },
    }  # fmt: skip
    base = {"kind": "prepare", "name": "test", "output": f"{tmp_path}/out"}
    config = PrepareConfig.model_validate(base | given)
    return config.model_dump(mode="json", by_alias=True)


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """The models of `inappropriate` and `sentiment` are no models here, and lists are not opened."""
    monkeypatch.setattr("raymill.pipelines.prepare.assess.job.check_sentiment", lambda store, sentiment: None)
    monkeypatch.setattr("raymill.pipelines.prepare.records.validate.Validator.check_files", lambda self: None)


class Enough(Exception):
    """The last stage was planned."""


def stages_of(config: PrepareConfig, key: bytes = b"key") -> dict[str, Stage]:
    """Every stage of a run by name, in order. key: of pseudonyms."""
    found: dict[str, Stage] = {}

    def run(stage: Stage, folder: str = "") -> dict[str, Artifact]:
        found[f"{prefix_of(folder)}{stage.name}"] = stage
        if stage.name == "summary":
            raise Enough
        return {output.name: artifact(config, stage, output) for output in stage.outputs}

    root, of_collect, listing = listed_inputs(config, key=key)
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    artifacts = run_stages(config, of_collect, inputs, find_kept(config.store, config.split.keep), run)
    with pytest.raises(Enough):
        assessing.assess(config, None, root, [artifacts[name] for name in SPLITS], run)
    return found


def artifact(config: PrepareConfig, stage: Stage, output: Output) -> Artifact:
    """A file of no rows, whose digest differs where the artifact would be made again."""
    files = [DataFile("file", 0, 1, 0, stage.fingerprint)] if stage.name not in ("group", "collect") else []
    made = {"fingerprint": stage.fingerprint, "seconds": 0.0, "made": "", "version": ""}
    counters = {"records": 1.0, "passed": 1.0, "quarantined": 0.0, "made from": stage.fingerprint}
    manifest = Manifest(output.name, files=files, counters=counters, **describe_schema(output.schema), **made)
    return Artifact(config.store, f"/run/{output.name}", manifest)


def made_again(before: dict[str, Stage], after: dict[str, Stage]) -> list[str]:
    return [name for name, stage in before.items() if after.get(name, stage).fingerprint != stage.fingerprint]


# Settings with another value, by the first stage that is made again. HERE is the folder of the inputs.
CHANGES: dict[str, dict[str, Any]] = {
    "tables": {
        "inputs.0.source": "other", "inputs.0.path": "HERE/other.jsonl", "inputs.0.id": "queue",
        "inputs.0.columns.prompt": "day", "inputs.0.columns.completion": "q", "inputs.0.columns.queue": "q",
        "inputs.0.columns.day": "q", "inputs.0.exclude": ["x*"], "inputs.0.follow_links": True,
        "inputs.0.format": "jsonl", "inputs.0.split": "test",
        "inputs.0.licence": "mit", "inputs.0.delimiter": ";", "inputs.0.encoding": "utf-16",
        "inputs.2.table.empty": [""], "inputs.2.day_first": True,
        "inputs.2.table.types": {"types": {"part": "text", "price": "integer"}},
        "inputs.2.table.missing.price": "mean", "inputs.2.table.outliers.method": "mad",
        "inputs.2.table.outliers.factor": 2,
        "inputs.2.table.outliers.action": "drop", "inputs.2.table.unique": None,
        "inputs.2.table.derive.double": "price * 3", "inputs.2.table.template.prompt": "{part}: the price?",
        "inputs.2.table.template.completion": "{price}.", "inputs.2.table.template.system": "Be brief.",
        "limits.max_document_bytes": 1000, "limits.max_expansion_ratio": 5, "limits.max_expanded_gib": 1,
        "limits.max_block_mib": 1,
        "limits.document_s": 5,
    },
    "collect": {
        "inputs.0.domain": "law", "inputs.0.day_first": True, "clean.keep_cut": True,
        "inputs.0.task_type": "policy", "inputs.1.speakers.Ann": "assistant", "inputs.2.columns.queue": "price",
        "records.section_chars": 90, "patches": ["HERE/patch.jsonl"],
        "records.shape": "pairs", "records.task_type": "policy", "records.templates": {"qa": {"prompt": "{title}?"}},
        "records.preferences": "chosen", "records.undesirable": "keep",
        "records.chats_as_text": {"shape": "text", "chats_as_text": {}},
        "clean.quotes": "straight",
        "clean.normalize": False, "clean.html": True, "clean.email": ["quotes"], "clean.terminology.PC": "PC",
        "clean.labels.queue.it": ["inf"], "clean.redact": ["phone"],
        "clean.redact_except": ["queue"],
        "clean.pseudonyms": {"pseudonyms": "none", "pseudonym_key": None}, "clean.pseudonym_key": "OTHER",
        "validate.question_chars": [1, 500], "validate.answer_chars": [1, 500], "validate.text_chars": [1, 500],
        "validate.require": ["queue"], "validate.allowed.queue": ["it"], "validate.since.day": "2026-01-02",
        "validate.until.day": "2026-12-30", "validate.licences": ["mit"], "validate.refusals": [],
        "validate.copied_answer": False, "validate.answer_in_question": None, "validate.boilerplate": [],
        "validate.truncated_answers": "keep", "validate.relevance": 0.1, "validate.same_language": 0.5,
        "validate.json_schema.type": "array", "validate.bad_words.paths.en": "HERE/changed",
        "validate.language": {"keep": ["en"]}, "validate.rules": {"packs": ["c4"]},
        "validate.bad_words.max_count": 1, "validate.inappropriate.model": "HERE/changed",
        "validate.inappropriate.label": "worse", "validate.inappropriate.max_score": 0.7,
        "validate.inappropriate.max_chars": 50, "validate.outliers.measures": ["letters"],
        "validate.outliers.by": ["queue"], "validate.outliers": None,
        "dedup.ngram_words": 3, "dedup.bands": 15, "dedup.rows_per_band": 7, "dedup.seed": 2,
        "dedup.exact_short": False,
        "dedup.permutations": {"bands": None, "rows_per_band": None, "permutations": 16}, "dedup": None,
        "duplicates.questions": "ignore", "duplicates.answers": "ignore",
        "terms": {"terms": {"forbid": ["no-training"]}},
        "duplicates.contradictory": "ignore", "split.stratify": ["licence"], "split.group": ["licence"],
        "split.balance.by": ["day"], "split.balance": None, "augment.by": ["day"],
        "split.by_time": {"by_time": "day", "stratify": [], "folds": None},
    },
    "relevance.sample": {"validate.answer_relevance.sample": 6000},
    "relevance.fit": {"validate.answer_relevance.dimensions": 64},
    "relevance.cosines": {"validate.answer_relevance.model": "HERE/model.bin"},
    "relevance.unrelated": {"validate.answer_relevance.min_cosine": 0.3, "validate.answer_relevance": None},
    "group": {
        "dedup.threshold": 0.85, "dedup.keeper": "longest", "dedup.scope": "source", "dedup.remove": False,
        "dedup.sources": {"keeper": "source", "sources": ["desk"]},
    },
    "questions.group": {"duplicates.questions": "list"},  # those that stay are compared in chains
    "answers.group": {"duplicates.answers": "list"},
    "words": {"curriculum.reasoning": ["so"], "curriculum.domain": ["modem"]},
    "complexity": {
        "curriculum.weights.question_length": 2, "curriculum.weights.answer_length": 2, "curriculum.weights.rarity": 2,
        "curriculum.weights.reasoning": 2, "curriculum.weights.domain": 2,
    },
    "split": {
        "mixture.records": None, "mixture.fill": False,
        "duplicates.contradictory": "remove", "validate.outliers.deviations": 3,
        "validate.outliers.found": "remove", "split.train": {"train": 0.7, "validation": 0.2},
        "split.test": {"test": 0.2, "validation": 0}, "split.folds": None, "split.balance.to": 5,
        "split.balance.most_copies": 2, "split.seed": 2, "curriculum.stages": 2, "curriculum": None,
        "split.synthetic.train": 0.5, "split.synthetic.validation": 0.5, "split.synthetic.test": 0.5,
        "augment.to": "largest", "augment.most_variants": 2, "augment.variants": 2,
    },
    "augment": {
        "augment.operations.typos.words": 0.2,
        "augment.operations.typos.layout": "azerty", "augment.operations.ocr.words": 0.2,
        "augment.operations.case.forms": ["upper"], "augment.operations.punctuation.forms": ["none"],
        "augment.operations.drop.words": 0.2, "augment.operations.swap.words": 0.2,
        "augment.operations.spelling.words": 0.2, "augment.operations.spelling.kinds": ["mistakes"],
        "augment.operations.synonyms.words": 0.2, "augment.operations.entities.numbers": False,
        "augment.operations.synonyms.thesaurus": "HERE/other-thesaurus", "augment.operations.entities.dates": False,
        "augment.operations.entities.names": [["Ann", "Eve"]], "augment.texts": "both", "augment.keep": ["numbers"],
        "augment.keep_terms": ["modem"], "augment.keep_patterns": ["R2"], "augment.min_similarity": 0.2,
        "augment.max_similarity": 0.9, "augment.seed": 2,
    },
    "assess.assess": {
        "assess.topics.net": ["modem"], "assess.fields": [], "assess.annotators": [], "assess.period": None,
        "assess.embeddings.sample": 6000, "assess.groups": {"groups": {"licence": {}}},
        "assess.sentiment": {"model": "HERE/model.bin", "label": "glad"},
    },
    "assess.fit": {"assess.embeddings.dimensions": 32},
    "assess.embed": {
        "assess.examples": [], "assess.extrinsic": "source", "assess.predictions": "day",
        "assess.embeddings.model": "HERE/model.bin",
    },
    "assess.learn": {
        "assess.embeddings.groups": 5, "assess.label": {"label": None, "extrinsic": "queue"},
    },
    "assess.summary": {
        "assess.languages": ["de"], "assess.sample": 500, "assess.groups.queue": {"queue": {"it": 1.0}},
    },
    "": {
        "name": "other", "output": "HERE/another", "inputs.0.storage": {"timeout_s": 5},
        "dedup.component_documents": 5, "dedup.connected_at_once": 5, "assess.topic_records": 2,
        "assess.weights": {"weights": {"bias": 1}}, "gates": {"gates": {"coverage": None}},
        "execution.unit_mib": 5, "execution.attempts": 5, "execution.losses": 2, "execution.stall_s": 5,
        "execution.max_bad_documents": 0.5, "execution.max_bad_files": 0.5, "execution.cpus": 5,
        "storage.endpoint_url": "http://store:80", "storage.path_style": True, "storage.region": "eu-west-1",
        "storage.profile": "p", "storage.access_key_id": {"access_key_id": "a", "secret_access_key": "s"},
        "storage.anonymous": True, "storage.timeout_s": 5, "storage.retries": 5, "storage.retry_deadline_s": 5,
    },
}  # fmt: skip
# Not tried: `kind` has one value, other kinds of sources are other inputs, and what goes with settings named above.
UNTRIED = {
    "kind", "inputs.0.database", "inputs.0.api", "inputs.0.pages", "inputs.0.table", "inputs.0.share",
    "inputs.0.speakers", "inputs.0.form", "split.keep", "split.stable", "split.validation", "dedup.against",
    "dedup.keeper_score", "dedup.newest_by",
    "storage.secret_access_key", "storage.session_token", "inputs.2.table.outliers.columns",
}  # fmt: skip
# A finished run with another value of these is the same run.
NO_OTHER_RUN = (
    "output", "inputs.0.storage", "dedup.component_documents", "dedup.connected_at_once", "assess.", "gates",
    "execution.", "storage.",
)  # fmt: skip
_OF_RECORDS_ALONE = {"words", "complexity"}  # which no duplicates are left out of


def result_of(config: PrepareConfig) -> dict[str, Any]:
    job = PrepareJob(config)
    job.named = config  # no column is looked for
    return job.settings()


def test_a_setting_makes_the_stages_again_that_depend_on_it(settings, tmp_path):
    config = PrepareConfig.model_validate(settings)
    before, result = stages_of(config), result_of(config)
    for stage, some in CHANGES.items():
        after_it = list(before)[list(before).index(stage) :] if stage else []
        if stage.startswith(("relevance.", "group", "questions.", "answers.")):
            after_it = [name for name in after_it if name not in _OF_RECORDS_ALONE]
        for name, value in some.items():
            here = json.loads(json.dumps(value).replace("HERE", str(tmp_path)))
            other = PrepareConfig.model_validate(changed(settings, name, here))
            after = stages_of(other)
            assert made_again(before, after) == [one for one in after_it if one in after], name
            assert (result_of(other) == result) == name.startswith(NO_OTHER_RUN), name
    told = {name for some in CHANGES.values() for name in some} | UNTRIED
    assert {name for name in untold(settings, told) if not name.startswith(("inputs.1.", "inputs.2."))} == set()
    assert {name for name in untold(settings, told) if name.startswith("inputs.2.table.")} == set()


def test_other_shares_of_the_sources_divide_the_records_again(settings):
    before = stages_of(PrepareConfig.model_validate(settings))
    settings["inputs"][0]["share"], settings["inputs"][1]["share"] = 0.25, 0.5
    assert made_again(before, stages_of(PrepareConfig.model_validate(settings)))[0] == "split"


def test_another_model_of_languages_collects_the_records_again(settings, monkeypatch):
    config, fingerprint = PrepareConfig.model_validate(settings), fasttext_classifier.fingerprint
    before = stages_of(config)
    monkeypatch.setattr(fasttext_classifier, "fingerprint", lambda store, path: path and fingerprint(store, path))
    assert made_again(before, stages_of(config))[0] == "collect"


def test_another_key_of_pseudonyms_collects_the_records_again(settings):
    config = PrepareConfig.model_validate(settings)
    assert made_again(stages_of(config), stages_of(config, key=b"other"))[0] == "collect"


def test_the_content_of_a_list_a_model_a_schema_or_terms_collects_the_records_again(settings, tmp_path):
    (tmp_path / "schema.json").write_text("{}")
    settings["validate"]["json_schema"] = f"{tmp_path}/schema.json"
    settings["clean"]["terminology"] = f"{tmp_path}/terms.yaml"
    config = PrepareConfig.model_validate(settings)
    changes = {"words": "other\n", "model.bin": "other", "schema.json": '{"type": "object"}', "terms.yaml": "PC: Mac\n"}
    for name, content in changes.items():
        before, result = stages_of(config), result_of(config)
        (tmp_path / name).write_text(content)
        assert made_again(before, stages_of(config))[0] == "collect", name
        assert (result_of(config) != result) == (name in ("schema.json", "terms.yaml")), name


def test_every_stage_states_the_memory_of_a_unit(settings):
    settings["limits"]["max_document_bytes"] = 1_000_000_000
    config = PrepareConfig.model_validate(settings)
    _, _, listing = listed_inputs(config, key=b"key")
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    stated = {name: stage.memory for name, stage in stages_of(config).items() if stage.memory}
    of_groups = {name for name in stated if name.rpartition(".")[2] == "group"}
    assert len(of_groups) == 6
    of_augment = config.store, config.augment, 1
    texts, embeddings = collect_memory(config.limits), config.assess.embeddings
    rules, relevance = rules_memory(config.store, config.validation), config.validation.answer_relevance
    # The artifacts of the plan have one record, those of `collect` none.
    assert {name: memory for name, memory in stated.items() if name not in of_groups} == {
        "tables": tables_memory(config.inputs, inputs), "repeated": tables_memory(config.inputs, inputs),
        "collect": texts + rules, "words": texts,
        "relevance.sample": texts, "relevance.fit": fit_memory(relevance),
        "relevance.cosines": embed_memory(texts),
        "complexity": (1 << 29) + 100, "split": split_memory(0), "augment": texts + augment_memory(*of_augment),
        "assess.assess": texts,
        "assess.fit": fit_memory(embeddings), "assess.embed": embed_memory(texts),
        "assess.learn": learn_memory(embeddings, 1), "assess.summary": (1 << 29) + 60,
    }  # fmt: skip
    assert rules == 120 * len("words\n") + int(2.5 * len("model.bin\n")), "the list and the classifier of `validate`"
    assert split_memory(10) - split_memory(0) == 1500 and texts > 1_000_000_000
    assert augment_memory(config.store, config.augment, 10) == 160 + 12 * len("screw,bolt\n")
