"""The table of failures in the guide: damaged files of every connector lie in quarantine beside what is good.

What a server, a database or a web page does wrong is in the tests of `fetch`.
"""

import gzip
import io
import json
import re

import docx
import pytest
from pypdf import PdfReader, PdfWriter

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from tests.support.guides import GUIDES
from tests.support.inline import curate_inline, prepare_inline
from tests.support.mails import ANN, BOB, mail, mbox
from tests.support.pdf import pdf
from tests.support.tickets import answer, question

TEXT = "Leave\n\nEverybody has thirty days of leave in a year, and nobody has to ask for a reason.\n"
CALL = "WEBVTT\n\n00:01.000 --> 00:03.000\n<v User>{}\n\n00:04.000 --> 00:09.000\n<v Agent>{}\n"


def with_password(content: bytes) -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(content)))
    writer.encrypt("secret", "owner", algorithm="AES-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def word() -> bytes:
    document, out = docx.Document(), io.BytesIO()
    document.add_paragraph(TEXT)
    document.save(out)
    return out.getvalue()


def table(*rows: int) -> bytes:
    return ("id,q,a\n" + "".join(f'{n},{question(n)},"{answer(n)}"\n' for n in rows)).encode()


def lines(*rows: int) -> bytes:
    return b"".join(json.dumps({"id": str(n), "q": question(n), "a": answer(n)}).encode() + b"\n" for n in rows)


THREAD = (mail(1, ANN, question(1), 2, day=1), mail(2, BOB, answer(1), 1, day=2))  # each refers to the other
PDF = pdf([[TEXT.replace("\n", " ")]])
OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
MESSAGES = {"columns": {"messages": "messages"}}
SPEAKERS = {"columns": {"messages": "turns"}, "speakers": {"User": "user", "Agent": "assistant"}}
ROWS = {"columns": {"prompt": "q", "completion": "a"}, "id": "id"}

# source -> (settings, file -> content, problems in quarantine, records)
CASES = {
    "pdf": ({}, {"good": PDF, "locked": with_password(PDF), "half": PDF[: len(PDF) // 2], "empty": pdf([[]]),
                 "other": b"%PDF-1.4\n%%EOF\n"}, ["encrypted", "truncated", "no_text", "damaged_file"], 1),
    "docx": ({}, {"good": word(), "half": word()[:-30], "other": b"no zip", "old": OLD,
                  "locked": OLD + "EncryptedPackage".encode("utf-16-le")},
             ["truncated", "damaged_file", "old_word_file", "encrypted"], 1),
    "mbox": ({}, {"cyclic": mbox(*THREAD), "twice": mbox(*THREAD, THREAD[0]),
                  "bad": mbox(b"no header at all", mail(8, ANN, "> a quote alone"), mail(9, ANN, "Is anybody here?"),
                              mail(7, ANN, "x" * 90_000))},
             ["bad_message", "no_new_text", "wrong_order", "too_large"], 2),
    "mbox.gz": ({}, {"cut": gzip.compress(mbox(*THREAD, mail(5, ANN, "x " * 999)), 0)[:-50]}, ["truncated"], 1),
    "vtt": (SPEAKERS, {"good": CALL.format(question(2), answer(2)).encode(), "no-times": b"WEBVTT\n\nHello, my router.",
                       "no-end": b"WEBVTT\n\n00:01.000 -->\nHello", "others": CALL.format("a", "b").replace(
                           "User", "Bob").encode()}, ["no_cues", "no_cues", "other_roles"], 1),
    "json": (SPEAKERS | {"format": "transcript"}, {"half": b'{"turns": [{"speaker": "User", "text"', "none": b"{}"},
             ["no_cues", "no_cues"], 0),
    "csv": (ROWS, {"half": table(3, 4)[:-9], "wide": table(5) + b"6,a,b,c\n"}, ["broken_csv", "broken_csv"], 2),
    "csv.gz": (ROWS, {"half": gzip.compress(table(*range(10, 40)), 0)[:-700]}, ["truncated"], None),
    "jsonl": (ROWS, {"broken": lines(50) + b'{"id": "51", "q"\n' + lines(52), "no-object": b"[]\n" + lines(53)},
              ["broken_json", "not_an_object"], 3),
    "chats.jsonl": ({"columns": {"messages": "m"}}, {
        "no-roles": json.dumps({"m": [{"content": "a"}]}).encode(), "no-list": b'{"m": "hello"}',
        "good": json.dumps({"m": [{"role": "user", "content": question(60)},
                                  {"role": "assistant", "content": answer(60)}]}).encode()},
        ["bad_messages", "bad_messages"], 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(problems in quarantine, number of records) by source."""
    folder = tmp_path_factory.mktemp("failures")
    inputs = []
    for ending, (settings, files, _, _) in CASES.items():
        (folder / ending).mkdir()
        for name, content in files.items():
            (folder / ending / f"{name}.{ending}").write_bytes(content)
        inputs.append({"source": ending, "path": f"{folder}/{ending}/*"} | settings)
    plain = {
        "inputs": inputs, "assess": {"embeddings": None}, "dedup": None, "output": f"{folder}/out",
        "duplicates": {"contradictory": "ignore"}, "execution": {"max_bad_documents": 1},
        "limits": {"max_document_bytes": 20_000}, "validate": {"answer_in_question": None},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run = prepare_inline(plain, patch)
    quarantined = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    removed = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    assert removed == []
    sources = [row["metadata"]["source"] for split in SPLITS for row in run.split(split).table().to_pylist()]
    return {
        one: (sorted(row["problem"] for row in quarantined if row["source"] == one), sources.count(one))
        for one in CASES
    }


@pytest.mark.parametrize("source", CASES)
def test_what_cannot_be_read_is_in_quarantine_and_the_others_are_records(prepared, source):
    _, _, problems, records = CASES[source]
    found, kept = prepared[source]
    assert found == sorted(problems) and (kept > 5 if records is None else kept == records)


def test_every_problem_in_the_table_of_the_guide_is_one_that_a_case_has():
    rows = re.findall(r"^\| (.*) \| .*quarantine.* \|$", GUIDES["pipelines/prepare/REFERENCE.md"], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\(`(\w+)`(?:, `(\w+)`)?\)", row) for name in name if name}
    made = {problem for _, _, problems, _ in CASES.values() for problem in problems}
    # Rows of a saved data set: test_saved_datasets.py. Web pages: fetch/test_pages.py. Time: test_time_bounds.py.
    elsewhere = {"null_text", "empty", "too_slow", "robots_forbid", "http_error", "unreachable", "private_address"}
    assert len(named) > 12 and named - made == elsewhere


def test_an_unfinished_curation_is_no_corpus(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text(TEXT)
    curation = {"inputs": [{"path": f"{tmp_path}/in"}], "output": f"{tmp_path}/corpus"}
    run = curate_inline(curation, monkeypatch)
    Store().delete([f"{run.uri}/manifest.json"])
    with pytest.raises(DataError, match=r"inputs \(corpus\): .*corpus.*Finish it by running its command again"):
        source = {"source": "corpus", "path": run.uri}
        prepare_inline({"inputs": [source], "output": f"{tmp_path}/out"}, monkeypatch)
    assert not (tmp_path / "out" / "manifest.json").exists()
