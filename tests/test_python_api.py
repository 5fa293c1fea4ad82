"""`import raymill`: its names, the settings that editors see, and the functions beside the verbs of the command."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import raymill
from raymill.cluster import cli
from raymill.cluster.answer import Answer
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.frame import kinds
from raymill.cluster.frame.calls import config_of
from raymill.cluster.frame.functions import function_of
from raymill.cluster.progress import ProgressUpdate
from raymill.cluster.submit.calls import PlaceOptions
from raymill.cluster.submit.place import Place
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.prepare.commands import _ACTIONS
from raymill.training import train_run
from tests.golden.typed_settings import FILE, module_text, settings_of
from tests.support.inline import without_ray
from tests.support.stories import story
from tests.support.train_inline import PLAIN, train_without_ray

# Options of the command that are no arguments of the function -> what the function has in their stead.
ONLY_OF_THE_COMMAND = {
    "json_": "the function returns the values",
    "as_json": "the function returns the values",
    "dry_run": "raymill.dry_run",
    "gate": "`passed` of the assessment",
    "detach": "the function returns when the job is accepted; `follow()` of the job follows it",
    "all_": "the function returns all",
    "preview": "raymill.preview",
    "token": "`tokens`, a sequence",
    "adapter": "`adapters`, a mapping of paths to weights",
    "where": "positional",
}


def test_names_are_those_of_the_verbs_and_few_others():
    of_verbs = {name.replace("-", "_") for name in cli.verbs()}
    assert of_verbs - set(raymill.__all__) == set()
    others = {"__version__", "data", "open", "session", "dry_run", "job", "preview"}
    errors = {name for name in raymill.__all__ if name.endswith("Error")}
    assert set(raymill.__all__) - of_verbs == others | errors
    assert sorted(raymill.__all__) == raymill.__all__ and set(raymill.__all__) <= set(dir(raymill))
    with pytest.raises(AttributeError, match="module 'raymill' has no attribute 'curtate'"):
        _ = raymill.curtate


def test_a_type_checker_finds_what_the_module_returns():
    """The imports for type checkers are text that nothing else runs."""
    tree = ast.parse(Path(raymill.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    found = {}
    for node in checked.body:
        for alias in node.names:
            module = __import__(node.module, fromlist=[alias.name])
            found[alias.asname or alias.name] = getattr(module, alias.name)
    assert found == {name: getattr(raymill, name) for name in raymill.__all__ if name != "__version__"}


@pytest.mark.parametrize("name", sorted(cli.verbs()))
def test_the_function_of_a_verb_has_its_options(name):
    """Neither can do what the other cannot."""
    if name in ("dataset", "config"):
        return  # modules with a function for each action
    verb = cli.verbs()[name]
    function = function_of(name.replace("-", "_"))
    taken = inspect.signature(function).parameters
    options = set(inspect.signature(cli._function(name, verb)).parameters) - set(ONLY_OF_THE_COMMAND)
    if "place" in taken:
        options -= set(PlaceOptions.__annotations__)
    assert options - set(taken) == set()
    assert function.__doc__


def test_the_keywords_of_a_place_are_the_options_of_the_command():
    named = dict.fromkeys(PlaceOptions.__annotations__)
    assert list(named) == list(inspect.signature(Place).parameters)
    assert named.keys() <= inspect.signature(raymill.submit).parameters.keys()
    with pytest.raises(TypeError, match="adress"):
        raymill.runs(adress="http://127.0.0.1:8265")


def test_the_modules_of_verbs_with_actions_have_a_function_for_each():
    assert all(callable(getattr(raymill.dataset, action)) for action in _ACTIONS)
    assert raymill.config.schema()["discriminator"]["propertyName"] == "kind"
    assert isinstance(raymill.config.check(inputs="x", output="y", kind="curate"), CurateConfig)


def test_a_kind_of_another_package_is_a_function_too(monkeypatch):
    named = {"words": EntryPoint("words", "tests.support.words_kind:WORDS", kinds.GROUP)}
    monkeypatch.setattr(kinds, "_named", lambda: named)
    kinds.kind_of.cache_clear()
    with pytest.raises(ConfigError, match=r"raymill\.words, output: missing"):
        function_of("words")(inputs=["x"], name="w")
    kinds.kind_of.cache_clear()


# ---- settings


def test_the_typed_settings_are_those_of_the_configs():
    """`make golden` writes them again."""
    assert FILE.read_text() == module_text()


def test_the_typed_settings_load_no_pydantic():
    code = "import sys, raymill.typed_settings; print(sorted({'pydantic', 'ray', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_setting_of_curate_is_a_keyword_with_a_description():
    keywords = inspect.signature(raymill.curate).parameters
    assert list(settings_of(CurateConfig)) == list(keywords)[1 : 1 + len(settings_of(CurateConfig))]
    assert all(f"        {name}: " in raymill.curate.__doc__ for name in keywords)


def test_a_config_is_a_file_a_dict_an_object_or_keywords_and_keywords_win(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "kind: curate\ninputs: [{path: in}]\noutput: out/web\nname: mine\nlanguage: null\n"
    )
    plain = {"kind": "curate", "inputs": [{"path": "in"}], "output": "out/web", "name": "mine", "language": None}
    for config in (tmp_path / "c.yaml", str(tmp_path / "c.yaml"), plain, CurateConfig.model_validate(plain)):
        found = config_of(config, {"output": tmp_path / "other", "rules": None}, {"dedup.threshold": 0.9}, "curate")
        assert (found.name, found.language, found.rules, found.dedup.threshold) == ("mine", None, None, 0.9)
        assert found.output == str(tmp_path / "other")
    of_keywords = config_of(None, {"inputs": "in", "output": "out/web", "language": None}, None, "curate")
    assert of_keywords == CurateConfig.model_validate(plain | {"name": "web"})
    assert config_of(of_keywords) is of_keywords


def test_keys_of_a_store_stay_those_of_a_config_object():
    plain = {"kind": "curate", "name": "a", "inputs": [{"path": "in"}], "output": "s3://b/o"}
    storage = {"access_key_id": "AK", "secret_access_key": "hunter2hunter2"}
    config = CurateConfig.model_validate(plain | {"storage": storage})
    assert config_of(config, {"language": None}).storage.secret_access_key.get_secret_value() == "hunter2hunter2"


def test_mistakes_are_an_error_with_an_entry_for_each():
    with pytest.raises(ConfigError) as caught:
        raymill.curate(inputs="in", output="o", dedup={"threshold": 2}, language={"kep": ["en"]})
    first, second = caught.value.problems
    assert (first.where, first.seen) == ("raymill.curate, language.kep", "no such setting")
    assert first.fix.startswith("Did you mean keep? language has: ")
    assert (second.where, second.seen, second.wanted) == ("raymill.curate, dedup.threshold", "2 given", "at most 1.0")
    assert str(caught.value) == f"{first.message}\n{second.message}" and caught.value.where == first.where


def test_missing_things_are_errors_with_place_and_fix(tmp_path):
    with pytest.raises(DataError) as caught:
        raymill.open(tmp_path / "nothing")
    assert caught.value.where == str(tmp_path / "nothing") and caught.value.fix == "Check the path."
    with pytest.raises(StorageError) as missing:
        raymill.curate(tmp_path / "no.yaml")
    assert missing.value.where == str(tmp_path / "no.yaml") and missing.value.seen == "no such file"


# ---- the whole


def test_the_tour_of_the_guide(tmp_path, monkeypatch, capsys):
    """A corpus, a data set and a model, without Ray: what the README shows."""
    monkeypatch.chdir(tmp_path)
    without_ray(monkeypatch)
    train_without_ray(monkeypatch)
    here = lambda session, function, *arguments, **resources: function(*arguments)  # noqa: E731
    monkeypatch.setattr(train_run, "in_worker", here)
    Path("crawl").mkdir()
    texts = [*(story(number) for number in range(6)), story(0), "Too short."]
    for number, text in enumerate(texts):
        Path("crawl", f"{number}.txt").write_text(text)
    updates: list[ProgressUpdate] = []

    run = raymill.curate(inputs="crawl/*.txt", output="out/web", language=None, progress=updates.append)
    assert run.fresh and run.corpus.rows == 6 and "Exact duplicates" in run._repr_html_()
    assert {one.stage for one in updates} >= {"measure", "decide", "select"}
    (copy,) = run.removed.sample(5, reason="exact_duplicate")
    assert "exact_duplicate" in run.explain(copy["id"])
    assert raymill.explain("out/web", copy["id"]) == run.explain(copy["id"])
    changed = run.what_if({"rules.gopher_quality.min_words": 1}, progress=False)
    assert isinstance(changed, Answer) and "1 -> 0" in str(changed)
    again = raymill.open("out/web")
    assert again.what_if({"rules.gopher_quality.min_words": 1}, progress=False) == changed
    assert not raymill.curate(inputs="crawl/*.txt", output="out/web", language=None, progress=False).fresh
    with pytest.raises(DataError, match="other settings"):
        raymill.curate(inputs="crawl/*.txt", output="out/web", language=None, dedup=None, progress=False)
    rows = "".join(f"How long is river {n}?,It is {n * 3} units long.\n" for n in range(60))
    Path("tickets.csv").write_text("prompt,completion\n" + rows)
    Path("prepare.yaml").write_text("kind: prepare\ninputs: [{path: tickets.csv}]\noutput: elsewhere\n")
    data = raymill.prepare("prepare.yaml", output="data/helpdesk", progress=False)
    assert data.assess(progress=False).folder == str(tmp_path / "data/helpdesk")
    assert data.tag("helpdesk").version == "v1" and raymill.dataset.log("helpdesk")[0].output == data.uri
    settings = {name: value for name, value in PLAIN.items() if name not in ("kind", "name")}
    model = raymill.train(corpus=data, **settings | {"steps": 2}, output="runs/helpdesk", progress=False)
    assert model.name == "helpdesk" and model.losses.to_pandas()["step"].tolist() == [0, 1, 2]
    assert len(model.generate(["My parcel is lost", [{"role": "user", "content": "Hi"}]], max_new_tokens=4)) == 2
    assert Path(model.export["full"], "model.safetensors").exists()
    assert raymill.open("runs/helpdesk").results == model.results
    assert capsys.readouterr().out == ""


def test_misspelt_keywords_are_named_all_at_once_with_the_nearest():
    with pytest.raises(raymill.ConfigError) as raised:
        raymill.curate(dedupe={}, langauge={}, output="x")
    assert str(raised.value).splitlines() == [
        "curate, dedupe: no such setting. Did you mean dedup?",
        "curate, langauge: no such setting. Did you mean language?",
    ]
    assert [one.fix for one in raised.value.problems] == ["Did you mean dedup?", "Did you mean language?"]
