"""The main job of `raymill compare`: models on the same items of a data set.

    items             the items, the examples before each, and swapped prompts       -> items, examples, swapped
    ask.A             the answers of model A                                         -> answers_of.A
    likelihood.A      log-probabilities of references and answers, of model folders  -> likelihood_of.A
    kl.A              log-probabilities of A's answers by the model of `kl_from`     -> kl_of.A
    reward.NAME.A     rewards of A's answers                                         -> reward_of.NAME.A
    pairs.B, judges/B pairs of answers of A and B, and a run of `generate` on them   -> pairs_of.B
    texts, general.A  general texts, their log-probabilities by models and bases     -> general, general_of.A
    scores            measures of each answer, differences of A to each other model  -> scores
    report            the gate's decision, then the report                           -> decision.json, report.json

Answers are in the answer store as soon as they come, by the fingerprint of the model, the request and the sampling: the
same command continues a run that was stopped, and a run with another gate, judge or further model asks nothing again.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from raymill import cluster
from raymill.cluster.artifact import Artifact, fingerprint
from raymill.cluster.asking.backends import located
from raymill.cluster.asking.embeddings import EmbeddingRun
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.asking.vllm_server import vllm_program
from raymill.cluster.entry import Entry, require_extra
from raymill.cluster.errors import ConfigError, DataError, StorageError, UserError
from raymill.cluster.formats import plural
from raymill.cluster.frame.job import Made, Making, Run, RunJob, digests_of
from raymill.cluster.output import Output
from raymill.cluster.output_folder import refuse_output_in_folder
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import STORES, Input
from raymill.cluster.readers.units import InputManifest
from raymill.cluster.record import json_bytes
from raymill.cluster.report.page import page
from raymill.cluster.run import RunFolder
from raymill.cluster.secret_values import shortened
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.cluster.store import paths
from raymill.cluster.submit.work import GIB, Machines
from raymill.pipelines.compare.approaches import approach, stored_bytes, training_facts, training_root
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.forgetting import (
    DOCUMENTS,
    GENERAL,
    GENERAL_SCHEMA,
    MEASURED_SCHEMA,
    DrawTexts,
    MeasureTexts,
    base_named,
    base_of,
    is_classifier,
)
from raymill.pipelines.compare.gate import LEAST_GROUPS, decided
from raymill.pipelines.compare.page import sections
from raymill.pipelines.compare.recommend import recommended
from raymill.pipelines.compare.stages import (
    BASE_SCHEMA,
    LIKELIHOOD_SCHEMA,
    PAIRS_SCHEMA,
    REWARD_SCHEMA,
    MakePairs,
    MeasureLikelihood,
    RewardAnswers,
    load_model,
)
from raymill.pipelines.compare.swaps import WordSwaps, load_pairs
from raymill.pipelines.errors.runs import NO_SLICES, left_out_warning
from raymill.pipelines.generate.config import GenerateConfig, GenerateExecution, Make
from raymill.pipelines.generate.job import GenerateJob
from raymill.pipelines.generate.stages import RECORDS
from raymill.pipelines.prepare.records.fields import ANNOTATIONS
from raymill.pipelines.prompting.asking import MOST_RANGES, ask_variants, refuse_unusable, requests_of
from raymill.pipelines.prompting.compare import ranked_by
from raymill.pipelines.prompting.stages import ITEMS
from raymill.pipelines.prompting.variants import PromptVariant
from raymill.pipelines.rewards import RunReward

_analysis = Entry("raymill.pipelines.compare.analyse:analysis_stage")  # it loads scipy

log = logging.getLogger(__name__)

VERSION = "1"
_MOST_OTHERWISE = 0.05  # fraction of answers, without a warning
DECISION = "decision.json"
_NO_EFFECT_ON_RESULT = STORES | dict.fromkeys(("output", "answers", "budget", "execution", "models"), True)


class CompareRun(Run):
    """A finished comparison."""

    @property
    def exit_code(self) -> int:
        passed = not self.manifest["config"].get("gate") or self.report.get("passed") is True
        return 0 if passed else UserError.exit_code

    @property
    def outcome(self) -> dict[str, Any]:
        """`difference`, `low`, `high`, `p`, `items`, `verdict`, `needed` and `passed`, of all pairs in
        `comparisons`; `recommendation` and `approaches`."""
        found = [
            {"a": one["a"], "b": one["b"], "difference": row["difference"], "low": row["low"], "high": row["high"],
             "p": row["p_corrected"], "items": row["items"], "verdict": row["verdict"], "needed": row["needed"]}
            for one in self.report["comparisons"]
            for row in (one["measures"]["score"],)
        ]  # fmt: skip
        return found[0] | {
            "passed": self.report["passed"],
            "recommendation": self.report["recommendation"],
            "approaches": self.report["approaches"],
            "comparisons": found,
        }

    @property
    def summary(self) -> str:
        report = self.report
        lines = []
        for one in self.outcome["comparisons"]:
            more = ""
            if one["verdict"] == "undecided":
                more = ", no difference was seen"
                if one["needed"]:
                    more = f", about {plural(one['needed'], 'more item')} detect a difference of this size"
            lines.append(
                f"{one['a']} - {one['b']}: {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}), "
                f"p {one['p']:.2g}: {one['verdict']}{more}"
            )
        if report["decision"]:
            lines += [f"gate {row['state']}: {row['text']}" for row in report["gate"]]
            lines.append(f"decision: {report['decision']}")
        chosen = report["recommendation"]["model"]
        lines.append(f"recommended: {'none' if chosen is None else chosen}")
        lines += [f"  {one}" for one in report["recommendation"]["reasons"]]
        lines.append(f"{plural(report['items'], 'item')}, score {report['score']}")
        lines += [f"{letter}: {one['title']}" for letter, one in report["models"].items()]
        return "\n".join(lines)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The differences of the score."""
        rows = [
            (f"{one['a']} - {one['b']}", f"{one['difference']:+.4f}", f"{one['low']:+.4f} to {one['high']:+.4f}",
             f"{one['p']:.2g}", one["verdict"])
            for one in self.outcome["comparisons"]
        ]  # fmt: skip
        return ("models", "difference", "95%", "p", "better"), rows

    @property
    def _results(self) -> dict[str, str]:
        return super()._results | {"decision": paths.join(self.uri, DECISION)}


