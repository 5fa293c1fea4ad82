"""The numbers that settings may have: a bound that a change drops or moves is seen here.

A new number in a config needs a place in RANGES.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.training.config import TrainConfig

# The settings of each range, of all kinds of configs. Those of `any` are checked by validators.
RANGES = {
    "above 0": (
        "ModelSettings.requests_per_minute JudgeReward.budget ModelSettings.tokens_per_minute "
        "ModelSettings.give_up_s Dpo.beta Grpo.clip_high Ipo.beta Kto.beta Kto.desirable_weight "
        "Kto.undesirable_weight Lora.loraplus_ratio "
        "Orpo.beta Simpo.beta TrainConfig.neftune_alpha Api.max_gib Checkpointing.every_minutes "
        "ColumnOutliers.factor "
        "Corpus.epochs Corpus.weight Database.max_gib EmbeddingModel.budget EmbeddingModel.give_up_s "
        "EmbeddingModel.requests_per_minute EmbeddingModel.tokens_per_minute Failures.loss_limit Input.weight "
        "Limits.max_expanded_gib Lora.alpha Optimizer.clip Optimizer.epsilon Optimizer.learning_rate "
        "Outliers.deviations Pages.max_gib TrainConfig.device_memory_gib TrainConfig.epochs Workers.cpus_each "
        "Workers.step_timeout_s Workers.timeout_s"
    ),
    "above 0 to 1": (
        "Sampling.top_p Optimizer.layer_decay Augment.max_similarity Drop.words Ocr.words Spelling.words "
        "Swap.words Synonyms.words "
        "Typos.words AnswerRelevance.min_cosine Dedup.threshold ReportOptions.warn_source_loss Source.share "
        "Split.train Validate.answer_in_question Validate.relevance Validate.same_language"
    ),
    "above 0 below 1": "Grpo.clip Grpo.vllm_memory Optimizer.ema_decay Optimizer.warmup_fraction Augment.to",
    "above 0 to 1000": "Api.requests_per_s",
    "above 0 to 1024": "Api.max_mib Pages.max_mib",
    "above 0 to 3600": "Grpo.reward_s Api.timeout_s Pages.timeout_s",
    "above 0 to 86400": (
        "ModelSettings.timeout_s Database.timeout_s EmbeddingModel.timeout_s Limits.document_s "
        "StorageOptions.retry_deadline_s "
        "StorageOptions.timeout_s"
    ),
    "above 1": "Limits.max_expansion_ratio",
    "any": (
        "Fill.fill Optimizer.betas RewardUse.weight Rules.by_language RulesOfRecords.by_language "
        "Validate.answer_chars Validate.question_chars Validate.text_chars"
    ),
    "from 0 below 0.5": "Dpo.label_smoothing",
    "from -1": "Failures.max_preemptions",
    "from 0": (
        "LengthReward.soft TokenPrices.reasoning TokenPrices.input TokenPrices.output TokenPrices.cached "
        "Dpo.sft Grpo.kl Ipo.sft Optimizer.restarts Reward.centring Simpo.gamma Simpo.sft BadWords.max_count "
        "Balance.to Boilerplate.min_words_left C4.min_sentences C4.min_words_per_line "
        "ComplexityWeights.answer_length "
        "ComplexityWeights.domain ComplexityWeights.question_length ComplexityWeights.rarity "
        "ComplexityWeights.reasoning EmbeddingModel.price Evaluate.least_gain Failures.max Failures.skip_back "
        "JudgeScore.min_score LineEdits.min_words FineWeb.max_list_ratio FineWeb.short_line_characters "
        "GopherQuality.max_ellipses_per_word GopherQuality.max_hashes_per_word GopherQuality.max_mean_word_length "
        "GopherQuality.max_words GopherQuality.min_mean_word_length GopherQuality.min_words "
        "GopherRepetition.max_dup_line_char_frac GopherRepetition.max_dup_line_frac "
        "GopherRepetition.max_dup_para_char_frac GopherRepetition.max_dup_para_frac "
        "GopherRepetition.max_duplicated_10_n_grams GopherRepetition.max_duplicated_5_n_grams "
        "GopherRepetition.max_duplicated_6_n_grams GopherRepetition.max_duplicated_7_n_grams "
        "GopherRepetition.max_duplicated_8_n_grams GopherRepetition.max_duplicated_9_n_grams "
        "GopherRepetition.max_top_2_gram GopherRepetition.max_top_3_gram GopherRepetition.max_top_4_gram "
        "Optimizer.warmup_steps Optimizer.weight_decay Paging.first Repeats.min_words_left Split.fold "
        "UrlWords.max_soft Weights.accuracy Weights.bias Weights.completeness Weights.consistency Weights.diversity "
        "Weights.relevance"
    ),
    "from 0 below 1": (
        "Decontamination.max_fraction LineEdits.max_removed_fraction Lora.dropout Split.test Split.validation"
    ),
    "from 0 below 4294967296": "Augment.seed Dedup.seed Split.seed TrainConfig.seed",
    "from 0 to 1": (
        "TokenPrices.batch LanguageReward.min_score TrainConfig.prompt_loss_weight Augment.min_similarity "
        "Synthetic.test Synthetic.train Synthetic.validation "
        "Assess.groups FilesExecution.max_bad_documents FilesExecution.max_bad_files FineWeb.max_char_dup_ratio "
        "FineWeb.max_short_line_ratio FineWeb.min_line_punct_ratio Gates.accuracy Gates.answer_relevance Gates.bias "
        "Gates.completeness Gates.consistency Gates.coverage Gates.diversity Gates.duplication Gates.extrinsic_f1 "
        "Gates.language_quality Gates.leakage Gates.relevance Gates.score Gates.source_diversity Gates.trained "
        "GopherQuality.max_bullet_line_fraction GopherQuality.max_ellipsis_line_fraction "
        "GopherQuality.min_alpha_word_fraction InappropriateContent.max_score LanguageId.min_score "
        "LanguageId.min_scores LineEdits.max_uppercase_fraction Optimizer.final_fraction EarlyLanguage.max_score "
        "QualityClassifier.min_score QualityPercentile.min_percentile Workers.gpus_each"
    ),
    "from 0 to 100": "DocumentCopies.sources DocumentCopies.table ReportOptions.groups",
    "from 0 to 1000": "FilesExecution.losses PackExecution.losses StorageOptions.retries",
    "from 0 to 20": "Sampling.logprobs ReportOptions.samples",
    "from 0 to 3600": "Pages.delay_s",
    "from 0 to 50": "Api.max_redirects Pages.max_redirects",
    "from 0 to 8": "GopherQuality.min_stop_words",
    "from 0 to 86400": "Api.longest_wait_s Pages.longest_wait_s",
    "from 1": (
        "LengthReward.max Evaluate.tokens Grpo.max_new_tokens Assess.topic_records Augment.to Balance.to "
        "Boilerplate.max_documents "
        "Boilerplate.min_words C4.max_word_length Checkpointing.every_steps Checkpointing.keep Corpus.tokens "
        "Dedup.component_documents Dedup.connected_at_once Elastic.max Elastic.min Evaluate.every_steps "
        "Evaluate.patience Evaluate.rows Evaluate.test_tokens Grpo.updates PackExecution.unit_mib "
        "Generate.max_new_tokens Generate.prompt_tokens Generate.prompts Lora.rank Mixture.records "
        "Optimizer.decay_steps Paging.size Records.section_chars TrainConfig.loss_chunk_tokens "
        "TrainConfig.micro_batch TrainConfig.steps TrainConfig.tokens Virtual.tokens Workers.context Workers.count"
    ),
    "from 1 to 100000": "ModelSettings.concurrency EmbeddingModel.concurrency",
    "from 1 to 100": (
        "ModelSettings.tries Augment.most_variants Augment.variants Api.attempts EmbeddingModel.tries "
        "FilesExecution.attempts "
        "PackExecution.attempts Pages.attempts"
    ),
    "from 1 to 1000": "Balance.most_copies",
    "from 1 to 10000": "Assess.sample",
    "from 1 to 1024": "FilesExecution.cpus PackExecution.cpus",
    "from 1 to 1048576": "Limits.max_block_mib",
    "from 1 to 2000000000": "Limits.max_document_bytes",
    "from 1 to 4096": "Dedup.bands Dedup.rows_per_band FilesExecution.unit_mib",
    "from 1 to 604800": "FilesExecution.stall_s PackExecution.stall_s",
    "from 1 to 64": "Dedup.ngram_words",
    "from 1 to 65536": "CorpusFiles.file_mib",
    "from 10 to 10000": "Repeats.min_words",
    "from 100 to 50000": "AnswerRelevance.sample Embeddings.sample",
    "from 2": "Grpo.samples TrainConfig.sequence_length TrainConfig.tokens_per_step",
    "from 2 to 100": "Curriculum.stages Split.folds",
    "from 2 to 1000": "Embeddings.groups",
    "from 2 to 4096": "Dedup.permutations",
    "from 2 to 512": "AnswerRelevance.dimensions Embeddings.dimensions",
    "from 20 to 100000": "EarlyLanguage.max_chars LanguageId.max_chars",
    "from 20 to 10000000": (
        "InappropriateContent.max_chars QualityClassifier.max_chars RankedClassifier.max_chars Sentiment.max_chars"
    ),
    "from 5 to 100": "Decontamination.ngram_words",
    "from 0 to 64": "ModelSettings.gpus",
    "from 0 to 10": "Sampling.temperature",
    "from 1 to 1000000": "Sampling.max_tokens",
    "from 0 below 2147483648": "Sampling.seed",
}


def ranges(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(range, MODEL.SETTING) of every number of a config, also in lists and as values of names."""
    schema = model.model_json_schema()
    for title, part in {model.__name__: schema, **schema["$defs"]}.items():
        for name, setting in part.get("properties", {}).items():
            for one in numbers(setting):
                yield words(one), f"{title.rpartition('__')[2]}.{name}"


def numbers(setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in (setting, *setting.get("anyOf", ())):
        if one.get("type") in ("integer", "number"):
            yield one
        inner = [one.get("additionalProperties"), one.get("items"), *one.get("prefixItems", ())]
        for part in filter(lambda part: isinstance(part, dict), inner):
            yield from numbers(part)


def words(number: dict[str, Any]) -> str:
    named = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join(f"{word} {number[key]}" for key, word in named.items() if key in number) or "any"


def test_every_number_of_a_config_has_its_range():
    found = defaultdict(set)
    for model in (CurateConfig, PrepareConfig, TrainConfig):
        for range, name in ranges(model):
            found[range].add(name)
    assert {range: " ".join(sorted(names)) for range, names in found.items()} == {
        range: " ".join(sorted(names.split())) for range, names in RANGES.items()
    }
