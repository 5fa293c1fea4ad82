"""The rule `opt_out`: what pages and servers state, from the page to the ledger."""

import gzip

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.rules.opt_out import OptOut
from raymill.pipelines.rules.rule import Analysis
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline
from tests.support.stories import story
from tests.support.warc_records import record, response


def measured(rule: OptOut, **columns) -> list[int]:
    table = pa.table(columns)
    texts = Texts.from_strings(["a"] * table.num_rows)
    return rule.measure(Analysis(texts, "paper", table, Store()))["opted_out"].tolist()


STATED = {
    "noai": 1,
    "NoAI": 1,
    "noindex, noai": 1,
    "noai,nofollow": 1,
    "somebot: noai": 1,
    "noindex;noai": 1,
    "noindex": 0,
    "noaids": 0,
    "max-noai": 0,
    "noimageai": 0,
    "noindex|noai": 1,
    "noai/": 1,
    "noindex\uff0cnoai": 1,
    "\u200bnoai": 1,
    "": 0,
    None: 0,
}


def test_directives_are_whole_words():
    assert measured(OptOut(), robots=pa.array(STATED, pa.string())) == list(STATED.values())
    both = OptOut(directives=("noai", "noimageai"))
    assert measured(both, robots=["noimageai", "noindex"]) == [1, 0]


def test_a_reservation_is_the_number_one():
    values = ["1", " 1 ", '"1"', "01", "1.0", "1; a=0", "0", "10", "1a", "yes", None]
    assert measured(OptOut(), tdm_reservation=values) == [1] * 6 + [0] * 5
    assert measured(OptOut(tdm_reservation=False), tdm_reservation=values) == [0] * 11


def test_documents_of_inputs_without_the_columns_remain_and_numbers_are_refused():
    assert measured(OptOut(), url=["a", "b"]) == [0, 0]
    assert measured(OptOut(), robots=pa.nulls(2)) == [0, 0]
    with pytest.raises(ConfigError, match="opt_out: column tdm_reservation holds int64"):
        measured(OptOut(), tdm_reservation=[1, 0])


def test_a_directive_is_a_word():
    with pytest.raises(ValidationError):
        TypeAdapter(OptOut).validate_python({"directives": ["no ai"]})


def config(tmp_path, columns, rules) -> dict:
    source = {"path": str(tmp_path / "a.warc.gz"), "id": "url", "columns": columns}
    return {"inputs": [source], "output": str(tmp_path / "run"), "rules": {"packs": [], **rules}, "language": None}


def test_pages_that_are_reserved_are_in_the_ledger_with_the_rule(tmp_path, monkeypatch):
    page = "<html><head>{}</head><body><p>{}</p></body></html>"
    heads = ["", "<meta name=robots content='noindex, NOAI'>", "", "<meta name=tdm-reservation content=1>"]
    extra = ["", "", "X-Robots-Tag: noai\r\n", "TDM-Reservation: 0\r\n"]
    records = [
        record("response", response(page.format(head, story(number)).encode(), extra=header), number)
        for number, (head, header) in enumerate(zip(heads, extra, strict=True))
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    columns = ["robots", "tdm_reservation"]
    run = curate_inline(config(tmp_path, columns, {"opt_out": {}}), monkeypatch)
    assert run.corpus.table()["id"].to_pylist() == ["http://x/0"]
    rows = run.removed.table(["id", "stage", "reason"]).to_pylist()
    assert rows == [{"id": f"http://x/{number}", "stage": "opt_out", "reason": "opted_out"} for number in (1, 2, 3)]
    off = config(tmp_path, columns, {}) | {"output": str(tmp_path / "off")}
    assert len(curate_inline(off, monkeypatch).corpus.table()) == 4, "off by default"


def test_the_rule_without_its_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rules\.opt_out: no input carries robots or tdm_reservation"):
        CurateConfig.model_validate({"kind": "curate", "name": "a"} | config(tmp_path, ["url"], {"opt_out": {}}))
