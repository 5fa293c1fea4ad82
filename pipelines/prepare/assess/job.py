"""Assesses the splits of a run.

    assess     facts of every record                              -> _work/assess/facts and others
    group      repeated questions; then the same of answers       -> _work/assess/questions, _work/assess/answers
    group      questions that are like one of train               -> _work/assess/leaks
    fit        words and directions of the default embedding      -> _work/assess/model
    embed      a vector of every record                           -> _work/assess/vectors
    learn      groups of vectors, predicted labels                -> _work/assess/learned, _work/assess/suspects
    summary    what the facts add up to                           -> _work/assess/summary

Stages of other settings or splits are made again: nothing else reads them. `raymill assess` is no kind of run of its
own, because it writes its result into the run that it measures; other records are made a run of `prepare` first.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from raymill.cluster.artifact import Artifact
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.record import json_bytes, read_json
from raymill.cluster.stage import RunStageIn
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_file
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.group import GROUPS, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.embedder import check_models as check_embedding_models
from raymill.pipelines.prepare.assess.embed import (
    MODEL,
    VECTORS,
    EmbedSettings,
    embed_memory,
    embed_stage,
    fit_memory,
    fit_stage,
    learn_memory,
    learn_stage,
)
from raymill.pipelines.prepare.assess.facts import (
    ANSWERS,
    FACTS,
    FOLDER,
    QUESTIONS,
    SAMPLE,
    TOGETHER,
    VERDICTS,
    FactsSettings,
    check_sentiment,
    facts_stage,
    units_of,
)
from raymill.pipelines.prepare.assess.findings import Findings
from raymill.pipelines.prepare.assess.fixes import FixContext
from raymill.pipelines.prepare.assess.score import Assessment, TrainedScore, assessment_of
from raymill.pipelines.prepare.assess.settings import BALANCED
from raymill.pipelines.prepare.assess.summary import LEAKS, SUMMARY, SplitRows, SummarySettings, summary_stage
from raymill.pipelines.prepare.config import PrepareConfig, Source
from raymill.pipelines.prepare.records.clean import load_terms
from raymill.pipelines.prepare.records.validate import Validate, Validator, load_validator
from raymill.pipelines.prepare.sources import Fields, as_input
from raymill.pipelines.prepare.stages.collect import collect_memory

ASSESSMENT = "assessment.json"


def assess(
    config: PrepareConfig,
    rules: Validate | None,
    root: str,
    splits: Sequence[Artifact],
    run_in: RunStageIn,
    trained: Mapping[str, TrainedScore] | None = None,
) -> Assessment:
    """The assessment of a run's splits, which is also written to ASSESSMENT.

    rules: that records are checked against, if they are not those with which the data set was made. root: the output.
    run_in: makes or finds the artifacts of a stage, and replaces what was made with other settings. trained: as of
    `read_trained`.
    """
    summary = assess_stages(config, rules, root, splits, run_in)
    sources = [one.source for one in config.inputs]
    uris = [one.uri for one in splits]
    data = "" if uris[0].startswith(f"{root}/") else uris[0] if len(uris) == 1 else uris[0].rpartition("/")[0]
    questions, by_source = config.duplicates.questions, (config.dedup or Dedup()).scope != "all"
    prepared = FixContext(
        root, sources, questions == "remove", data, questions == "list", by_source, bool(config.split.keep)
    )
    findings: Findings = json.loads(summary.table()["findings"][0].as_py())
    unchecked = rules.of_all_records(config.validation) if rules else ()
    found = assessment_of(findings, config.assess, config.gates, prepared, trained, unchecked)
    splits[0].store.write_bytes(paths.join(root, ASSESSMENT), json_bytes(found))
    return found


def assess_stages(
    config: PrepareConfig, rules: Validate | None, root: str, splits: Sequence[Artifact], run_in: RunStageIn
) -> Artifact:
    """Run the stages of an assessment. Returns the summary. The arguments are those of `assess`."""
    run = partial(run_in, folder=FOLDER)
    # The similarity of the settings, of all records with each other; the first record counts as the original.
    dedup = (config.dedup or Dedup()).model_copy(update={"scope": "all", "keeper": "position", "sources": ()})
    terms = load_terms(config.store, config.clean)
    embedding_run = EmbeddingRun.of(splits[0].store, root, config.name, [*config.embedding_models.values()])
    validator = None if rules is None else load_validator(splits[0].store, rules, embedding=embedding_run)
    memory = collect_memory(config.limits)
    facts = run(facts_stage(_settings(config, dedup, validator, terms), splits, memory))
    units = len(units_of(splits))
    inputs, groups = [as_input(Source(source=TOGETHER, path=root), Fields({}, "text"))], {}
    for of, folder in ((QUESTIONS, "questions"), (ANSWERS, "answers")):
        stage = group_stage(dedup, inputs, facts[of], facts[VERDICTS], units)
        groups[of] = run_in(stage, paths.join(FOLDER, folder))[GROUPS]
    rows = SplitRows.of(splits)
    of_train = rows.train - (facts[FACTS].manifest.rows - facts[QUESTIONS].manifest.rows)  # copies are all in train
    if of_train and rows.validation + rows.test:
        stage = group_stage(dedup, inputs, facts[QUESTIONS], facts[VERDICTS], units, known=of_train)
        groups[LEAKS] = run_in(stage, paths.join(FOLDER, "leaks"))[GROUPS]
    learned: dict[str, Artifact] = {}
    if embeddings := config.assess.embeddings:
        options = config.assess
        predictions = None if options.predictions_file else options.predictions
        of_texts = (config.records.shape, embeddings, options.examples, options.predicted)
        embed = EmbedSettings(splits[0].store, *of_texts, embedding_run, predictions)
        model = None if embeddings.model else run(fit_stage(embed, facts[SAMPLE]))[MODEL]
        vectors = run(embed_stage(embed, splits, model, embed_memory(memory)))[VECTORS]
        predicted = (options.predicted, options.label, options.predictions, options.predictions_file)
        learned = run(learn_stage(vectors, embeddings, *predicted))
    shares = {"source": {one.source: one.share for one in config.inputs if one.share}} | dict(config.assess.groups)
    settings = SummarySettings(config.assess, shares, rules is not None, bool(terms), rows)
    return run(summary_stage(settings, facts, groups, learned, units))[SUMMARY]


def check_models(config: PrepareConfig) -> None:
    """Check that the models and predictions of `assess` are there, and the models of text vectors, before records are
    read for hours.

    Raises:
        UserError: one is missing or damaged, or lacks the label.
    """
    store, options = config.store, config.assess
    if options.sentiment:
        check_sentiment(store, options.sentiment)
    if options.predictions_file:
        local_file(store, options.predictions_file, "assess.predictions")
    check_embedding_models(config.embedding_models, store)


def assess_memory(config: PrepareConfig, records: int) -> int:
    """Bytes of the largest unit that makes or uses vectors; 0 without vectors."""
    options = config.assess
    if options.embeddings is None:
        return 0
    learn = learn_memory(options.embeddings, records if options.predicted else 0)
    return max(fit_memory(options.embeddings), embed_memory(collect_memory(config.limits)), learn)


def read_assessment(store: Store, root: str) -> Assessment | None:
    """The assessment of a run, if it has one.

    Raises:
        DataError: it is damaged, or of another version.
    """
    return read_json(store, paths.join(root, ASSESSMENT), "the assessment of a run", kind=Assessment)


def _settings(config: PrepareConfig, dedup: Dedup, rules: Validator | None, terms: Mapping[str, str]) -> FactsSettings:
    options, allowed, split = config.assess, config.validation.allowed, config.split
    balanced = split.balance.by if split.balance else ()
    balance = (*split.stratify, *balanced, *allowed, *options.fields)
    named = ("source", "task_type", *BALANCED, *balance, *options.predicted, *options.groups)
    known = config.known | ({"complexity"} if config.curriculum else set())
    return FactsSettings(
        shape=config.records.shape,
        topics=options.topics,
        sample=max(options.sample, options.embeddings.sample if options.embeddings else 0),
        dedup=dedup,
        complete=tuple(dict.fromkeys((*config.metadata, *config.validation.require))),
        allowed=allowed,
        fields=tuple(name for name in dict.fromkeys(named) if name in known),
        kept=tuple(dict.fromkeys((*options.annotators, *((options.period,) if options.period else ())))),
        rules=rules,
        terms=terms,
        sentiment=options.sentiment,
        annotated="annotators" in config.known and not options.annotators,
    )
