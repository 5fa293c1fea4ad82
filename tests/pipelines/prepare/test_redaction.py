"""Personal data is replaced in every place of a data set, and what groups and ids are made of stays apart."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError
from tests.support.inline import prepare_inline
from tests.support.tickets import answer, question

WHO = [f"person{n}@example.com" for n in range(12)]


def rows() -> list[dict]:
    """Records with addresses in text, id, metadata and parents; each second one is answered twice."""
    found = []
    for n, who in enumerate(WHO):
        asked = f"{question(n)} Write to {who}, or call +1 206 555 01{n:02}."
        shared = {"parents": [f"thread of {who}"], "customer": who.upper(), "host": f"10.0.0.{n}", "queue": "it"}
        found.append({"id": f"{who}/1", "q": asked, "a": f"{answer(n)} I wrote to {who}.", **shared})
        found.append({"id": f"{who}/2", "q": question(50 + n), "a": answer(n * 7), **shared})
    found.append({"id": "queue", "q": question(90), "a": answer(90), "queue": "of sold@example.com", "customer": None})
    found.append({"id": "short", "q": question(91), "a": "by@e.org", "queue": "it", "customer": "by@e.org"})
    found.append({"id": "none@example.com", "q": f"Ask not@example.com {question(92)}", "a": "", "queue": "it"})
    found.append({"id": "one", "q": question(93), "a": "Write to \n one@example.com at once.", "queue": "it"})
    found.append({"id": "two", "q": question(93), "a": "Write to \n two@example.com at once.", "queue": "it"})
    return found


@pytest.fixture
def made(tmp_path, monkeypatch):
    def made(name: str = "out", **clean):
        lines = [json.dumps(one, ensure_ascii=False) for one in rows()]
        (tmp_path / "in.jsonl").write_text("\n".join([*lines, '{"id": 7, "q": "broken@example.com' + "\n"]))
        columns = {"prompt": "q", "completion": "a", "customer": "customer", "host": "host", "queue": "queue"}
        return prepare_inline(
            {"inputs": [{"source": "s", "path": f"{tmp_path}/in.jsonl", "id": "id", "columns": columns}],
             "clean": {"redact": ["email", "phone", "ip"]} | clean, "validate": {"allowed": {"queue": ["it"]}},
             "records": {"shape": "pairs"}, "split": {"group": ["customer"]}, "dedup": None,
             "duplicates": {"questions": "list"},
             "execution": {"max_bad_documents": 1.0}, "output": str(tmp_path / name)},
            monkeypatch,
        )  # fmt: skip

    return made


def everything(folder: str) -> str:
    """The content of all files of a run."""
    files = [one for one in Path(folder).rglob("*") if one.is_file()]
    tables = [json.dumps(pq.read_table(one).to_pylist(), default=str) for one in files if one.suffix == ".parquet"]
    return "".join(tables) + "".join(one.read_text() for one in files if one.suffix in (".json", ".html"))


def test_no_address_is_left_in_any_file_of_a_run(made):
    run = made()
    content = everything(run.uri)
    for found in ("@example.com", "@EXAMPLE.COM", "@e.org", "555 01", "10.0.0."):
        assert found not in content, content[content.index(found) - 200 : content.index(found) + 100]
    assert run.report["personal_data"] == {
        "id": 25, "provenance": 24, "text": 39, "metadata.customer": 25, "metadata.host": 24, "metadata.queue": 1,
        "ledger": 1, "quarantine": 2,
    }  # fmt: skip
    assert run.report["totals"]["personal_data"] == sum(run.report["personal_data"].values())


def test_groups_and_relatives_are_those_of_the_values_before_they_were_replaced(made):
    """All customers are `<EMAIL>`, but each is in one split, and they are not one group."""
    run = made()
    assert run.report["splits"]["validation"] and run.report["splits"]["test"]
    split_of = {}
    for split in run.report["splits"]:
        for row in run.split(split).table().to_pylist():
            assert row["metadata"]["customer"] in ("<EMAIL>", None)
            split_of[row["id"]] = split
    ids = sorted(id for id in split_of if id.startswith("<EMAIL_"))
    assert len(ids) == 24 and all(first[:-1] == second[:-1] for first, second in zip(ids[::2], ids[1::2], strict=True))
    assert all(split_of[first] == split_of[second] for first, second in zip(ids[::2], ids[1::2], strict=True))


def test_a_record_has_one_number_for_a_value_in_text_and_metadata(made):
    run = made(pseudonyms="per_record")
    table = [row for split in run.report["splits"] for row in run.split(split).table().to_pylist()]
    first = next(row for row in table if row["prompt"].startswith(question(3)))
    assert "Write to <EMAIL_1>, or call <PHONE_1>." in first["prompt"] and "<EMAIL_1>" in first["completion"]
    assert first["metadata"]["customer"] == "<EMAIL_1>" and first["metadata"]["host"] == "<IP_ADDRESS_1>"


def test_a_person_has_one_pseudonym_in_all_places(made, monkeypatch):
    monkeypatch.setenv("KEY", "k" * 16)
    run = made(pseudonyms="per_corpus", pseudonym_key="KEY")
    table = [row for split in run.report["splits"] for row in run.split(split).table().to_pylist()]
    first = next(row for row in table if row["prompt"].startswith(question(3)))
    name = first["metadata"]["customer"]
    assert name.startswith("<EMAIL_") and name in first["prompt"] and first["id"] == f"{name}/1"
    assert first["provenance"]["parents"] == [f"thread of {name}"]


@pytest.mark.parametrize(("key", "size"), [("k", "1 byte"), ("k" * 15, "15 bytes"), ("é" * 7, "14 bytes")])
def test_a_key_that_can_be_guessed_is_refused_with_the_command_that_makes_one(made, monkeypatch, key, size):
    monkeypatch.setenv("KEY", key)
    with pytest.raises(ConfigError, match=rf"KEY has {size}; wanted at least 16, .*`openssl rand -hex 32`"):
        made(pseudonyms="per_corpus", pseudonym_key="KEY")


def test_fields_that_a_setting_names_stay_as_they_are(made):
    run = made(redact_except=["host", "id"])
    table = [row for split in run.report["splits"] for row in run.split(split).table().to_pylist()]
    assert {row["metadata"]["host"] for row in table} >= {f"10.0.0.{n}" for n in range(12)}
    assert "person3@example.com/1" in {row["id"] for row in table}
    assert not {"id", "metadata.host"} & run.report["personal_data"].keys()
    with pytest.raises(ConfigError, match=r"clean\.redact_except: no input has a field or column hosts"):
        made("other", redact_except=["hosts"])


def test_the_message_id_of_a_thread_in_quarantine_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "m.mbox").write_text(
        "From ann@e.org Mon Nov  2 10:00:00 2026\nFrom: ann@e.org\nMessage-ID: <1.ann@e.org>\n"
        "Auto-Submitted: auto-replied\n\nI am away.\n"
    )
    run = prepare_inline(
        {"inputs": [{"source": "m", "path": f"{tmp_path}/m.mbox"}], "records": {"shape": "messages"},
         "clean": {"redact": ["email"]}, "execution": {"max_bad_documents": 1.0}, "output": f"{tmp_path}/out"},
        monkeypatch,
    )  # fmt: skip
    (file,) = Path(run.uri, "quarantine").glob("*.parquet")
    (row,) = pq.read_table(file).to_pylist()
    assert row["where"] == f"{tmp_path}/m.mbox thread <EMAIL>"
