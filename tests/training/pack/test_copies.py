"""Documents are packed as often as their column `copies` says: exactly, from any units, and after kills."""

import json
from collections import Counter
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.copies import copies_of
from raymill.cluster.examples.splits import hash64
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Output, Stage
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Columns, Corpus
from raymill.training.pack import job, summary, tokenise
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import LeftOut, all_documents
from raymill.training.pack.job import pack
from raymill.training.pack.packed_run import PackedRun, examples_name
from raymill.training.pack.packing import pack_stage
from raymill.training.plan.data import find_data
from tests.support.inline import InlineEngine
from tests.support.packed_examples import config
from tests.support.sampled import sampled
from tests.support.stages import run_inline

COPIES = (0, 0.25, 1, 1.5, 2, 3, 8)
CORPUS = "corpus-0"
# Over a MiB, which is the smallest unit.
ROWS = [
    {"id": f"d{n}", "text": f"Number {n}. " + "And some more words of it. " * (80 + n % 10), "copies": COPIES[n % 7]}
    for n in range(700)
]


def settings(folder, rows, name: str, files: int = 2, **more) -> dict:
    corpus = folder / f"{name}-corpus"
    corpus.mkdir()
    for at in range(files):
        lines = (json.dumps(row) + "\n" for row in rows[at::files])
        (corpus / f"{at}.jsonl").write_text("".join(lines))
    plain = {
        "corpus": str(corpus), "output": str(folder / name), "sequence_length": 4096, "tokens_per_step": 4096,
        "columns": {"text": "text", "id": "id", "copies": "copies"}, "execution": {"unit_mib": 1},
        "model": {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": "train"},
    }  # fmt: skip
    return plain | more


def packed(plain: dict, engine=InlineEngine) -> PackedRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Engine", engine)
        patch.setattr(job, "pack_stage", partial(pack_stage, unit_tokens=1 << 15))
        return pack(config(**plain), Session(), Progress())


def tables(run: PackedRun) -> dict[str, pa.Table]:
    return {split: artifact.table() for split, artifact in run.corpora[CORPUS].items()}


def occurrences(run: PackedRun, *splits: str) -> Counter[str]:
    """Document -> how often it is in the rows; no document is longer than a row."""
    found: Counter[str] = Counter()
    for split in splits:
        found.update(tables(run)[split]["documents"].combine_chunks().flatten().to_pylist())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> PackedRun:
    return packed(settings(tmp_path_factory.mktemp("copies"), ROWS, "run"))


def test_documents_to_train_on_are_packed_as_often_as_their_column_says(run):
    found, held_out = occurrences(run, "train"), occurrences(run, "validation", "test")
    assert set(held_out.values()) == {1} and not held_out.keys() & found.keys()
    trained = [row for row in ROWS if row["id"] not in held_out]
    whole = [row for row in trained if row["copies"] == int(row["copies"])]
    assert [found[row["id"]] for row in whole] == [row["copies"] for row in whole]
    for copies, least, most in ((0.25, 0, 1), (1.5, 1, 2)):
        numbers = [found[row["id"]] for row in trained if row["copies"] == copies]
        assert set(numbers) == {least, most}
        assert abs(sum(numbers) / len(numbers) - copies) < 4 * 0.5 / len(numbers) ** 0.5


def test_what_is_counted_has_the_copies(run):
    examples, rows = run.tokenised(CORPUS), tables(run)
    assert examples["tokens/train"] == len(rows["train"]["ids"].combine_chunks().flatten())
    assert examples["examples/train"] == occurrences(run, "train").total()
    further = sum(count - 1 for count in occurrences(run, "train").values())
    assert examples["repeated_examples"] == further
    note = f"{further:,} of {int(examples['examples']):,} examples are further copies of documents"
    assert run.passed_over[CORPUS] == f"its column `copies` decides how often a document to train on is packed; {note}"
    without = len(ROWS) - len(occurrences(run, "train", "validation", "test"))
    assert examples["left_out/no_copies"] == without
    assert any(f"{without} no_copies" in line.words for line in summary.left_out(examples))


def test_the_first_copies_are_the_examples_of_a_packing_without_copies(run, tmp_path):
    plain = settings(tmp_path, ROWS, "once", columns={"text": "text", "id": "id"}, ignore=["copies"])
    once = packed(plain)
    examples = [pa.concat_tables(_examples(one)) for one in (once, run)]
    keys = [set(zip(one["document"].to_pylist(), one["place"].to_pylist(), strict=True)) for one in examples]
    assert ("d2", hash64(b"1", b"d2", b"0")) in keys[0]  # as of versions without copies
    kept = set(examples[1]["document"].to_pylist())
    assert {key for key in keys[0] if key[0] in kept} <= keys[1]
    assert len(keys[1]) == len(examples[1])  # copies have keys of their own
    assert "repeated_examples" not in once.tokenised(CORPUS)


def _examples(run: PackedRun) -> list[pa.Table]:
    return list(Artifact.load(Store(), f"{run.uri}/{examples_name(CORPUS)}").tables())


def test_units_do_not_change_the_rows_and_files_not_the_copies(run, tmp_path):
    assert tables(packed(settings(tmp_path, ROWS, "units", execution={"unit_mib": 64}))) == tables(run)
    other = packed(settings(tmp_path, ROWS, "files", files=5))
    assert occurrences(other, "train") == occurrences(run, "train")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", sampled([f"tokenise-{CORPUS}", f"pack-{CORPUS}"], 1))
def test_a_killed_packing_continues_with_the_same_copies(run, tmp_path, stage):
    class Dying(InlineEngine):
        def _round(self, stage_, missing, records, failures) -> None:
            if stage_.name == stage:
                super()._round(stage_, missing[:1], records, failures)
                raise Killed
            super()._round(stage_, missing, records, failures)

    plain = settings(tmp_path, ROWS, "killed")
    with pytest.raises(Killed):
        packed(plain, Dying)
    assert tables(packed(plain)) == tables(run)


def test_a_fraction_is_drawn_by_seed_and_id_alone():
    drawn = [copies_of(2.3, 1, f"d{n}") for n in range(2000)]
    assert set(drawn) == {2, 3} and abs(drawn.count(3) / 2000 - 0.3) < 0.04
    assert drawn == [copies_of(2.3, 1, f"d{n}") for n in range(2000)]
    assert drawn != [copies_of(2.3, 2, f"d{n}") for n in range(2000)]
    assert [copies_of(whole, 1, "d") for whole in (0, 1.0, 100)] == [0, 1, 100]


@pytest.mark.parametrize("value", [-1, 101, float("nan"), float("inf"), "many", "1_0", "٣", None, True, [2]])
def test_other_values_are_left_out_with_a_reason(tmp_path, value):
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "a", "n": value}) + '\n{"text": "b", "n": "2.5"}\n')
    left_out = LeftOut()
    frozen = freeze_corpus(Store(), Corpus(path=str(tmp_path / "c.jsonl")), Columns(text="text", copies="n"), 1 << 20)
    assert [one.copies for one in all_documents(frozen, left_out)] == [2.5]
    assert left_out.reasons == {"bad_copies": 1} and "wanted 0 to 100" in left_out.first["bad_copies"][1]


