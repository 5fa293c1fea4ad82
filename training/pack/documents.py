"""Documents from rows: content, id, group, stratum and class. A row that is not a document is left out for a reason.

A document's id is the value of the id column, else the 128-bit hash of its content. Documents of one group are in the
same split; without a group column, documents of equal content are.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples import content as contents
from raymill.cluster.examples.content import REASONS, Preference, Unusable, as_dict, judgement
from raymill.cluster.examples.copies import MAX_COPIES
from raymill.cluster.examples.messages import (
    BadMessage,
    plain_message,
    standard_tools,
    with_standard_calls,
    without_nulls,
)
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.examples.rows import content_of
from raymill.cluster.examples.splits import SPLITS, hash64, split_name
from raymill.cluster.examples.terms import TERMS
from raymill.cluster.formats import plural
from raymill.cluster.readers.columns import value_in
from raymill.cluster.readers.formats import READERS, file_problem
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts, Row, Unreadable, as_json_text
from raymill.cluster.readers.streams import (
    PROBLEMS_OF_WHOLE_FILES,
)
from raymill.training.config_parts import ReadColumns
from raymill.training.data.packed import MAX_STAGE, MOST_MARGIN
from raymill.training.objectives import Records
from raymill.training.pack.corpus import LIMITS, CorpusReading, FrozenCorpus, SplitSpan, Unit
from raymill.training.pack.loss_keys import (
    BadWeight,
    count_unread,
    count_unread_columns,
    count_unread_of_messages,
    refuse_deciding_keys,
    without_ignored,
)

# Reading stops after this many rows if none of them is a document.
_HOPELESS_ROWS = 10_000
# Advice by reason.
_ADVICE = {
    "json_array": "JSON Lines have one object on each line: name the file .json, which may be one array, or "
    "convert it with `jq -c '.[]' FILE > FILE.jsonl`.",
    "not_an_object": 'Write each line or element as an object, such as {"text": "..."}.',
    "broken_json": "Write one whole JSON object on each line.",
    "not_compressed": "The file is not what its ending states: rename it.",
    "terms_forbidden": "`terms.forbid` names the terms of these records; make others, or allow these.",
    **dict.fromkeys(
        ("truncated", "corrupt_compression", "empty_members"), "The compressed data is damaged: write the file again."
    ),
    "large_block": "The window of the zstd file is too large to decompress it: compress it again without `--long`.",
    "bad_fold": "Prepare the data set with `split: {folds: 5}`, or name the column of the folds in columns.fold.",
    "bad_utf8": "Write the file as UTF-8; of UTF-16, for example, `iconv -f UTF-16 -t UTF-8 FILE` makes it.",
}
_THREADS = 16  # they wait for the store
_MOST_DIGITS = 18  # of a whole number as text, which Python takes time with the square of its digits to read
_LONGEST_LABEL = 1000  # characters
_CHECKED = ("open", "header")  # columns of formats whose files are checked
_PROBLEMS = (
    PROBLEMS
    | PROBLEMS_OF_WHOLE_FILES
    | {
        "corrupt_compression": "the compressed data is damaged; write the file again",
        "truncated": "the compressed data ends too early; write the file again",
        "expansion_bomb": f"it expands more than {LIMITS.max_expansion_ratio:,.0f} times; check what it holds",
        "large_block": f"its zstd window is over {LIMITS.max_block_mib} MiB; compress it again without `--long`",
    }
)
FIRST_LEFT_OUT = "first_left_out/"  # counters REASON/POSITION: the first row of a unit that is left out for a reason
# Keys of an assistant's message that are trained on besides its content.
REASONING = ("reasoning_content", "reasoning", "thinking")
OTHER_CONTENT = ("tool_calls", *REASONING)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its completion, with a system prompt if it is not empty.

    history: (prompt, answer) of the earlier turns.
    """

    prompt: str
    completion: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. messages: {role, content, ...} with other keys for the template. tools: for the template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class TwoAnswers:
    """A question with a better and a worse answer, as two conversations. margin: between their rewards; NaN: none."""

    chosen: Chat
    rejected: Chat
    margin: float = math.nan


