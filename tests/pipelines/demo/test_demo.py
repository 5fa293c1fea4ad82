"""The demo: the collected text, the planted documents, and every command that it prints."""

import json
import shlex
from functools import partial

import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load
from raymill.cluster.frame import job as frame
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import curate
from raymill.pipelines.dedup.compare import EXACT, NEAR
from raymill.pipelines.demo import commands as demo
from raymill.pipelines.demo.commands import CONFIG, DATA, config_text, expand_repeated, stage_inputs
from raymill.pipelines.demo.installed import (
    CollectionLimits,
    collect,
    distributions,
    docstrings,
    packages,
    standard_library,
)
from raymill.pipelines.rules.filters import all_reasons, check_results
from raymill.pipelines.text.personal_data import KINDS, PLACEHOLDERS
from tests.support.inline import InlineEngine

# An empty document is in no kept language and too short: those reasons come before its own ones.
NEVER_FIRST = {("gopher_repetition", "empty"), ("fineweb", "empty")}

LICENCE = (
    "Permission to read this invented library is given to everyone who asks for it. It comes without any promise, and "
    "whoever uses it does so at their own risk. Keep this notice with every copy that you make of it, and do not say "
    "that you wrote it when you did not. If it breaks, you may keep both of the pieces that you are left with then."
)
METADATA = """Metadata-Version: 2.1
Name: {name}
Version: 1.0
License-Expression: MIT

# {name}

The library {name} counts things and then counts them again, which is why people like to use it.
"""
CODE = '''"""Count things, {name} by {name}, and say how many there were.

What is counted stands in a file, one thing a line. Lines that are empty, and lines that begin with a space, are not
things and are not counted. The order of the lines does not matter, because the count is the same in any order, and a
thing that stands there twice is counted twice as well. {name}
"""

raise SystemExit("importing this module would end the demo")


class Counter:
    """Short."""

    def count(self):
        """Count the things that were given to this counter, from the first one to the last one, and return the number.

        Nothing is changed by it, and it may be called as often as one likes. It takes as long as there are things. If
        there are none, the number is zero, which is not an error; a counter of {name} that was never given anything
        says so.
        """
'''


@pytest.fixture
def site(tmp_path):
    """A folder of site-packages with two packages, some of whose files are hard to read."""
    folder = tmp_path / "site-packages"
    for name in ("alpha", "beta"):
        files = {
            f"{name}/__init__.py": CODE.format(name=name).encode(),
            f"{name}/broken.py": b"def (:",
            f"{name}/surrogate.py": b'"""' + b"\\ud800 " * 100 + b'"""',
            f"{name}/guide.rst": f"Guide to {name}\n\nThere is nothing to say about it.".encode(),
            f"{name}/latin.txt": "café".encode("latin-1"),
            f"{name}/tests/notes.txt": b"Notes of a test.",
            f"{name}-1.0.dist-info/licenses/LICENSE": LICENCE.encode(),
            f"{name}-1.0.dist-info/top_level.txt": name.encode(),
            f"{name}-1.0.dist-info/METADATA": METADATA.format(name=name).encode(),
        }
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        record = [*files, f"{name}/gone.md", "shared/NOTICE"]
        (folder / f"{name}-1.0.dist-info/RECORD").write_text("".join(f"{path},,\n" for path in record))
    (folder / "shared").mkdir()
    (folder / "shared/NOTICE").write_text("Both packages say that this file is theirs.")
    return folder


def found(site, **bounds):
    return [(d.source, d.id) for d in collect(distributions(str(site)), CollectionLimits(**bounds))]


def test_licences_docs_and_docstrings_are_collected_once_each_and_unreadable_files_are_skipped(site):
    assert found(site) == [
        ("licences", "alpha-1.0.dist-info/licenses/LICENSE"),
        ("licences", "shared/NOTICE"),
        ("licences", "beta-1.0.dist-info/licenses/LICENSE"),
        ("docs", "alpha/readme"),
        ("docs", "alpha/guide.rst"),
        ("docs", "beta/readme"),
        ("docs", "beta/guide.rst"),
        ("docstrings", "alpha/__init__.py#module"),
        ("docstrings", "alpha/__init__.py#Counter.count"),
        ("docstrings", "beta/__init__.py#module"),
        ("docstrings", "beta/__init__.py#Counter.count"),
    ]