def test_a_column_of_texts_is_refused_and_one_that_is_missing_too(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "copies": ["2"]}), tmp_path / "c.parquet")
    corpus = Corpus(path=str(tmp_path / "c.parquet"))
    with pytest.raises(ConfigError, match=r"columns\.copies.*wanted numbers"):
        freeze_corpus(Store(), corpus, Columns(text="text", copies="copies"), 1 << 20)
    with pytest.raises(ConfigError, match=r"columns\.copies"):
        freeze_corpus(Store(), corpus, Columns(text="text", copies="other"), 1 << 20)


def written(folder, name: str, kind: pa.DataType, copies=(3, 1)) -> Artifact:
    schema = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("copies", kind)])
    table = pa.table({"id": ["a", "b"], "text": ["one", "two"], "copies": pa.array(copies).cast(kind)}, schema)

    def write(unit, scratch):
        scratch.write(name, table)
        return {}

    return run_inline(Stage(name, (Output(name, schema),), [0], write, "f" * 32, Store()), str(folder))[name]


def test_an_artifact_with_the_column_is_read_by_it_and_another_file_or_text_is_not(tmp_path):
    corpus, texts = written(tmp_path, "corpus", pa.float64()), written(tmp_path, "texts", pa.string())
    (file,) = corpus.file_uris
    for path, columns, wanted in (
        (corpus.uri, Columns(text="text"), [3, 1]),
        (corpus.uri, Columns(text="text", ignore=("copies",)), [1, 1]),
        (texts.uri, Columns(text="text"), [1, 1]),
        (texts.uri, Columns(text="text", copies="copies"), None),
        (file, Columns(text="text"), [1, 1]),
    ):
        if wanted is None:
            with pytest.raises(ConfigError, match="wanted numbers"):
                freeze_corpus(Store(), Corpus(path=path), columns, 1 << 20)
            continue
        frozen = freeze_corpus(Store(), Corpus(path=path), columns, 1 << 20)
        assert [one.copies for one in all_documents(frozen)] == wanted
        assert ("`copies`" in frozen.note) == (wanted[0] == 3)
    assert "copies" not in Columns(text="text").model_dump()  # as earlier versions recorded the columns


