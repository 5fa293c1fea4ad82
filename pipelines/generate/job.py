"""The main job of `raymill generate`: seeds to records, by a model.

    freeze   lists the input files and divides them into units       -> inputs.json, inputs.parquet
    ...      the stages of stages.py                                  -> quarantine, records, removed
    report   writes the report, then the run's manifest               -> report.json, report.html, manifest.json

Answers are in the answer store, `answers/`, as soon as they come. The same command continues a run that was stopped by
its budget, by an error or by a kill, and asks nothing again that has an answer; a run with a changed template asks only
what it changed.
"""

import hashlib
import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.asking.answers import Answers, run_name
from raymill.cluster.asking.backends import Backends, located
from raymill.cluster.asking.compaction import compact
from raymill.cluster.asking.embedding_model import DECISIVE, EmbeddingModel
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.asking.vllm_server import vllm_program
from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.examples.content import columns_in_use
from raymill.cluster.formats import count, money, plural
from raymill.cluster.frame.files import FilesJob
from raymill.cluster.frame.job import Made, Making, Run, digests_of
from raymill.cluster.output_folder import refuse_output_among_inputs
from raymill.cluster.readers.inputs import STORES
from raymill.cluster.readers.listing import InputListing, list_inputs
from raymill.cluster.readers.quarantine import loss_warnings, quarantine_entries, readable_documents, refuse_too_many
from raymill.cluster.readers.reader import PROBLEMS
from raymill.cluster.report.sections import Tile
from raymill.cluster.secret_values import shortened
from raymill.cluster.session import Session
from raymill.cluster.stage import RunStageIn
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.agreement import Cells, agreement, agreement_text
from raymill.pipelines.embedder import check_models, require_models
from raymill.pipelines.generate.choose import CHOICES
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.draw import Choices, load_choices
from raymill.pipelines.generate.parse import meaning
from raymill.pipelines.generate.rows import Asker
from raymill.pipelines.generate.stages import (
    QUARANTINE,
    RECORDS,
    REMOVED,
    REWARD,
    CommonFacts,
    GenerateSettings,
    run_stages,
)
from raymill.pipelines.generate.template import (
    RecordTemplate,
    load_template,
    refuse_carried,
    refuse_names,
    refuse_variables,
    template_text,
)
from raymill.pipelines.prepare.records.validate import Validator, load_validator
from raymill.pipelines.prepare.stages.collect import rules_memory
from raymill.pipelines.rewards import RunReward

log = logging.getLogger(__name__)
_EXAMPLES, _EXCERPT = 3, 300  # records in the report, and characters shown of each of their fields

# `exclude` of pydantic's model_dump: the settings without effect on the records.
_NO_EFFECT_ON_RESULT = STORES | {
    "output": True,
    "answers": True,
    "budget": True,
    "execution": True,
    "model": True,
}


_PAGE_NOTES = {
    "examples": "Contents of the first records.",
    "outcomes": "Of tries. `answered`: an answer came; `again`: none came, so the request was sent again; "
    "`refused`: the server refused the request.",
    "tokens": "Counted by the server, or by the tokenizer of a model folder, of all calls with this name and output; "
    "`cached` are some of the input, `reasoning` some of the output.",
    "prices": "Money for a million tokens; `batch` is the fraction of them that a batch file costs.",
    "removed": "Rows of `removed/` by reason, with what was seen first.",
    "reward": "Means of all scored records, and of those that were kept. `model`: fingerprint of the reward model, or "
    "settings of another reward.",
    "agreement": "Of both orders, with 95% intervals. Kappa: 1 is full agreement, 0 is agreement by chance.",
}