def test_a_document_has_the_package_version_and_licence_of_its_file(site):
    first = next(collect(distributions(str(site))))
    assert (first.package, first.version, first.licence) == ("alpha", "1.0", "MIT")
    assert first.text == LICENCE


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        ({"documents": 3}, 3),
        ({"text_bytes": len(LICENCE)}, 1),
        ({"docstrings_of_package": 1}, 9),
        ({"source_chars_of_package": 100}, 7),
        ({"file_bytes": len(LICENCE) - 1}, 5),
    ],
)
def test_collecting_stops_at_every_bound(site, bounds, count):
    assert len(found(site, **bounds)) == count


def test_nested_names_are_qualified_and_a_conditional_definition_is_found():
    code = 'class A:\n  "a"\n  class B:\n    def f(self):\n      "f"\nif A:\n  def g():\n    "g"\n'
    assert list(docstrings(code)) == [("A", "a"), ("A.B.f", "f"), ("g", "g")]


def test_the_standard_library_has_the_language_reference():
    ids = [document.id for document in collect([standard_library()], CollectionLimits(source_chars_of_package=0))]
    assert "python/help/if" in ids and "python/LICENSE.txt" in ids


def test_this_installation_gives_the_same_documents_twice():
    bounds = CollectionLimits(documents=300, source_chars_of_package=50_000)
    first = list(collect(packages(), bounds))
    assert first == list(collect(packages(), bounds))
    assert len({document.id for document in first}) == 300


def test_the_config_is_one_for_the_default_output_and_for_any_other(tmp_path):
    assert isinstance(load(str(CONFIG)), CurateConfig)
    folder = str(tmp_path / 'a "quoted" folder, ü')
    written = tmp_path / "curate.yaml"
    written.write_text(config_text(folder), "utf-8")
    config = load(str(written))
    assert config.output == folder
    assert all(entry.path.startswith(f"{folder}-input/") for entry in config.inputs)


def test_a_repeated_text_is_expanded():
    assert expand_repeated(b'{"id": "a", "text": "so ", "times": 3}\n') == b'{"id": "a", "text": "so so so "}\n'
    assert expand_repeated(b"no JSON at all") == b"no JSON at all"


def test_the_unreadable_lines_are_few_enough_for_a_thousand_documents():
    lines = (DATA / "planted_unreadable.jsonl").read_bytes().splitlines()
    assert len(lines) <= 1000 * load(str(CONFIG)).execution.max_bad_documents


def test_our_own_sentences_are_not_those_of_this_python():
    ours = "\n".join(document["text"] for document in own_documents())
    theirs = "\n".join(
        document.text for document in collect([standard_library()], CollectionLimits(docstrings_of_package=0))
    )
    assert len(word_runs(theirs)) > 10_000
    assert not word_runs(ours) & word_runs(theirs)


def word_runs(text, length=6):
    words = text.lower().split()
    return set(zip(*(words[start:] for start in range(length)), strict=False))


