"""`raymill init`: each recipe is written, read, and run on a few pages."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raymill.cluster.errors import ConfigError
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.language.fasttext_file import model_bytes
from raymill.pipelines.language.fasttext_training import TrainingSettings, train
from raymill.pipelines.recipes import RECIPES, recipes, write_recipe
from raymill.pipelines.text.texts import Texts
from tests.support.inline import curate_inline
from tests.support.stories import story
from tests.support.warc_records import record, response

LISTS = (
    *("banned_words", "soft_banned_words", "banned_subwords", "sources", "en"),
    *(f"refinedweb_banned_words_{kind}_reverse_engineered" for kind in ("strict", "hard", "soft")),
)
GERMAN = (
    "Der Hafen wurde nach dem Sturm neu gebaut, und die Leute in der Stadt arbeiten seither wieder gern am Wasser.",
    "Im Winter liegen die Boote auf dem Kai, und die Fischer flicken ihre Netze in der warmen Halle hinter der Kirche.",
    "Wer von den Bergen kommt, sieht zuerst den alten Turm, den ein Kaufmann vor zweihundert Jahren errichten ließ.",
    "Die Kinder lernen hier früh das Segeln, denn die Schule besitzt drei kleine Jollen und einen geduldigen Lehrer.",
    "Abends brennt in fast jedem Fenster Licht, und aus der Bäckerei am Markt riecht es nach frischem Roggenbrot.",
    "Nur selten fährt noch ein Dampfer vorbei, doch wenn er pfeift, laufen alle hinunter an das steinerne Ufer.",
)
SHORT = (
    "The harbour was rebuilt after the storm of that winter, and the people of the town have worked there ever since."
)
BOUNDS = """dup_line_frac: 0.263
dup_n_grams: [[5, 0.141], [6, 0.134], [7, 0.126], [8, 0.117], [9, 0.108], [10, 0.098]]
language_score: 0.3
line_punct_thr: -1
max_avg_word_length: 15
max_non_alpha_words_ratio: 0.774
min_avg_word_length: 0
new_line_ratio: 0.152
stopwords: [der, und, die, "zwei Worte", "no"]
top_n_grams: [[2, 0.169], [3, 0.153], [4, 0.137]]
"""


def text(number: int) -> str:
    return "\n".join(story(10 * number + part) for part in range(3))


def model(path: Path, texts: list[str], names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.arange(len(texts)) % len(names)
    made = train(Texts.from_strings(texts), labels, names, TrainingSettings(buckets=100))
    path.write_bytes(model_bytes(made, 20, 40))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the recipes name: a crawl of twelve pages, lists and models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crawl").mkdir()
    pages, texts = [], [text(0), text(1), text(0), SHORT, text(2), "\n".join(GERMAN), *map(text, range(3, 9))]
    for number, one in enumerate(texts):
        body = "".join(f"<p>{line}</p>" for line in one.split("\n"))
        page = f"<html><body><nav><a href=x>Home</a></nav><article>{body}</article></body></html>"
        pages.append(record("response", response(page.encode()), number))
    pages[4] = pages[4].replace(b"http://x/4", b"http://casino.example/4")
    (tmp_path / "crawl/a.warc.gz").write_bytes(b"".join(map(gzip.compress, pages)))
    extracts = [record("conversion", one.encode(), number) for number, one in enumerate(texts)]
    (tmp_path / "crawl/a.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, extracts)))
    (tmp_path / "lists/ut1/gambling").mkdir(parents=True)
    (tmp_path / "lists/ut1/gambling/domains").write_text("casino.example\n")
    for name in LISTS:
        (tmp_path / f"lists/{name}.txt").write_text("casinoroyale\n")
    stories = [" ".join(text(n).split()) for n in range(10, 30)]
    model(tmp_path / "models/fasttext_oh_eli5.bin", [one for t in stories for one in (t, "buy it now")], ["hq", "cc"])
    model(tmp_path / "runs/edu/classifier/model.bin", [one for t in stories for one in ("buy it now", t)], list("04"))
    (tmp_path / "runs/edu/classifier/threshold.json").write_text(json.dumps({"min_score": 2.5, "max_chars": 500}))
    (tmp_path / "samples").mkdir()
    sample = pa.table({"text": ["buy it now"] * 5000 + stories[:1]})
    pq.write_table(sample, tmp_path / "samples/pages.parquet")
    both = [one for pair in zip(GERMAN * 3, stories, strict=False) for one in pair]
    model(tmp_path / "models/glotlid.bin", both, ["deu_Latn", "eng_Latn"])
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/deu_Latn.yml").write_text(BOUNDS)
    return tmp_path


def test_each_recipe_says_in_its_first_line_what_it_follows():
    assert list(recipes()) == [
        "c4",
        "dclm",
        "dolma3",
        "fineweb-edu",
        "fineweb",
        "fineweb2",
        "nemotron-cc",
        "refinedweb",
    ]
    assert all(", as " in text and "https://" in text for text in recipes().values())


# The pages that each recipe keeps: the third is like the first, the fourth is short, the fifth is blocked, the sixth is
# German.
ENGLISH = {0, 1, *range(6, 12)}
KEPT = dict.fromkeys(recipes(), ENGLISH) | {
    "c4": ENGLISH | {4},  # without lists of URLs
    "nemotron-cc": ENGLISH | {4},
    "fineweb2": {5},
}


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_runs_on_a_sample(folder, monkeypatch, recipe):
    bounds = {"bounds": "configs"} if recipe == "fineweb2" else {}
    assert write_recipe(recipe, **bounds) == f"{recipe}.yaml"
    settings = yaml.safe_load((folder / f"{recipe}.yaml").read_text())
    settings.pop("kind"), settings.pop("name")
    run = curate_inline(settings, monkeypatch)
    rows = run.removed.table(["url", "reason"]).to_pylist()
    assert ("copies" in run.corpus.schema.names) == (recipe == "fineweb2")
    assert {int(url.rpartition("/")[2]) for url in run.corpus.table()["url"].to_pylist()} == KEPT[recipe], rows


def test_bounds_of_languages_are_in_the_config(folder):
    write_recipe("fineweb2", "german.yaml", "configs", ["deu_Latn"])
    config = CurateConfig.model_validate(yaml.safe_load((folder / "german.yaml").read_text()))
    # github.com/huggingface/fineweb-2, README.md, "Rehydrater"
    assert config.corpus.copies.table == {1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}
    assert config.language.keep == ("deu_Latn",) and config.language.min_scores == {"deu_Latn": 0.3}
    assert config.rules.gopher_quality.stop_words == {"deu_Latn": ("der", "und", "die", "no")}
    bounds = config.rules.by_language["deu_Latn"]
    assert bounds["gopher_repetition"] == {
        "max_dup_line_frac": 0.263,
        **{f"max_top_{n}_gram": bound for n, bound in ((2, 0.169), (3, 0.153), (4, 0.137))},
        **{
            f"max_duplicated_{n}_n_grams": b
            for n, b in zip(range(5, 11), (0.141, 0.134, 0.126, 0.117, 0.108, 0.098), strict=True)
        },
    }
    assert bounds["fineweb"] == {"min_line_punct_ratio": 0, "max_list_ratio": 0.152}
    assert bounds["gopher_quality"] == {
        "min_mean_word_length": 0,
        "max_mean_word_length": 15,
        "min_alpha_word_fraction": 0.774,
    }


WRONG = {
    "language_score: 0.3": ("language_score: 3", r"deu_Latn\.yml: language_score: .*less than or equal to 1"),
    "max_avg_word_length: 15": ("max_avg_word_length: 0", r"max_avg_word_length: .*greater than 0"),
    "new_line_ratio: 0.152": ("other: 1", "new_line_ratio: Field required"),
    "dup_line_frac: 0.263": ("dup_line_frac: [", r"deu_Latn\.yml"),
}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_file_of_bounds_is_named_with_its_value(folder, value):
    wrong, message = WRONG[value]
    (folder / "configs/deu_Latn.yml").write_text(BOUNDS.replace(value, wrong))
    with pytest.raises(ConfigError, match=message):
        write_recipe("fineweb2", None, "configs")
    assert not (folder / "fineweb2.yaml").exists()


@pytest.mark.parametrize(
    "name",
    ["x: 1", "null", "deu_Latn\nrules: {custom: [evil:f]}\n#", "'", "\x1b[2J", "deu_latn", "deu_Latn ", "ünd_Latn"],
)
def test_the_name_of_a_file_of_bounds_is_a_language(folder, name):
    (folder / f"configs/{name}.yml").write_text(BOUNDS)
    with pytest.raises(ConfigError, match=r"is no language of configs\. Languages are named as deu_Latn\.$") as error:
        write_recipe("fineweb2", None, "configs")
    assert str(error.value).isprintable() and not (folder / "fineweb2.yaml").exists()


def test_mistakes_are_said(folder):
    with pytest.raises(ConfigError, match=r"'finweb' is no recipe; there are c4, dclm, .*refinedweb"):
        write_recipe("finweb")
    with pytest.raises(ConfigError, match="fineweb2 needs bounds=FOLDER"):
        write_recipe("fineweb2")
    with pytest.raises(ConfigError, match="other recipes have no bounds"):
        write_recipe("c4", None, "configs")
    with pytest.raises(ConfigError, match=r"fra_Latn\.yml: no such file"):
        write_recipe("fineweb2", None, "configs", ["fra_Latn"])
    with pytest.raises(ConfigError, match="crawl has no files such as"):
        write_recipe("fineweb2", None, "crawl")
    write_recipe("c4")
    before = (folder / "c4.yaml").read_text()
    with pytest.raises(ConfigError, match=r"c4\.yaml exists\. Name another file"):
        write_recipe("c4")
    assert (folder / "c4.yaml").read_text() == before == (RECIPES / "c4.yaml").read_text()


def test_a_bound_that_bounds_nothing_is_said(folder, caplog):
    (folder / "configs/deu_Latn.yml").write_text(BOUNDS.replace("max_avg_word_length: 15", "max_avg_word_length: 3141"))
    write_recipe("fineweb2", None, "configs")
    assert "deu_Latn.yml: max_avg_word_length 3141 bounds nothing" in caplog.text