Content = str | Pair | Chat | TwoAnswers


@dataclass(frozen=True, slots=True)
class Document:
    """A document. bytes: of its content in UTF-8. key: 64-bit hash that decides its split. label: its class.

    split: index in SPLITS, if a column decides it. fold: 0 or more. stage: of a curriculum, 0 to MAX_STAGE. copies: in
    an epoch, 0 to MAX_COPIES. desirable: whether its answer is, of labelled answers.
    """

    id: str
    content: Content
    bytes: int
    key: int
    stratum: str
    label: str | None
    split: int | None = None
    stage: int | None = None
    fold: int | None = None
    copies: float = 1.0
    desirable: bool | None = None


@dataclass
class LeftOut:
    """Rows that are not documents, and documents without an example.

    reasons: their number by reason. first: by reason, the position and content of the first. unread: of all rows, the
    number that has a column or a key of messages that is not read.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, reason: str, where: str, seen: str = "") -> None:
        """Count a row or document. where: its position, in words. seen: its content; the first one's is kept."""
        self.reasons[reason] += 1
        self.first.setdefault(reason, (where, seen))

    @property
    def counters(self) -> dict[str, float]:
        """The numbers by reason, and the position of the first of each reason, as counters of the stage."""
        counts: dict[str, float] = {f"left_out/{reason}": count for reason, count in self.reasons.items()}
        return counts | {f"{FIRST_LEFT_OUT}{reason}/{where}": 1 for reason, (where, _) in self.first.items()}


def documents_of(corpus: CorpusReading, unit: Unit, left_out: LeftOut) -> Iterator[Document]:
    """The documents of a unit, in order. Every other row is added to `left_out`.

    Raises:
        ConfigError: a column or a key of messages that is not read decides which answers are trained on; or a document
            has more copies than are followed without `columns.copies`.
        DataError: as of `CorpusReading.rows`.
    """
    columns, counts = corpus.columns, ReaderCounts()
    for span, row, where in corpus.rows(unit, counts):
        if isinstance(row, Unreadable):
            left_out.add(row, where)
            continue
        refuse_deciding_keys(row, columns, where)
        if span.format not in ("parquet", "hf"):  # those of Parquet are counted by its footers
            count_unread(left_out.unread, row, columns)
        try:
            if corpus.forbidden_terms and (terms := _terms(row)) in corpus.forbidden_terms:
                raise _Refused("terms_forbidden", terms)
            split = span.split if isinstance(span, SplitSpan) else None
            for document in _documents(row, columns, split, corpus.records):
                if document.copies > corpus.most_copies:
                    raise ConfigError(
                        f"column {columns.named['copies']} asks for {document.copies:g} copies of a document in an "
                        f"epoch; more than {corpus.most_copies} are made only if the config names the column. Set "
                        f"`copies: {columns.named['copies']}` in `columns`, or `ignore: [{columns.named['copies']}]` "
                        "for one copy of each."
                    )
                if isinstance(document.content, Chat):
                    count_unread_of_messages(left_out.unread, document.content.messages)
                yield document
        except _Refused as refused:
            left_out.add(refused.reason, where, refused.seen)
        except RecursionError as error:
            left_out.add("too_deep", where, str(error))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    count_unread_columns(left_out.unread, counts.unread, columns)


def all_documents(frozen: FrozenCorpus, left_out: LeftOut | None = None) -> Iterator[Document]:
    """The documents of a corpus, in order. Every other row is added to `left_out`.

    Raises:
        DataError: no row is a document; the message has the first rows.
    """
    left_out = LeftOut() if left_out is None else left_out
    usable = False
    for unit in frozen.units:
        for document in documents_of(frozen.reading, unit, left_out):
            usable = True
            yield document
        if not usable and left_out.reasons.total() >= _HOPELESS_ROWS:
            break
    if not usable:
        refuse_all(frozen.path, left_out)