def excerpt(value: Any) -> str:
    """The beginning of a value in one line, for the report; of other values than texts, their JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text[: 4 * _EXCERPT].split())[:_EXCERPT]


def removed_text(removed: Sequence[Mapping[str, Any]]) -> str:
    """What was removed by reason: `3 refused (the model refused; the first: I cannot help with that.)`."""
    found = []
    for one in removed:
        first = f"; the first: {shortened(one['first'], 100)}" if one["first"] else ""
        found.append(f"{count(one['count'])} {one['reason']} ({one['meaning']}{first})")
    return ", ".join(found)


def model_text(model: ModelSettings) -> str:
    """The model and what computes its answers, for a dry run."""
    return f"{model.name} at {model.endpoint}" if model.endpoint else f"{model.path}, computed by the run's own workers"


class GenerateRun(Run):
    """A finished generation."""

    @property
    def exit_code(self) -> int:
        return 0 if self.report["records"] else UserError.exit_code

    @property
    def summary(self) -> str:
        report = self.report
        tokens = report["tokens"]
        cost = f", cost {money(report['cost'])}" if report["prices"] else ""
        lines = [
            f"{plural(report['records'], 'record')} of {plural(report['requests'], 'request')} about "
            f"{plural(report['documents'], 'document')}",
            f"{count(report['tries'])} tries, {count(tokens['input'])} tokens in, {count(tokens['output'])} out{cost}",
        ]
        lines += [f"removed: {removed_text([one])}" for one in report["removed"]]
        if (found := report.get("reward")) and found["kept"]:
            kept, scored = plural(found["kept"], "record"), count(found["scored"])
            lines.append(f"mean reward {found['mean_kept']:.4g} of the {kept} chosen, {found['mean']:.4g} of {scored}")
        lines += map(agreement_text, report.get("agreement", ()))
        return "\n".join(lines)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Records, and what was removed by reason."""
        removed = [("removed", count(one["count"]), one["reason"]) for one in self.report["removed"]]
        return ("what", "number", "reason"), [("records", count(self.report["records"]), ""), *removed]