def own_documents():
    return [json.loads(line) for name in ("languages", "planted") for line in (DATA / f"{name}.jsonl").open("rb")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the demo's own sets with its config, without Ray, as on a machine without installed text."""
    folder = tmp_path_factory.mktemp("demo")
    stage_inputs(f"{folder}-input", [])
    (folder / "curate.yaml").write_text(config_text(str(folder)), "utf-8")
    config = load(str(folder / "curate.yaml"), ["execution.max_bad_documents=0.2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "Engine", InlineEngine)
        curate(config, Session(), Progress())
    return folder, config


def rows(folder, artifact):
    return [row for table in Artifact.load(Store(), str(folder / artifact)).tables() for row in table.to_pylist()]


def test_something_planted_is_removed_for_every_reason_there_is(run):
    folder, config = run
    removed = {row["id"]: (row["stage"], row["reason"]) for row in rows(folder, "removed")}
    expected = set(all_reasons(config.filters)) - NEVER_FIRST
    assert {(rule, reason) for rule, reason in expected if removed.get(f"planted/{reason}") != (rule, reason)} == set()
    assert {id for id, (_, reason) in removed.items() if reason == EXACT} == {
        "planted/exact_duplicate/again",
        "planted/exact_duplicate/other_spaces",
    }
    assert {id for id, (_, reason) in removed.items() if reason == NEAR} == {
        "planted/near_duplicate/another_word",
        "planted/near_duplicate/another_ending",
    }


def test_the_empty_document_fails_the_checks_that_never_come_first(run):
    folder, config = run
    attributes = Artifact.load(Store(), str(folder / "attributes"))
    table = next(table for table in attributes.tables() if "planted/empty" in table["id"].to_pylist())
    row = table["id"].to_pylist().index("planted/empty")
    failed = {(check.rule, check.reason) for check in check_results(table, config.filters) if check.fails[row]}
    assert failed >= NEVER_FIRST


def test_every_kept_language_has_a_document_that_is_recognised(run):
    folder, config = run
    recognised = {row["id"]: row["language"] for row in rows(folder, "attributes") if row["source"] == "languages"}
    assert recognised == {f"languages/{language}": language for language in config.language.keep}


def test_every_kind_of_personal_data_is_replaced(run):
    texts = {row["id"]: row["text"] for row in rows(run[0], "corpus")}
    shown = {kind: texts[f"planted/personal_data/{kind}"] for kind in KINDS}
    assert {kind for kind, text in shown.items() if PLACEHOLDERS[kind] not in text} == set()
    assert "4111" not in shown["credit_card"] and "8.8.8.8" not in shown["ip"]


def test_mojibake_and_control_characters_are_repaired(run):
    texts = {row["id"]: row["text"] for row in rows(run[0], "corpus")}
    assert "café" in texts["planted/mojibake"] and "Ã" not in texts["planted/mojibake"]
    assert "the first time in forty years. It began" in texts["planted/control_characters"]
    assert "cooperative" in texts["planted/control_characters"]


def test_every_bad_line_is_quarantined_and_its_neighbour_is_kept(run):
    folder, _ = run
    assert sorted(row["problem"] for row in rows(folder, "quarantine")) == [
        "bad_utf8", "broken_json", "broken_json", "lone_surrogate", "missing_text", "not_a_string", "not_an_object",
        "null_text",
    ]  # fmt: skip
    assert "planted/good_neighbour" in {row["id"] for row in rows(folder, "corpus")}


def test_ids_are_unique(run):
    ids = [row["id"] for row in rows(run[0], "attributes")]
    assert len(set(ids)) == len(ids)


@pytest.fixture
def demo_inline(site, monkeypatch):
    """The demo with the packages of `site`, without Ray; returns what was printed."""

    monkeypatch.setattr(demo, "packages", lambda: distributions(str(site)))
    bad = ["execution.max_bad_documents=0.2"]
    monkeypatch.setattr(demo, "make_and_print", partial(demo.make_and_print, override=bad))
    monkeypatch.setattr(frame, "Engine", InlineEngine)
    monkeypatch.chdir(site.parent)

    def run(**options):
        demo.demo(**{"output": "out/first run", "replace": False} | options)

    return run


def test_the_second_demo_finds_the_first_one_finished_and_replace_starts_anew(demo_inline, capsys):
    demo_inline()
    first = capsys.readouterr().out
    assert "Collecting" in first and "What next" in first
    demo_inline()
    second = capsys.readouterr().out
    assert "Collecting" not in second and "finished before, nothing to do" in second
    demo_inline(replace=True)
    third = capsys.readouterr().out
    assert "Collecting" in third and "finished before" not in third


def test_the_commands_that_the_demo_ends_with_work(demo_inline, capsys):
    demo_inline()
    printed = capsys.readouterr().out.partition("What next:\n")[2].splitlines()
    lines = [line.strip().replace("FOLDER", "first/folder") for line in printed if line.startswith("    raymill ")]
    verbs = []
    for line in lines:
        _, verb, *rest = shlex.split(line)
        verbs.append(verb)
        extra = ["--dry-run"] if verb == "curate" else []
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *rest, *extra])
        printed = capsys.readouterr()
        if verb == "curate":  # the folder that stands for the reader's own is not there
            assert ended.value.code == 2 and "first/folder" in printed.err, (line, printed)
        else:
            assert ended.value.code == 0 and printed.out.strip(), (line, printed.err)
    assert verbs == ["explain", "sample", "what-if", "inspect", "sample", "curate"]


def test_a_remote_output_is_refused():
    with pytest.raises(demo.ConfigError, match="has to be a folder on this machine"):
        demo.demo("s3://bucket/demo", False)