def check_corpora(corpora: Mapping[str, FrozenCorpus]) -> None:
    """Check the first bytes of every file with records, and read each corpus up to its first document, without Ray.

    Raises:
        DataError: a file's content differs from its name, or a corpus has no document.
    """
    for corpus in corpora.values():
        reading, store = corpus.reading, corpus.reading.store
        spans = {span.uri: span for unit in corpus.units for span in unit if READERS[span.format].columns in _CHECKED}

        problem_of = partial(file_problem, store, limits=LIMITS, is_stated=reading.input.encoding is not None)
        with ThreadPoolExecutor(_THREADS) as pool:
            problems = zip(spans, pool.map(problem_of, spans.values()), strict=True)
            # JSON Lines that end too early have their last line left out, compressed or not.
            found = [
                f"{uri}: {_PROBLEMS[problem]}"
                for uri, problem in problems
                if problem and (problem, spans[uri].format) != ("truncated", "jsonl")
            ]
        if found:
            others = f" (and {plural(len(found) - 1, 'more file')})" if len(found) > 1 else ""
            raise DataError(f"{found[0]}{others}. Or exclude it by a narrower path.")
        next(all_documents(corpus), None)


def refuse_all(path: str, left_out: LeftOut) -> NoReturn:
    """Raise the error about a corpus without a document.

    Raises:
        DataError: always, with the reasons, the first row of each, and advice.
    """
    if not left_out.reasons:
        raise DataError(f"{path}: there are no rows. Point `corpus` at documents.")
    lines = []
    for reason, count in left_out.reasons.most_common():
        where, seen = left_out.first[reason]
        lines.append(f"  {count:,} {reason}, the first at {where}" + (f": {seen:.200}" if seen else ""))
    advice = [text for reason, text in _ADVICE.items() if reason in left_out.reasons]
    if set(left_out.reasons) - set(_ADVICE):
        advice.append("Check `columns`, and of conversations the chat template, against these rows.")
    raise DataError(f"{path}: no row can be used. Left out:\n" + "\n".join(lines) + "\n" + " ".join(advice))