def test_more_than_ten_copies_are_made_only_if_the_config_names_the_column(tmp_path):
    """A corpus of others does not multiply the work by itself."""

    def copies_read(many: float, **columns) -> list[float]:
        corpus = written(tmp_path / f"{many}{len(columns)}{columns}", "corpus", pa.float64(), (many, 1))
        frozen = freeze_corpus(Store(), Corpus(path=corpus.uri), Columns(text="text", **columns), 1 << 20)
        return [one.copies for one in all_documents(frozen)]

    assert copies_read(10) == [10, 1]
    with pytest.raises(ConfigError, match=r"asks for 10\.5 copies.*Set `copies: copies` in `columns`, or"):
        copies_read(10.5)
    assert copies_read(10.5, copies="copies") == [10.5, 1]
    assert copies_read(10.5, ignore=("copies",)) == [1, 1]


def test_a_plan_counts_the_copies(tmp_path):
    rows = [row | {"copies": 3} for row in ROWS[:100]]
    plain = settings(tmp_path, rows, "plan", split={"train": 1, "validation": 0, "test": 0})
    tokenizer = packed(plain).tokenizer_uri
    model = {"config": {"model_type": "llama", "vocab_size": 300}, "tokenizer": tokenizer}
    tokens = []
    for columns in (plain["columns"], {"text": "text", "id": "id"}):
        more = {"model": model, "columns": columns, "ignore": ["copies"], "output": str(tmp_path / "other")}
        found = find_data(config(**plain | more), 300)
        assert not found.exact and "packed here" in found.how
        tokens.append(found.tokens[CORPUS])
    assert abs(tokens[0] / tokens[1] - 3) < 0.05


def test_a_corpus_without_a_copy_is_refused(tmp_path):
    rows = [row | {"copies": 0} for row in ROWS[:50]]
    with pytest.raises(DataError, match="50 no_copies"):
        packed(settings(tmp_path, rows, "none", split={"train": 1, "validation": 0, "test": 0}))


def test_copies_of_short_documents_are_written_before_they_fill_the_memory(tmp_path, monkeypatch):
    """A few kB of a corpus of others can be a hundred times as many examples."""
    written = list[int]()
    write = tokenise.Tokenise._write

    def counted(self, examples, scratch):
        written.append(sum(one.table.num_rows + len(one.rows) for one in examples))
        write(self, examples, scratch)

    monkeypatch.setattr(tokenise.Tokenise, "_write", counted)
    monkeypatch.setattr(tokenise, "_TABLE_DOCUMENTS", 16)
    monkeypatch.setattr(tokenise, "_SORTED_BYTES", 200_000)
    rows = [{"id": f"d{n}", "text": f"a b {n}", "copies": 100} for n in range(400)]
    run = packed(settings(tmp_path, rows, "many", files=1))
    assert sum(written) == run.tokenised(CORPUS)["examples"] > 30_000
    assert max(written) < 10_000