class GenerateJob(FilesJob[GenerateConfig]):
    """Records that a model makes of documents, records and topics.

    A second run continues where the first stopped, and asks nothing again that has an answer. Exits with 2 if no record
    is made. Report: OUTPUT/report.html
    """

    kind, run_type = "generate", GenerateRun
    page_notes = _PAGE_NOTES

    @cached_property
    def template(self) -> RecordTemplate:
        """The template, with the variables of `make` checked."""
        template = load_template(self.config.make.template, self.store)
        refuse_variables(template, self.config.make.variables, self.choices)
        return template

    @cached_property
    def choices(self) -> dict[str, Choices]:
        """What is drawn for each seed and sample."""
        return load_choices(self.config.draw, self.store)

    @cached_property
    def listing(self) -> InputListing:
        listing = list_inputs(self.store, self.config.inputs)
        refuse_output_among_inputs(self.root, listing)
        return listing

    @cached_property
    def answers(self) -> Answers:
        """The answer store. The run's tries have its name and a hash of its output."""
        return Answers(self.store, self.config.answer_store, run_name(self.config.name, self.root))

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(by_alias=True, exclude=_NO_EFFECT_ON_RESULT, context=DECISIVE))
        if self.validator is None:
            del plain["validate"]  # as in records of earlier versions
        else:
            plain["validate"]["json_schema"] = self.validator.schema
        if (reward := self.config.reward) is None:
            del plain["reward"]  # the same
        else:
            assert self.reward is not None
            plain["reward"] = reward.selection | {"revision": self.reward.identity}
        plain["model"] = self.model.decisive
        if not isinstance(self.config.make.template, str):
            del plain["make"]["template"]  # the same as the next one
        drawn = {name: one.plain for name, one in self.choices.items()}
        return plain | {"template": json.loads(template_text(self.template)), "draw": drawn}

    def variables(self) -> tuple[str, ...]:
        judge = self.config.reward and self.config.reward.judge
        asked = (self.config.model, *([judge.model] if judge else []), *self._embedding_models.values())
        return tuple(dict.fromkeys(one.key_env for one in asked if one.key_env))

    def must_exist(self) -> tuple[str, ...]:
        return self.config.validation.files if self.config.validation else ()

    @property
    def _embedding_models(self) -> dict[str, EmbeddingModel]:
        """Setting -> the model of text vectors that it names."""
        rules = self.config.validation
        return {f"validate.{name}": one for name, one in rules.embedding_models.items()} if rules else {}

    @cached_property
    def embedding_run(self) -> EmbeddingRun:
        """The endpoints for text vectors."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [*self._embedding_models.values()])

    @cached_property
    def validator(self) -> Validator | None:
        """The rules of `validate`. Opens the files that they name."""
        if (rules := self.config.validation) is None:
            return None
        return load_validator(self.store, rules, embedding=self.embedding_run)

    def _refuse_unknown_fields(self) -> None:
        """Verify that the rules name metadata that records have.

        Raises:
            ConfigError: they do not.
        """
        rules, made = self.config.validation, self.asker.template.metadata
        if rules is None:
            return
        known = {"source", "licence", "terms", "language", *made, *self.config.carry, *self.choices}
        named = {"require": rules.require, "allowed": rules.allowed, "since": rules.since, "until": rules.until}
        for setting, names in named.items():
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"validate.{setting}: records have no metadata {name}; they have {', '.join(sorted(known))}. "
                        "Carry a column of the seeds (`carry`), or leave it out."
                    )

    @cached_property
    def reward(self) -> RunReward | None:
        """What computes rewards; None: nothing."""
        given = self.config.reward
        return None if given is None else RunReward.of(self.store, self.root, self.config.name, given, "reward")

    def _refuse_unscored(self) -> None:
        """Verify that records can be scored.

        Raises:
            ConfigError: they have no answer, or a column with the name of the score.
        """
        shape = self.asker.shape
        if self.config.reward is None:
            return
        if shape not in ("pairs", "messages"):
            raise ConfigError(
                f"reward: scores the answer to a question, and records of shape {shape} have none. Take a template "
                "whose record has prompt and completion, or messages."
            )
        if REWARD in {*self.asker.template.record, *self.config.carry, *self.choices}:
            raise ConfigError("reward: records have a field `reward` already, the name of the score; rename that one.")

    @property
    def secret(self) -> str:
        """The endpoint's key; empty without one. Raises ConfigError: its environment variable is not set."""
        return self.config.model.secret("model")

    def check(self, session: Session, replace: bool) -> None:
        _ = self.frozen, self.asker, self.secret, self.validator
        self._refuse_unknown_fields()
        self._refuse_unscored()
        if self.reward is not None:
            self.reward.check()
        check_models(self._embedding_models, self.store)

    def require_extras(self, *, computes: bool = True) -> None:
        if self.config.model.path is not None:
            require_extra("train", "model.path")
        if computes and self.config.model.engine == "vllm":
            vllm_program("model.engine")
        if (reward := self.config.reward) and (reward.path or (reward.judge and reward.judge.model.path)):
            require_extra("train", "reward")
        if computes:
            require_models(self._embedding_models)

    @cached_property
    def model(self) -> ModelSettings:
        """The model, of a folder with its place, and the fingerprint of its files as its revision."""
        return located(self.store, self.config.model)

    @property
    def asker(self) -> Asker:
        """Makes the requests and the records."""
        config, template, model = self.config, self.template, self.model
        fields = {"text", "id", *(name for one in config.inputs for name in one.columns)}
        needed, choices = refuse_names(template, fields, self.choices), self.choices
        refuse_carried(template, config.carry, fields, choices)
        variables = template.variables | config.make.variables
        return Asker(template, variables, model, config.sampling, needed, choices, config.carry)

    @cached_property
    def _generating(self) -> GenerateSettings:
        config, template, model = self.config, self.template, self.model
        given = config.make.template
        name = given if isinstance(given, str) and "\n" not in given and "{{" not in given else "own"
        made = CommonFacts(
            self.config.model.name or str(self.config.model.path),
            model.revision,
            model.terms,
            model.licence,
            {one.source: one.licence for one in config.inputs},
            name.rpartition("/")[2].removesuffix(".yaml"),
            hashlib.sha256(template_text(template).encode()).hexdigest()[:16],
            config.sampling.model_dump_json(),
            config.languages,
        )
        # A throttle of its own for each call: one of an earlier call has another budget.
        throttle = f"raymill-asking-{self.answers.run}-{uuid.uuid4().hex[:8]}"
        backends = Backends(model, config.sampling, config.budget, self.answers, throttle, self.secret)
        return GenerateSettings(
            asker=self.asker,
            samples=config.samples,
            made=made,
            dedup=config.dedup,
            limits=config.limits,
            answers=self.answers,
            backends=backends,
            most_unanswered=config.execution.max_unanswered,
            made_from=fingerprint(
                [self.settings(), self.validator.depends_on()] if self.validator else self.settings()
            ),
            validator=self.validator,
            rules_memory=rules_memory(self.store, config.validation) if config.validation else 0,
            chosen=config.reward,
            reward=self.reward,
        )

    def stages(self, run: RunStageIn) -> dict[str, Artifact]:
        return run_stages(self._generating, self.frozen, run)

    def make(self, making: Making) -> Made:
        self.record_inputs()
        for note in self.frozen.notes:  # before anything is paid for
            log.warning("%s", note)
        artifacts = run_stages(self._generating, self.frozen, making.run, self._refuse_seeds)
        self.answers.close()
        compact(self.store, self.answers.uri)
        report = self._report(artifacts)
        if asked := self.embedding_run.close([*self._embedding_models.values()]):
            report["embeddings"] = asked
        digests = digests_of({name: artifacts[name] for name in (RECORDS, REMOVED, QUARANTINE)})
        return Made(report, digests, {"finished": report["finished"]})

    def _refuse_seeds(self, drafted: Mapping[str, Artifact]) -> None:
        """Verify that enough of the seeds can be read and asked about.

        Raises:
            DataError: too many cannot be read, or none makes a request.
        """
        quarantine, removed = drafted[QUARANTINE], drafted["_work/removed.draft"]
        good = readable_documents(quarantine)
        refuse_too_many(self.config.execution.max_bad_documents, good, quarantine, PROBLEMS, "document")
        if not quarantine.manifest.counters["requests"]:
            first = next((row for table in removed.tables() for row in table.to_pylist()), None)
            why = f": {meaning(first['reason'])} ({first['value']})" if first else ""
            seen = f"none of {plural(good, 'seed')} makes a request{why}" if good else "the inputs have no seed"
            raise DataError(f"inputs: {seen}. Nothing was asked.")

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        counters = Counter[str]()
        for name, artifact in artifacts.items():
            if name.startswith("_work/removed") or name == REMOVED:  # one artifact of each stage
                counters.update({key: int(one) for key, one in artifact.manifest.counters.items()})
        prices, spent = self.config.model.prices, self.answers.spending()
        removed = {
            key.removeprefix("removed/"): number for key, number in counters.items() if key.startswith("removed/")
        }
        seen = dict[str, str]()
        for table in artifacts[REMOVED].tables(["reason", "value"]):
            for row in table.filter(pc.is_valid(table["value"])).to_pylist():
                seen.setdefault(row["reason"], row["value"])
        warnings = [*self.frozen.notes, *loss_warnings(quarantine_entries(artifacts[QUARANTINE]))]
        if bad := counters["quarantined"]:
            warnings.append(f"{plural(bad, 'document')} could not be read; see `quarantine`.")
        return {
            "name": self.config.name,
            "documents": counters["documents"],
            "quarantined": counters["quarantined"],
            "requests": counters["asked"],
            "tries": spent.tries.total(),
            "outcomes": dict(sorted(spent.tries.items())),
            "tokens": vars(spent.tokens),
            "prices": prices and prices.model_dump(),
            "cost": round(spent.cost(prices), 9),
            "cost_uncounted": round(spent.cost_unknown(prices), 9),
            "records": artifacts[RECORDS].manifest.rows,
            "removed": [
                {"reason": reason, "count": number, "meaning": meaning(reason), "first": seen.get(reason)}
                for reason, number in sorted(removed.items(), key=lambda one: (-one[1], one[0]))
            ],
            "reward": self._rewarded(artifacts[CHOICES]) if CHOICES in artifacts else None,
            "agreement": self._agreement(artifacts[RECORDS]),
            "examples": self._examples(artifacts[RECORDS]),
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def page_facts(self, report: dict[str, Any]) -> dict[str, Any]:
        facts = report | {
            "records": Tile(report["records"], f"of shape {self.asker.shape}"),
            "cost": Tile(money(report["cost"]), "as the server counted tokens"),
            "cost_uncounted": Tile(money(report["cost_uncounted"]), "at most, of tries without a count of tokens"),
            "prices": {name: one for name, one in (report["prices"] or {}).items() if one is not None},
        }
        free = set() if report["prices"] else {"cost", "cost_uncounted"}
        absent = {name for name in ("prices", "reward", "agreement", "examples", "removed") if not facts.get(name)}
        order = dict.fromkeys(["examples", "removed"]) | facts
        return {name: facts[name] for name in order if name not in free | absent}

    def _examples(self, records: Artifact) -> list[dict[str, str]]:
        """The contents of the first records, as rows of a table for the report."""
        names = [name for name in columns_in_use(self.asker.shape, records.schema.names) if name != "system"]
        found: list[dict[str, str]] = []
        for table in records.tables(names):
            for row in table.slice(0, _EXAMPLES - len(found)).to_pylist():
                found.append({name: excerpt(one) for name, one in row.items()})
            if len(found) >= _EXAMPLES:
                break
        return found

    def _rewarded(self, chosen: Artifact) -> dict[str, Any]:
        """The mean score of all scored records, and of those that were kept, before duplicates were removed."""
        found = chosen.manifest.counters
        means = {name: found[f"{one}_sum"] / found[one] if found[one] else None
                 for name, one in (("mean", "scored"), ("mean_kept", "kept"))}  # fmt: skip
        assert self.reward is not None
        judged = {"judge": self.reward.judge.close()} if self.reward.judge else {}
        return {
            "model": self.reward.identity,
            **judged,
            **{one: int(found[one]) for one in ("scored", "kept")},
            **means,
        }

    def _agreement(self, records: Artifact) -> list[dict[str, Any]]:
        """The agreement of the fields that the template names."""
        if not (names := self.template.agreement):
            return []
        pairs = Counter[tuple[str, str]]()
        for table in records.tables(names):
            pairs.update(zip(*(table[name].to_pylist() for name in names), strict=True))
        values = sorted({value for pair in pairs for value in pair})
        place = {value: at for at, value in enumerate(values)}
        first, second = np.array([[place[one], place[other]] for one, other in pairs], np.int64).reshape(-1, 2).T
        counted = Cells.of(first, second, max(1, len(values)), np.array(list(pairs.values()), np.int64))
        return [agreement(" and ".join(names), counted, "nominal")]

    def machines(self, seconds: float | None) -> Machines:
        gpus = max(self.config.model.worker_gpus, self.reward.gpus if self.reward else 0)
        return Machines("gpu" if gpus else "cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, gpus=gpus, largest_task=2 * GIB)

    # Of a dry run

    def about(self) -> Iterator[tuple[str, str]]:
        template, model = self.template, self.config.model
        yield "template", f"{template.about or 'of the config'}; {plural(len(template.steps), 'request')} a record"
        yield "model", model_text(model)
        yield "records", f"of shape {template.shape}"
        if self.config.reward is not None:
            yield "reward", self.config.reward.words