class _Refused(Exception):
    """A row is not a document. seen: the part of it that is wrong."""

    def __init__(self, reason: str, seen: Any = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.seen = str(seen)


def _documents(row: Row, columns: ReadColumns, file_split: str | None, records: Records) -> list[Document]:
    """The documents of a row: one, or of two answers that are judged apart two."""
    if records == "text":
        return [_document(_content(row, columns), row, columns, file_split)]
    if "chosen" not in columns.named:
        content = _last_answer(_content(row, columns))
        judged = _value(row, columns.named["label"])
        desirable = judgement(judged)
        if desirable is None:
            raise _Refused("bad_label", f"column {columns.named['label']} is {judged!r:.200}; wanted true or false")
        return [replace(_document(content, row, columns, file_split, _question(content)), desirable=desirable)]
    both = _preference(row, columns)
    if both.has_equal_answers:
        raise _Refused("equal_answers", both.chosen[-1].text)
    chosen, rejected = (_answered_from(len(both.asked), _as_chat(one)) for one in both.chats)
    question = replace(chosen, messages=chosen.messages[: len(both.asked)])
    if records == "labelled":
        found = []
        for name, content, desirable in (("chosen", chosen, True), ("rejected", rejected, False)):
            document = _document(content, row, columns, file_split, question)
            id = f"{document.id}/{name}" if "id" in columns.named else document.id
            found.append(replace(document, id=id, desirable=desirable))
        return found
    margin = _value(row, columns.named.get("margin"))
    if isinstance(margin, list):  # ranked answers, whose scores differ
        margin = both.margin
    number = math.nan if margin is None else number_in(margin)
    if margin is not None and not abs(number) <= MOST_MARGIN:
        wanted = f"a number from -{MOST_MARGIN:,.0f} to {MOST_MARGIN:,.0f}"
        raise _Refused("bad_margin", f"column {columns.named['margin']} is {margin!r:.200}; wanted {wanted}")
    return [_document(TwoAnswers(chosen, rejected, number), row, columns, file_split, question)]


def _as_chat(chat: contents.Chat) -> Chat:
    tools = standard_tools(json.loads(chat.tools)) if chat.tools else None
    return Chat([with_standard_calls(as_dict(one)) for one in chat.messages], tools)


def _last_answer(content: Content) -> Chat | Pair:
    """The content with its last answer alone to train on."""
    if isinstance(content, Pair):
        if not content.history:
            return content
        content = as_chat(content)
    assert isinstance(content, Chat)
    return _answered_from(_start_of_answer(content) or 0, content)


def _answered_from(start: int, content: Chat) -> Chat:
    """The conversation with the answers from message `start` on alone to train on."""
    messages = [
        one | {"train": False} if at < start and one["role"] == "assistant" else one
        for at, one in enumerate(content.messages)
    ]
    return replace(content, messages=messages)


def _start_of_answer(content: Chat) -> int | None:
    """The first message of the last answer, with its calls of tools and their results; None without an answer."""
    start = None
    for at in reversed(range(len(content.messages))):
        if content.messages[at]["role"] == "assistant":
            start = at
            if not at or content.messages[at - 1]["role"] != "tool":
                break
    return start


def _question(content: Chat | Pair) -> Content:
    """All before the last answer."""
    if isinstance(content, Pair):
        return replace(content, completion="")
    return replace(content, messages=content.messages[: _start_of_answer(content)])


def as_chat(pair: Pair) -> Chat:
    """A pair as a conversation, after its system prompt and its earlier turns if there are any."""
    turns = [("system", pair.system)] if pair.system else []
    for prompt, answer in (*pair.history, (pair.prompt, pair.completion)):
        turns += [("user", prompt), ("assistant", answer)]
    return Chat([{"role": role, "content": content} for role, content in turns])


def _document(
    content: Content, row: Row, columns: ReadColumns, file_split: str | None, question: Content | None = None
) -> Document:
    """question: decides the split, so that answers to one question are in the same; None: the content does."""
    try:
        data = _bytes_of(content)
    except UnicodeEncodeError as error:
        raise _Refused("not_unicode", error.reason) from error

    def name(role: str) -> str | None:
        column = columns.named.get(role)
        value = _value(row, column)
        if role == "label" and isinstance(value, list):  # of several annotators: the most frequent, the first of equals
            counts = Counter(one for one in value if isinstance(one, str | int))
            value = max(counts, key=counts.__getitem__, default=None)
        if value is None:
            return None
        if not isinstance(value, str | int):
            raise _Refused(f"bad_{role}", f"column {column} is {value!r}")
        text = str(value)
        if not text.isascii() and text.encode(errors="ignore").decode() != text:
            raise _Refused("not_unicode", f"column {column}")
        return text

    def whole(role: str, most: float) -> int | None:
        """A whole number from 0 to `most`, in tables of text by its digits."""
        column = columns.named.get(role)
        if column is None:
            return None
        value = _value(row, column)
        is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
        number = int(value) if is_number else value
        if not (type(number) is int and 0 <= number <= most):
            raise _Refused(f"bad_{role}", f"column {column} is {value!r:.200}")
        return number

    def copies() -> float:
        """The number of copies, in tables of text by its digits."""
        column = columns.named.get("copies")
        if column is None:
            return 1.0
        value = _value(row, column)
        number = number_in(value)
        if not 0 <= number <= MAX_COPIES:
            raise _Refused("bad_copies", f"column {column} is {value!r:.200}; wanted 0 to {MAX_COPIES}")
        return number

    id, group, stratum, label = name("id"), name("group"), name("stratify"), name("label")
    if "label" in columns.named and label is None:
        raise _Refused("no_class")
    if label is not None and len(label) > _LONGEST_LABEL:
        raise _Refused("bad_label", f"column {columns.named['label']} has {len(label):,} characters")
    split = name("split")
    split_index = SPLITS.index(file_split) if file_split else None
    if "split" in columns.named:
        named = split_name(split or "")
        if named is None:
            raise _Refused("bad_split", f"column {columns.named['split']} is {split!r}")
        split_index = SPLITS.index(named)
    return Document(
        id=id if id is not None else hashlib.blake2b(data, digest_size=16).hexdigest(),
        content=content,
        bytes=len(data),
        key=hash64(b"group", group.encode())
        if group is not None
        else hash64(b"content", data if question is None else _bytes_of(question)),
        stratum=stratum or "",
        label=label,
        split=split_index,
        stage=whole("stage", MAX_STAGE),
        fold=whole("fold", math.inf),
        copies=copies(),
    )


def _content(row: Row, columns: ReadColumns) -> Content:
    column = columns.named.get
    match columns.form:
        case "text":
            text = _string(row, column("text"))
            if not text or text.isspace():
                raise _Refused("empty")
            return text
        case "pair" if any(isinstance(_value(row, column(role)), list) for role in ("prompt", "completion")):
            return _conversation(row, columns)
        case "pair":
            system = _optional(row, column("system")) or columns.system_prompt
            prompt = _string(row, column("prompt"))
            if more := _optional(row, column("input")):
                prompt = f"{prompt}\n\n{more}"
            completion = _answer(row, column("completion"))
            turns = _listed(row, column("history"), "history") or []
            for turn in turns:
                if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
                    raise _Refused("bad_history", f"column {column('history')} has {turn!r}; wanted [prompt, answer]")
            if not completion or completion.isspace():
                raise _Refused("empty_completion", prompt)
            pair = Pair(prompt, completion, system, tuple((asked, answer) for asked, answer in turns))
            return _chat(as_chat(pair).messages, row, columns) if _value(row, column("tools")) else pair
        case _ if "chosen" in columns.named:
            both = _preference(row, columns)
            return _as_chat(both.chats[0])
        case _:
            return _chat(_messages(row, columns), row, columns)


def _conversation(row: Row, columns: ReadColumns) -> Chat:
    """A prompt and a completion that are messages, as TRL has them. Answers in the prompt are not trained on."""
    spoken = []
    for role, speaker in (("prompt", "user"), ("completion", "assistant")):
        value = _value(row, columns.named[role]) if role == "prompt" else _answer(row, columns.named[role])
        spoken.append(value if isinstance(value, list) else [{"role": speaker, "content": value}])
    asked, answered = ([without_nulls(one) for one in some] for some in spoken)
    asked = [{"weight": 0} | one if isinstance(one, dict) and one.get("role") == "assistant" else one for one in asked]
    return _chat(_standard([*asked, *answered], columns), row, columns)


def _chat(messages: list[dict[str, Any]], row: Row, columns: ReadColumns) -> Chat:
    """The messages with the system prompt and the tools of the row."""
    system = _optional(row, columns.named.get("system"))
    if system and messages[0]["role"] not in ("system", "developer"):
        messages = [{"role": "system", "content": system}, *messages]
    tools = _listed(row, columns.named.get("tools"), "tools")
    try:
        return Chat(messages, standard_tools(tools) if tools else None)
    except BadMessage as error:
        raise _Refused("bad_tools", error.seen) from error


def _preference(row: Row, columns: ReadColumns) -> Preference:
    """A question and two answers, read as `raymill prepare` reads preferences."""
    roles = ("system", "prompt", "input", "chosen", "rejected", "tools")
    named = {role: name for role in roles if (name := columns.named.get(role)) is not None}
    try:
        content = content_of({role: as_json_text(without_nulls(_value(row, name))) for role, name in named.items()})
    except Unusable as error:
        raise _Refused(error.reason, REASONS[error.reason]) from error
    assert isinstance(content, Preference)
    return content


def _bytes_of(content: Content) -> bytes:
    match content:
        case str():
            return content.encode()
        case Pair():
            prompt = content.prompt.encode()
            if content.system:
                prompt = content.system.encode() + b"\0" + prompt
            if content.history:
                prompt = json.dumps(content.history, ensure_ascii=False).encode() + b"\0" + prompt
            return len(prompt).to_bytes(8, "little") + prompt + content.completion.encode()
        case TwoAnswers():
            chosen, rejected = _bytes_of(content.chosen), _bytes_of(content.rejected)
            return len(chosen).to_bytes(8, "little") + chosen + rejected
        case _:
            plain = [content.messages, content.tools] if content.tools else content.messages
            return json.dumps(plain, ensure_ascii=False, sort_keys=True, default=str).encode()


def _string(row: Row, name: str | None) -> str:
    value = _value(row, name)
    if value is None:
        raise _Refused("null" if name in row else "missing", f"column {name}")
    if not isinstance(value, str):
        raise _Refused("not_a_string", f"column {name} is {value!r}")
    return value


def _answer(row: Row, name: str | None) -> Any:
    """The completion: messages, or text; a number, as a reference may be, as JSON."""
    value = _value(row, name)
    if isinstance(value, list):
        return value
    return json.dumps(value) if type(value) in (int, float) else _string(row, name)


def _optional(row: Row, name: str | None) -> str:
    """The string of an optional column; empty if it is missing, null or only spaces."""
    if _value(row, name) is None:
        return ""
    value = _string(row, name)
    return "" if value.isspace() else value


def _value(row: Row, name: str | None) -> Any:
    """The value of a column, or of COLUMN.FIELD; None if there is none."""
    return None if name is None else value_in(row, name)


def _terms(row: Row) -> Any:
    """The terms of a generated record."""
    return next((value for name in TERMS if isinstance(value := _value(row, name), str)), None)


def _messages(row: Row, columns: ReadColumns) -> list[dict[str, Any]]:
    name = columns.named["messages"]
    messages = _listed(row, name, "messages")
    if messages is None:
        raise _Refused("null" if name in row else "missing", f"column {name}")
    return _standard(messages, columns)


def _standard(messages: list[Any], columns: ReadColumns) -> list[dict[str, Any]]:
    if not messages:
        raise _Refused("empty")
    try:
        messages = [with_standard_calls(plain_message(message)) for message in messages]
        messages = [without_ignored(message, columns) for message in messages]
    except BadMessage as error:
        raise _Refused(error.reason, error.seen) from error
    except BadWeight as error:
        raise _Refused("bad_weight", error) from error
    turns = [message for message in messages if message["role"] == "assistant"]
    if turns and all(map(is_empty, turns)):
        raise _Refused("empty_completion", f"no assistant turn has content: {turns[0]!r}")
    return messages


def is_empty(message: dict[str, Any]) -> bool:
    """Whether a message has neither text nor anything else that is trained on."""
    return not message.get("content", "").strip() and not any(message.get(key) for key in OTHER_CONTENT)


def _listed(row: Row, name: str | None, role: str) -> list[Any] | None:
    """The value of a list column, or of a list as JSON text, without keys of null: templates test for presence."""
    value = _value(row, name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _Refused(f"bad_{role}", f"column {name} is not JSON: {value}") from error
    if value is not None and not isinstance(value, list):
        raise _Refused(f"bad_{role}", f"column {name} is {value!r}")
    return value and [without_nulls(one) for one in value]