class CompareJob(RunJob[CompareConfig]):
    """Compare models on the same items of a data set, and decide whether the first is better.

    A second run continues where the first stopped, and asks nothing again that has an answer. Report:
    OUTPUT/report.html
    """

    kind, run_type = "compare", CompareRun

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """Letter -> the model; a folder has its location, and the fingerprint of its files as its revision."""
        return {letter: located(self.store, one) for letter, one in self.config.letters.items()}

    @cached_property
    def variants(self) -> list[PromptVariant]:
        """A variant for each model."""
        return [
            PromptVariant(letter, letter, one.examples, one.by if one.examples else "")
            for letter, one in self.config.letters.items()
        ]

    @cached_property
    def swap(self) -> WordSwaps | None:
        """The exchange of words; None without `swaps`."""
        swaps = self.config.swaps
        return WordSwaps(load_pairs(self.store, swaps)) if swaps else None

    @property
    def embedding_run(self) -> EmbeddingRun:
        """A run without embedding models: examples are chosen by TF-IDF."""
        return EmbeddingRun.of(self.store, self.root, self.config.name, [])

    def judge_of(self, letter: str) -> GenerateJob:
        """The job that judges the answers of the first model and this one."""
        config, judge = self.config, self.config.judge
        assert judge is not None
        pairs = Input(
            source="pairs", path=paths.join(self.root, f"pairs_of.{letter}"), id="id", columns=("a", "b"),
            storage=config.storage,
        )  # fmt: skip
        return GenerateJob(
            GenerateConfig(
                kind="generate",
                name=f"{config.name}-judge-{letter}"[:100],
                inputs=(pairs,),
                model=judge.model,
                make=Make.model_validate({"template": "compare", "criterion": judge.criterion}),
                sampling=judge.sampling,
                dedup=None,
                answers=config.prompting.answers,
                output=paths.join(self.root, "judges", letter),
                execution=GenerateExecution.model_validate(config.execution.model_dump()),
                storage=config.storage,
            )
        )

    def settings(self) -> dict[str, Any]:
        plain = json.loads(self.config.model_dump_json(exclude=_NO_EFFECT_ON_RESULT, exclude_none=True))
        if self.swap is not None:
            plain["swaps"] = [[*pair] for pair in self.swap.pairs]
        for name, reward in self.rewards.items():
            plain["rewards"][name] = reward.identity
        if not plain["rewards"]:
            del plain["rewards"]  # as in records of earlier versions
        if self.kl_model is not None:
            plain["kl_from"] = self.kl_model.revision
        return plain | {"models": [one.decisive for one in self.models.values()]}

    @cached_property
    def rewards(self) -> dict[str, RunReward]:
        """Name of the measure -> the reward."""
        return {
            name: RunReward.of(self.store, self.root, self.config.name, one, f"rewards.{name}")
            for name, one in self.config.rewards.items()
        }

    @cached_property
    def kl_model(self) -> ModelSettings | None:
        """The model of `kl_from`, located; None: there is none."""
        given = self.config.kl_from
        return None if given is None else located(self.store, ModelSettings(path=given))

    @cached_property
    def data_digest(self) -> str:
        """Fingerprint of the data set and the split."""
        data, split = self.config.data
        found = RunFolder(self.store, data).require("prepare", "Point `on` at the output of `raymill prepare`.")
        return fingerprint([found["digest"], split])

    @cached_property
    def roots(self) -> dict[str, str | None]:
        """Letter -> output of the training that made the model; None without one, and if other trainings started there.

        Raises:
            DataError: the manifest of a training is damaged.
        """
        found = {letter: training_root(self.store, one) for letter, one in self.config.letters.items()}
        bases = set[str]()
        for letter, root in found.items():
            if root is not None:
                with suppress(DataError):  # `bases` names it
                    base = base_named(self.store, root)
                    if base is not None and base[0] != self.models[letter].path:
                        bases.add(base[0])
        return {letter: None if self.models[letter].path in bases else root for letter, root in found.items()}

    @cached_property
    def general_texts(self) -> InputManifest:
        """The files of `general`."""
        assert self.config.general is not None
        given = self.config.general
        return freeze(self.store, [Input(source=GENERAL, path=given.path, text=given.text)])

    @cached_property
    def bases(self) -> tuple[dict[str, ModelSettings], dict[str, str]]:
        """(letter of a trained model -> the base that its forgetting is measured from, located; letter of a trained
        model whose base is not known or cannot be read -> why, a sentence)."""
        found, unknown = dict[str, ModelSettings](), dict[str, str]()
        given = self.config.general
        for letter, model in self.models.items():
            if given is None or model.path is None or is_classifier(self.store, model):
                continue
            base, root = None, self.roots[letter]
            try:
                if given.base is not None:
                    base = located(self.store, model.model_copy(update={"path": given.base}))
                elif root is not None:
                    base = base_of(self.store, root, model)
                    if base is None:
                        unknown[letter] = "Its training states random weights as its base. State `general.base`."
            except (DataError, StorageError) as error:
                if given.base is not None:
                    raise
                unknown[letter] = shortened(str(error), 300)
            if base is not None and base.revision != model.revision:
                found[letter] = base
        return found, unknown

    def inputs(self) -> str | None:
        if self.config.general is None:
            return self.data_digest
        bases = {letter: one.revision for letter, one in self.bases[0].items()}
        return fingerprint([self.data_digest, self.general_texts.fingerprint, bases])

    def input_changes(self) -> str:
        also = ", or its general text or a base changed" if self.config.general else ""
        return f"the data set {self.config.on} was made again{also}"

    def variables(self) -> tuple[str, ...]:
        judges = [one for one in (self.config.judge, *(each.judge for each in self.config.rewards.values())) if one]
        asked = (*self.config.models, *(one.model for one in judges))
        return tuple(dict.fromkeys(one.key_env for one in asked if one.key_env))

    def require_extras(self, *, computes: bool = True) -> None:
        require_extra("train", "raymill compare")
        if computes and any(one.engine == "vllm" for one in self.config.models):
            vllm_program("models.engine")

    def check(self, session: Session, replace: bool) -> None:
        self.check_config()
        for letter, model in self.config.letters.items():
            model.secret(f"models.{letter}")
        if self.config.judge:
            self.config.judge.model.secret("judge.model")
        for reward in self.rewards.values():
            reward.check()

    def check_config(self) -> None:
        """Verify the models, the data set and the output.

        Raises:
            UserError: one cannot be used.
        """
        _ = self.inputs(), self.swap
        if self.config.general is not None:
            path = self.config.general.path
            refuse_output_in_folder("output", self.root, "general.path", path, ("general/part.parquet",), self.kind)
        first, *others = self.models.items()
        for letter, model in others:
            if model.decisive == first[1].decisive:
                log.warning("models: %s is the same model as %s, with the same prompt", letter, first[0])
        self._refuse_unknown_fields()
        refuse_unusable(self.config.prompting, self.root, self.variants, "on", self.kind)

    def _refuse_unknown_fields(self) -> None:
        """Check that the items have the fields of `group` and `gaps`. Without them, intervals would be too narrow."""
        data, split = self.config.data
        schema = Artifact.load(self.store, paths.join(data, split)).schema
        metadata = schema.field("metadata").type if schema.names.count("metadata") == 1 else pa.struct([])
        names = [field.name for field in metadata] if pa.types.is_struct(metadata) else None
        if names is None or len(names) != len({*names}):
            raise DataError(f"on: {data}: its column metadata is none that `raymill prepare` writes. Prepare it again.")
        known = {*ANNOTATIONS, *names} - NO_SLICES
        wanted = {"group": self.config.group, **{f"gaps.{at}": one for at, one in enumerate(self.config.gaps)}}
        for setting, name in wanted.items():
            if name is not None and name not in known:
                raise ConfigError(
                    f"{setting}: the items have no field {name}. Their fields are {', '.join(sorted(known)) or 'none'}."
                )

    def make(self, making: Making) -> Made:
        config, prompting = self.config, self.config.prompting
        asked = {
            "models": [one.decisive for one in self.models.values()],
            **config.model_dump(mode="json", include={"items", "sampling"}),
        }
        if self.swap is not None:
            asked["swaps"] = self.swap.pairs
        made_from = fingerprint([VERSION, asked, self.data_digest])
        artifacts = ask_variants(
            prompting, self.root, self.models, self.variants, self.embedding_run, made_from, making, seconds_apart=True,
            swap=self.swap,
        )  # fmt: skip
        for letter, model in self.models.items():
            if config.likelihood and model.path is not None:
                artifacts |= making.run(self._likelihood(f"likelihood.{letter}", letter, model, artifacts))
                if self.kl_model is not None and self.kl_model.revision != model.revision:
                    base = self.kl_model.model_copy(update={"gpus": model.worker_gpus})
                    artifacts |= making.run(self._likelihood(f"kl.{letter}", letter, base, artifacts))
            for name in self.rewards:
                artifacts |= making.run(self._reward(name, letter, artifacts))
        judged = {}
        if config.judge:
            for letter in [*self.models][1:]:
                artifacts |= making.run(self._pairs(letter, artifacts))
                if artifacts[f"pairs_of.{letter}"].rows:
                    # Changed answers replace the records of the judge; its answers stay in the store.
                    made = self.judge_of(letter).run(making.session, making.progress, replace=True)
                    judged[letter] = made.artifact(RECORDS)
        general = self._measure_forgetting(making, artifacts) if config.general else {}
        artifacts |= making.run(_analysis(config, artifacts, [*self.models], judged, general, self.swap))
        report = self._report(artifacts)
        if judges := [one.judge.close() for one in self.rewards.values() if one.judge]:
            report["judges_of_rewards"] = judges
        decision = {
            "decision": report["decision"],
            "passed": report["passed"],
            "gate": report["gate"],
            "models": {letter: one["revision"] for letter, one in report["models"].items()},
            "data": {"on": config.on, "digest": self.data_digest, "items": report["items"]},
            "finished": report["finished"],
        }
        self.store.write_bytes(paths.join(self.root, DECISION), json_bytes(decision))
        results = {name: one for name, one in artifacts.items() if not name.startswith("_")}
        told = {"verdict": report["comparisons"][0]["measures"]["score"]["verdict"]}
        return Made(report, digests_of(results), {"finished": report["finished"], "told": told})

    def _likelihood(self, name: str, letter: str, model: ModelSettings, artifacts: Mapping[str, Artifact]) -> Stage:
        """The stage `likelihood.LETTER` or `kl.LETTER`, whose log-probabilities are by `model`."""
        requests, answers, items = artifacts[requests_of(letter)], artifacts[f"answers_of.{letter}"], artifacts[ITEMS]
        output = Output(name.replace(".", "_of.", 1), BASE_SCHEMA if name.startswith("kl.") else LIKELIHOOD_SCHEMA)
        work = MeasureLikelihood(
            output.name, output.schema, self.store, tuple(requests.file_uris), tuple(items.file_uris)
        )
        return Stage(
            name,
            (output,),
            [(number, files) for number, files in enumerate(_files_of_ranges(answers)) if files],
            work,
            fingerprint([VERSION, model.decisive, items.manifest.digest, answers.manifest.digest]),
            self.store,
            memory=2 * GIB,
            setup=partial(load_model, self.store, model.path),
            gpus=model.worker_gpus,
        )

    def _reward(self, name: str, letter: str, artifacts: Mapping[str, Artifact]) -> Stage:
        """The stage `reward.NAME.LETTER`."""
        answers, items, reward = artifacts[f"answers_of.{letter}"], artifacts[ITEMS], self.rewards[name]
        output = Output(f"reward_of.{name}.{letter}", REWARD_SCHEMA)
        return Stage(
            f"reward.{name}.{letter}",
            (output,),
            [files for files in _files_of_ranges(answers) if files],
            RewardAnswers(output.name, self.store, tuple(items.file_uris)),
            fingerprint([VERSION, reward.identity, items.manifest.digest, answers.manifest.digest]),
            self.store,
            memory=2 * GIB,
            setup=reward.setup,
            gpus=reward.gpus,
        )

    def _measure_forgetting(self, making: Making, artifacts: dict[str, Artifact]) -> dict[str, tuple[str, str]]:
        """Letter of a trained model -> artifacts with the log-probabilities by it and by its base; adds artifacts."""
        given = self.config.general
        assert given is not None
        draw = DrawTexts(given, self.general_texts)
        decisive = given.model_dump(include={"text", "documents", "characters"})
        made_from = fingerprint([VERSION, decisive, self.general_texts.fingerprint])
        output = Output(GENERAL, GENERAL_SCHEMA)
        artifacts |= making.run(Stage("texts", (output,), (0,), draw, made_from, self.store, memory=2 * GIB))
        texts, named = artifacts[GENERAL], dict[str, str]()  # revision -> artifact
        for letter, base in self.bases[0].items():
            for name, model in ((letter, self.models[letter]), (f"{letter}-base", base)):
                if model.revision in named:
                    continue
                named[model.revision] = f"general_of.{name}"
                stage = Stage(
                    f"general.{name}",
                    (Output(named[model.revision], MEASURED_SCHEMA),),
                    range(math.ceil(texts.rows / DOCUMENTS)),
                    MeasureTexts(name, self.store, tuple(texts.file_uris)),
                    fingerprint([VERSION, model.revision, texts.manifest.digest]),
                    self.store,
                    memory=2 * GIB,
                    setup=partial(load_model, self.store, model.path),
                    gpus=model.worker_gpus,
                )
                artifacts |= making.run(stage)
        return {letter: (named[self.models[letter].revision], named[base.revision])
                for letter, base in self.bases[0].items()}  # fmt: skip

    def _pairs(self, letter: str, artifacts: Mapping[str, Artifact]) -> Stage:
        used = [artifacts[name] for name in (ITEMS, "answers_of.A", f"answers_of.{letter}")]
        work = MakePairs(letter, self.store, *(tuple(one.file_uris) for one in used))
        made_from = fingerprint([VERSION, *(one.manifest.digest for one in used)])
        return Stage(
            f"pairs.{letter}", (Output(f"pairs_of.{letter}", PAIRS_SCHEMA),), (0,), work, made_from, self.store,
            small=True,
        )  # fmt: skip

    def _report(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        config, items = self.config, artifacts[ITEMS].rows
        (row,) = artifacts["_work/facts"].table().to_pylist()
        facts = json.loads(row["facts"])
        models, rows, warnings = {}, [], []
        for letter, one in config.letters.items():
            found, training, root = facts["models"][letter], None, self.roots[letter]
            size = stored_bytes(self.store, self.models[letter], root)
            try:
                training = training_facts(self.store, root) if root is not None else None
            except DataError as error:
                warnings.append(f"{letter}: the cost of its training is left out. {shortened(str(error), 300)}")
            row = approach(letter, one, found, training, root is not None, size, config.hour_prices)
            forgot = facts["forgetting"].get(letter)
            unknown = self.bases[1].get(letter)
            if letter in facts["forgetting"] and forgot is None:
                unknown = (
                    "Some texts of `general` have a value for it or its base only, or for neither, for example because "
                    "its tokenizer loses a part of the text."
                )
            if unknown is not None:
                warnings.append(f"{letter}: forgetting is not known. {unknown}")
            rows.append(row | {"forgetting": forgot, "forgetting_unknown": unknown})
            models[letter] = {
                "title": one.title,
                "at": one.endpoint or one.path,
                "revision": self.models[letter].revision,
                "training": training,
                **{name: value for name, value in found.items() if name not in ("first_reason", "beyond")},
            }
            if (without := items - found["answered"]) > 0:
                first = shortened((found["first_reason"] or "the answer has no text").rstrip("."), 200)
                warnings.append(
                    f"{letter}: {plural(without, 'item')} without an answer, with the score 0; the first: {first!r}."
                )
            swapped = found["swaps"]["beyond"] if found["swaps"] else {}
            beyond = [f"{name} {count:,}" for name, count in found["beyond"].items()]
            beyond += [f"{name} of swapped prompts {count:,}" for name, count in swapped.items()]
            if beyond:
                warnings.append(
                    f"{letter}: values above 1e100 count as 1e100, so models that have them may count as equal: "
                    f"{', '.join(beyond)}."
                )
            kl = found["kl"]
            if f"kl_of.{letter}" in artifacts and kl is None:
                warnings.append(
                    f"{letter}: its divergence from `kl_from` is not measured; no answer has tokens, or the tokenizers "
                    "differ."
                )
            elif kl is not None and kl["tokenised_otherwise"] > _MOST_OTHERWISE * kl["answers"]:
                warnings.append(
                    f"{letter}: {kl['tokenised_otherwise']:,} of {plural(kl['answers'], 'answer')} have other tokens "
                    "when their text is tokenised than the model wrote, so its divergence may be wrong."
                )
            if found["uncounted"]:
                warnings.append(
                    f"{letter}: {plural(found['uncounted'], 'answer')} without the numbers of tokens, which the server "
                    "does not state. These items are left out where its output tokens and cost are compared."
                )
            if found["truncated"] > items / 10:
                warnings.append(
                    f"{letter}: {plural(found['truncated'], 'answer')} truncated at `sampling.max_tokens`. Raise it."
                )
        for one in facts["comparisons"]:
            partly = [f"{name} {row['one_sided']:,}" for name, row in one["measures"].items() if row["one_sided"]]
            if partly:
                warnings.append(
                    f"{one['a']} and {one['b']}: items with a value for one model only are left out, and bounds of the "
                    f"gate on these measures are not met: {', '.join(partly)}."
                )
            if one["judge"] is not None and (unread := one["judge"]["unread"]):
                warnings.append(
                    f"{one['a']} and {one['b']}: the judge gave {plural(unread, 'pair')} no readable verdict. They "
                    "count as ties, and interval, p and gate hold whoever would have won them."
                )
        groups = facts["comparisons"][0]["equal_groups"]
        if groups is not None and groups < LEAST_GROUPS:
            warnings.append(
                f"The items are in {plural(facts['groups'], 'group')}, as good as {groups:.2g} of equal size, so no "
                f"interval is known and no bound of the gate is met: {LEAST_GROUPS} are needed. Look at `group`."
            )
        warnings += left_out_warning(facts["comparisons"][0]["fields_left_out"])
        if all(one["measures"]["score"]["value"] == 0 for one in models.values()):
            warnings.append(
                "No model has a correct answer. State in `prompt` what an answer looks like, or choose another "
                "`answer`."
            )
        if any(one["swaps"] and not one["swaps"]["items"] for one in models.values()):
            warnings.append("No item has a word of `swaps`, so nothing was swapped.")
        gate = decided(config.gate, facts["comparisons"])
        return {
            "name": config.name,
            "on": config.on,
            "items": items,
            "groups": facts["groups"],
            "score": ranked_by(config.answer),
            "recommendation": recommended(
                rows, facts["standing"], config.general.most_loss if config.general else None
            ),
            "approaches": rows,
            "models": models,
            "comparisons": facts["comparisons"],
            **gate,
            "warnings": warnings,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def page(self, made: Made) -> str:
        config = self.config.model_dump(mode="json", by_alias=True, exclude=STORES)
        shown = sections(made.report, config)
        return page(
            "Report of compare", self.config.name, made.report["finished"], cluster.__version__, self.root, shown
        )

    def unit_count(self) -> int:
        found = self.config.general
        of_texts = 0 if found is None else 1 + 2 * math.ceil(found.documents / DOCUMENTS)
        stages = 2 + len(self.config.rewards) + (self.config.kl_from is not None)
        return 2 + (stages * (MOST_RANGES + 1) + of_texts) * len(self.config.models)

    def machines(self, seconds: float | None) -> Machines:
        gpus = max(*(one.worker_gpus for one in self.config.models), *(one.gpus for one in self.rewards.values()))
        return Machines("gpu" if gpus else "cpu", cpus=2, memory=8 * GIB, disk=8 * GIB, gpus=gpus, largest_task=2 * GIB)


def _files_of_ranges(answers: Artifact) -> list[list[str]]:
    """The files with answers to each range of requests."""
    return answers.files_by_unit(1 + max((file.unit for file in answers.manifest.files), default=0))
