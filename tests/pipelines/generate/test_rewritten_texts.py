"""Labelled texts that a model rewrites, and `prepare` of both: labels are kept, and no text is in another split."""

import json

from tests.support.generate_inline import generate_inline
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records


def test_rewritten_texts_are_where_their_text_is_and_in_training_alone(settings, server, tmp_path, monkeypatch):
    texts = tmp_path / "q.jsonl"
    said = "It stays red for a minute now."  # without the number, which must stay
    rows = [
        {"id": f"q{n}", "text": f"How do I reset router {n + 10}? {said}", "intent": f"i{n % 3}"} for n in range(60)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seeds = {"path": str(texts), "id": "id", "text": "text", "columns": ["intent"]}
    make = {"template": {"prompt": "{{ text }} {{ text }}", "differs": "text", "keeps": ["numbers"]}}
    made = generate_inline(
        settings | {"inputs": [seeds], "make": make, "carry": ["intent"], "dedup": None}, monkeypatch
    )
    columns = {"text": "text", "label": "intent"}
    both = [
        {"source": "texts", "path": str(texts), "id": "id", "columns": columns},
        {"source": "model", "path": f"{made.uri}/records", "id": "id", "columns": columns},
    ]
    asked = {"records": {"shape": "text"}, "validate": {"text_chars": [3, 500]}, "dedup": None}
    run = prepare_inline(asked | {"inputs": both, "output": str(tmp_path / "data")}, monkeypatch)
    found = records(run)
    rewritten = [row for row in found.values() if row["metadata"]["source"] == "model"]
    assert len(rewritten) > 15 and run.report["totals"]["synthetic"] == len(rewritten)
    for row in rewritten:
        text = found[row["provenance"]["parents"][0]]
        assert row["split"] == text["split"] == "train" and row["metadata"]["label"] == text["metadata"]["label"]
    (reason,) = run.report["reasons"]
    assert (reason["reason"], reason["records"]) == ("over_synthetic", made.report["records"] - len(rewritten))
