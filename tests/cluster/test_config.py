# ruff: noqa: E501 - messages stand here as a person sees them
"""Every mistake in a config is told at once, each in a line: file, key, what was seen, what was wanted, the fix."""

import json
import math
import re
from collections.abc import Iterator

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict

from raymill.cluster import config as configs
from raymill.cluster import config_text
from raymill.cluster.config import load, load_storage, schema
from raymill.cluster.config_text import format_of, parse
from raymill.cluster.errors import ConfigError
from raymill.cluster.readers.inputs import input_stores
from raymill.cluster.store.interface import NotFound, StorageOptions
from raymill.cluster.wording import of_the_command
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import result_settings as curate_settings

GOOD = "kind: curate\nname: peps\ninputs: [{path: data}]\noutput: out\n"

# The config of the design, as other tools write it.
EXAMPLE = """
kind: curate
name: peps
inputs:
  - {source: peps, path: "data/*.parquet", text: text, id: id, licence: PSF}
output: runs/peps
language: {keep: [en], min_score: 0.65, max_chars: 1000}
rules: {packs: [gopher_quality, gopher_repetition, c4, fineweb], dialect: paper, gopher_quality: {min_words: 50}}
personal_data: {redact: [email, phone, ssn, credit_card, iban, ip]}
dedup: {threshold: 0.8, ngram_words: 5, bands: 14, rows_per_band: 8, keeper: position, scope: all}
"""

TOP = (
    "boilerplate, corpus, dedup, execution, inputs, kind, language, limits, name, output, personal_data, repeats, "
    "report, rules, storage"
)


@pytest.fixture
def read(tmp_path):
    """Load a config of this text; the file's folder is left out of messages."""

    def load_text(text: str | bytes, *overrides: str, name: str = "c.yaml") -> CurateConfig:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            return load(str(path), overrides)
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{tmp_path}/", "")) from error

    return load_text


@pytest.fixture(autouse=True)
def as_the_command_shows_them() -> Iterator[None]:
    """Messages in the words of the command line; test_wording.py has those of Python."""
    with of_the_command():
        yield


def lines(caught) -> list[str]:
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("added", "line"),
    [
        (
            "max_bad_documents: 0.1",
            f"c.yaml, max_bad_documents: no such setting. Did you mean execution.max_bad_documents? "
            f"A config has: {TOP}.",
        ),
        (
            "dedup: {attempts: 3}",
            "c.yaml, dedup.attempts: no such setting. Did you mean execution.attempts? dedup has: against, bands, component_documents, connected_at_once, exact_short, keeper, keeper_score, newest_by, ngram_words, permutations, "
            "remove, rows_per_band, scope, seed, sources, symbols, threshold.",
        ),
        (
            "min_words: 3",
            f"c.yaml, min_words: no such setting. Did you mean boilerplate.min_words or "
            f"repeats.min_words or rules.gopher_quality.min_words? A config has: {TOP}.",
        ),
        ("dedupp: {}", f"c.yaml, dedupp: no such setting. Did you mean dedup? A config has: {TOP}."),
        (
            "execution: {attemts: 3}",
            "c.yaml, execution.attemts: no such setting. Did you mean attempts? execution has: attempts, cpus, losses, max_bad_documents, "
            "max_bad_files, stall_s, unit_mib.",
        ),
        ("dedup: {threshold: high}", "c.yaml, dedup.threshold: 'high' given; wanted a number."),
        ("dedup: {threshold: 7}", "c.yaml, dedup.threshold: 7 given; wanted at most 1.0."),
        ("dedup: {threshold: .nan}", "c.yaml, dedup.threshold: nan given; wanted a number that is not NaN."),
        ("dedup: {bands: .nan}", "c.yaml, dedup.bands: nan given; wanted a number that is not NaN."),
        ("dedup: {threshold: 0}", "c.yaml, dedup.threshold: 0 given; wanted more than 0.0."),
        ("dedup: 3", "c.yaml, dedup: 3 given; wanted a group of settings, as in {name: value}."),
        ("rules: [c4]", "c.yaml, rules: ['c4'] given; wanted a group of settings, as in {name: value}."),
        ("language: {keep: en}", "c.yaml, language.keep: 'en' given; wanted a list, as in [a, b]."),
        (
            "personal_data: {redact: {email: 1}}",
            "c.yaml, personal_data.redact: {'email': 1} given; wanted a list. For a list of one, put it in [ ].",
        ),
        ("execution: {attempts: 1.5}", "c.yaml, execution.attempts: 1.5 given; wanted a whole number."),
        ("execution: {cpus: 0}", "c.yaml, execution.cpus: 0 given; wanted at least 1."),
        ("dedup: {remove: perhaps}", "c.yaml, dedup.remove: 'perhaps' given; wanted true or false."),
        ("report: {samples: }", "c.yaml, report.samples: nothing given; wanted a whole number."),
        (
            "rules: {packs: [c4, gopher_qualty]}",
            "c.yaml, rules.packs.1: 'gopher_qualty' given; wanted 'gopher_quality', 'gopher_repetition', 'c4' or "
            "'fineweb'. Did you mean gopher_quality?",
        ),
        (
            "rules: {dialect: papr}",
            "c.yaml, rules.dialect: 'papr' given; wanted 'paper' or 'datatrove'. Did you mean paper?",
        ),
        (
            "dedup: {bands: 3}",
            "c.yaml, dedup: 3 bands of 8 signature columns catch only 42% of the pairs at similarity 0.8; set bands and "
            "rows_per_band to null to derive them from the threshold.",
        ),
        (
            "rules: {gopher_quality: {min_words: 500, max_words: 3}}",
            "c.yaml, rules.gopher_quality: min_words=500 is above max_words=3, so no document could pass. Swap them, or "
            "set min_words to 0 to drop the lower bound.",
        ),
        (
            "storage: {access_key_id: AKIA1}",
            "c.yaml, storage: access_key_id and secret_access_key go together: give both, or neither.",
        ),
        ("3: x", "c.yaml: 3 is not the name of a setting; a name is text."),
        ("name: y", "c.yaml: not valid YAML: `name` is given twice, in lines 2 and 5: keep one."),
        (
            "dedup: {threshold: 0.7, threshold: 0.8}",
            "c.yaml: not valid YAML: `threshold` is given twice, in lines 5 and 5: keep one.",
        ),
        ("? [a]\n: b", "c.yaml: not valid YAML: the key in line 5 is a list or a mapping: write a name."),
        (
            "dedup:\n\tthreshold: 0.8",
            "c.yaml, line 6, column 1: not valid YAML: found character '\\t' that cannot start any token. Indent with spaces.",
        ),
        ("report: a\n\0b", "c.yaml, line 6: not valid YAML: holds the control character U+0000. Remove it."),
        ("dedup: [", "c.yaml, line 6, column 1: not valid YAML: expected the node content, but found '<stream end>'."),
        ("report: &a {x: *a}", "c.yaml, line 5, column 9: not valid YAML: found unconstructable recursive node."),
        (
            "report: !!python/object/apply:os.system [ls]",
            "c.yaml, line 5, column 9: not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'.",
        ),
        ("---\nkind: x", "c.yaml, line 5, column 1: not valid YAML: but found another document."),
    ],
)
def test_a_mistake_is_one_line_with_its_fix(read, added, line):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + added + "\n")
    assert lines(caught) == [line]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            [
                "c.yaml: nothing; a config is a mapping of settings. Write each as `name: value` on a line of its own, "
                "as in `kind: curate`."
            ],
        ),
        (
            "kind: curat\n",
            [
                "c.yaml, kind: 'curat' given; wanted one of: curate, prepare, train, cross-validate, generate, distil, prompt, annotate, errors, compare, promote, run. Did you mean curate?"
            ],
        ),
        (
            "name: x\n",
            [
                "c.yaml, kind: nothing given; wanted one of: curate, prepare, train, cross-validate, generate, distil, prompt, annotate, errors, compare, promote, run."
            ],
        ),
        (
            "kind: curate\nname: x\n",
            [f"c.yaml, {name}: missing, and it has no default. Add `{name}:` here." for name in ("inputs", "output")],
        ),
        (
            "kind: curate\nname: x y\noutput: o\ninputs: [{pth: x}, {path: 3}]\n",
            [
                "c.yaml, name: 'x y' given; wanted letters, digits, `_`, `.` and `-`, of which the first is a letter or digit.",
                "c.yaml, inputs.0.path: missing, and it has no default. Add `path:` here.",
                "c.yaml, inputs.0.pth: no such setting. Did you mean path? inputs.0 has: columns, delimiter, encoding, exclude, extractor, follow_links, format, id, licence, path, "
                "snapshot, source, split, storage, text, weight.",
                "c.yaml, inputs.1.path: 3 given; wanted text (in quotes, if it looks like a number).",
            ],
        ),
        (
            "kind: curate\nname: x\noutput: ''\ninputs: []\n",
            [
                "c.yaml, inputs: [] given; wanted at least 1 in the list.",
                "c.yaml, output: '' given; wanted at least 1 character.",
            ],
        ),
        (
            b"kind: curate\nname: caf\xe9\n",
            ["c.yaml: not UTF-8 text (invalid continuation byte at byte 22). Save it as UTF-8."],
        ),
        (
            "- a\n- b\n",
            [
                "c.yaml: a list; a config is a mapping of settings. Write each as `name: value` on a line of its own, "
                "without `- ` before it, as in `kind: curate`."
            ],
        ),
        (
            "curate",
            [
                "c.yaml: 'curate'; a config is a mapping of settings. Write each as `name: value` on a line of its own, "
                "as in `kind: curate`."
            ],
        ),
    ],
)
def test_everything_that_is_wrong_is_reported_at_once(read, text, said):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert lines(caught) == said


def test_mistakes_of_a_group_are_told_beside_those_of_its_settings_and_none_that_these_make(read):
    with pytest.raises(ConfigError) as caught:
        read(
            "kind: prepare\nname: x\noutput: o\ninputs: [a]\nvalidate: {answer_chars: [500, 20], refusal: []}\n"
            "split: {trian: 0.5, test: 0.5, validation: 0}\n"
        )
    assert [one.partition(". ")[0] for one in lines(caught)] == [
        "c.yaml, validate.refusal: no such setting",
        "c.yaml, split.trian: no such setting",
        "c.yaml, validate.answer_chars: [500, 20] is no range; the first number is the least.",
    ]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"c\.yaml: no such file"):
        load(str(tmp_path / "c.yaml"))


def test_scalars_are_those_of_yaml_1_2(read):
    config = read(
        GOOD.replace("peps", "2026-01-01")
        + "language: {keep: [no, on, y]}\nexecution: {max_bad_documents: 1e-4, unit_mib: 0x10}\n"
        + "report: {samples: 010}\ndedup: {threshold: .9, keeper: position}\n"
    )
    assert config.language.keep == ("no", "on", "y")
    assert config.name == "2026-01-01"
    assert (config.execution.max_bad_documents, config.execution.unit_mib) == (1e-4, 16)
    assert (config.report.samples, config.dedup.threshold) == (10, 0.9)


def test_a_sixty_based_time_is_text(read):
    with pytest.raises(ConfigError, match="'12:30:00' given"):
        read(GOOD.replace("peps", "12:30:00"))


def test_anchors_and_merges_work(read):
    config = read(
        "kind: curate\nname: x\noutput: o\ninputs:\n  - &one {path: /a, source: s}\n  - {<<: *one, path: /b}\n"
    )
    assert [(entry.path, entry.source) for entry in config.inputs] == [("/a", "s"), ("/b", "s")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "more than 100,000 values. Does an alias"),
        ("a: &a {b: *a}", "found unconstructable recursive node"),
    ],
)
def test_an_alias_inside_its_own_anchor_is_refused(read, text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(text)


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"limits": {"max_document_bytes": ' + "9" * 5000 + "}}", "a number of 5,000 digits: write at most 1,000"),
        ("[" * 30_000, "lists or mappings stand more than a hundred levels deep"),
        ('{"a":' * 30_000, "lists or mappings stand more than a hundred levels deep"),
    ],
)
def test_numbers_and_brackets_without_end_are_the_users_mistake(name, text, said):
    with pytest.raises(ConfigError, match=said):
        config_text.parse(text, name, config_text.format_of(name))


def test_json_is_a_config_too_tabs_and_all(read):
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": "a"}], "output": "o"}
    assert read(json.dumps(plain, indent="\t"), name="c.json").name == "x"
    assert read("\ufeff" + json.dumps(plain), name="c.json").name == "x"
    with pytest.raises(ConfigError, match=r"c.json: not valid JSON: `a` is given twice: keep one"):
        read('{"a": 1, "a": 2}', name="c.json")
    with pytest.raises(ConfigError, match=r"c.json: not valid JSON: Expecting.*line 1 column 2"):
        read("{kind: curate}", name="c.json")


@pytest.mark.parametrize(
    ("added", "seen"),
    [
        ("dedup: {bands: 100000}", "dedup.bands: 100000 given; wanted at most 4096"),
        ("dedup: {bands: 1000}", "dedup: 1000 bands of 8 columns are 8,000 signature columns"),
        ("dedup: {rows_per_band: 9999}", "dedup.rows_per_band: 9999 given; wanted at most 4096"),
        ("dedup: {permutations: 256}", "dedup.permutations: 256 has no effect beside bands"),
        ("dedup: {keeper: source}", "dedup: sources, the most trusted first, is required with keeper: source"),
        ("dedup: {keeper: newest}", "dedup: newest_by, a carried column, is required with keeper: newest"),
        ("dedup: {newest_by: date}", "dedup: newest_by, a carried column, is required with keeper: newest"),
        ("dedup: {sources: [input]}", "dedup: sources, the most trusted first, is required with keeper: source"),
        ("dedup: {keeper: source, sources: [input, input]}", "names a source twice"),
        ("execution: {stall_s: 0.001}", "execution.stall_s: 0.001 given; wanted at least 1.0"),
        ("execution: {stall_s: .inf}", "execution.stall_s: inf given; wanted at most"),
        ("execution: {attempts: 1000000}", "execution.attempts: 1000000 given; wanted at most 100"),
        ("execution: {unit_mib: 1000000}", "execution.unit_mib: 1000000 given; wanted at most 4096"),
        ("execution: {cpus: 1000000}", "execution.cpus: 1000000 given; wanted at most 1024"),
        ("limits: {max_document_bytes: 10000000000}", "limits.max_document_bytes: 10000000000 given; wanted at most"),
        ("storage: {timeout_s: 1e300}", "storage.timeout_s: 1e+300 given; wanted at most"),
        ("storage: {retries: 100000}", "storage.retries: 100000 given; wanted at most 1000"),
        ("storage: {endpoint_url: 'minio:9000'}", "storage.endpoint_url: 'minio:9000' is not the address of a store"),
    ],
)
def test_a_setting_that_could_only_do_harm_or_nothing_is_refused(read, added, seen):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + added + "\n")
    (line,) = lines(caught)
    assert seen in line


# --- overrides


@pytest.mark.parametrize(
    ("overrides", "get", "value"),
    [
        (["dedup.threshold=0.7"], lambda c: c.dedup.threshold, 0.7),
        (["dedup.threshold=0.7", "dedup.threshold=0.9"], lambda c: c.dedup.threshold, 0.9),
        (["dedup=null"], lambda c: c.dedup, None),
        (["dedup=null", "dedup.threshold=0.7"], lambda c: c.dedup.threshold, 0.7),
        (["inputs.0.path=/elsewhere"], lambda c: c.inputs[0].path, "/elsewhere"),
        (["rules.packs=[c4]"], lambda c: c.rules.packs, ("c4",)),
        (["rules.packs.0=c4", "rules.packs=[fineweb, c4]", "rules.packs.0=gopher_quality"],
         lambda c: c.rules.packs, ("gopher_quality", "c4")),
        (["rules.gopher_quality.min_words=5"], lambda c: c.rules.gopher_quality.min_words, 5),
        (["language.keep=[no, de]"], lambda c: c.language.keep, ("no", "de")),
        (["output=s3://b/x=y"], lambda c: c.output, "s3://b/x=y"),
        (["output=runs/a.json"], lambda c: c.output, "runs/a.json"),
    ],
)  # fmt: skip
def test_an_override_changes_one_setting(read, overrides, get, value):
    text = GOOD if overrides[0] != "rules.packs.0=c4" else GOOD + "rules: {packs: [fineweb]}\n"
    assert get(read(text, *overrides)) == value


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("dedup.threshold", "-o dedup.threshold: wanted key.sub=value, as in -o storage.retries=5."),
        ("=3", "-o =3: wanted key.sub=value, as in -o storage.retries=5."),
        ("dedup..x=3", "-o dedup..x=3: wanted key.sub=value, as in -o storage.retries=5."),
        ("name.x=3", "-o name.x=3: name is 'peps', which has no settings. Give name as a whole instead."),
        ("inputs.1.path=z", "-o inputs.1.path=z: there is no inputs.1 that has a path. Entries of a list are numbered from 0."),
        ("inputs[0].path=z", f"-o inputs[0].path=z, inputs[0]: no such setting. Write inputs.0 for an entry of inputs. A config has: {TOP}."),
        ("dedup.treshold=1", "-o dedup.treshold=1: no such setting. Did you mean threshold? dedup has: against, bands, component_documents, connected_at_once, exact_short, keeper, keeper_score, newest_by, ngram_words, "
         "permutations, remove, rows_per_band, scope, seed, sources, symbols, threshold."),
        ("dedup.threshold=[1", "-o dedup.threshold=[1, line 1, column 3: not valid YAML: expected ',' or ']', but got "
         "'<stream end>'."),
    ],
)  # fmt: skip
def test_a_wrong_override_is_reported_like_a_wrong_line(read, override, line):
    with pytest.raises(ConfigError) as caught:
        read(GOOD, override)
    assert lines(caught) == [line]


def test_wrong_overrides_and_wrong_lines_are_reported_together(read):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + "dedupp: {}\n", "name.x=3", "execution.cpus=many")
    assert [line.partition(":")[0] for line in lines(caught)] == [
        "-o name.x=3",
        "-o execution.cpus=many",
        "c.yaml, dedupp",
    ]


@pytest.mark.parametrize(
    ("added", "overrides", "where"),
    [
        ("", ["dedup.threshold=7"], "-o dedup.threshold=7: 7 given"),
        ("dedup: {threshold: 8}", ["dedup.threshold=7"], "-o dedup.threshold=7: 7 given"),
        ("", ["dedup.threshold=0.7", "dedup.threshold=7"], "-o dedup.threshold=7: 7 given"),
        ("", ["dedup={threshold: 7}"], "-o dedup={threshold: 7}, dedup.threshold: 7 given"),
        ("", ["dedup=3"], "-o dedup=3: 3 given"),
        ("", ["dedup.bands=3"], "-o dedup.bands=3, dedup: 3 bands of 8 signature columns catch only"),
        ("", ["inputs.0.format=exe"], "-o inputs.0.format=exe: 'exe' given"),
        ("", ["kind=bake"], "-o kind=bake: 'bake' given"),
        ("", ["dedup.scope=snapshot"], "-o dedup.scope=snapshot: dedup.scope: snapshot needs"),
        ("", ["output=${HOME}"], "-o output=${HOME}: '${HOME}' uses an environment variable"),
        ("dedup: {bands: 3}", ["dedup.seed=2"], "c.yaml, dedup: 3 bands of 8 signature columns catch only"),
        ("dedup: {threshold: 7}", ["dedup.seed=2"], "c.yaml, dedup.threshold: 7 given"),
        ("dedup: {scope: snapshot}", ["name=z"], "c.yaml, dedup.scope: snapshot needs"),
        ("", ["storage={secret_access_key: hunter2}"], "-o storage=(a secret): access_key_id and"),
    ],
)
def test_a_mistake_is_blamed_on_the_override_that_made_it_and_else_on_the_file(read, added, overrides, where):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + added + "\n", *overrides)
    (line,) = lines(caught)
    assert line.startswith(where)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("x" * 78, "x" * 78 + "' given"), ("x" * 79, "x" * 76 + "... given")],
)
def test_a_long_value_is_cut_at_eighty_characters(read, text, hint):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + f"language: {{keep: {text}}}")
    assert str(caught.value) == f"c.yaml, language.keep: '{hint}; wanted a list, as in [a, b]."


def test_a_name_that_several_groups_have_is_named_in_the_outer_ones_first_and_three_are_shown():
    class Deep(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = 1
        depth: int = 1

    class Group(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size: int = 1
        deep: Deep = Deep()

    class Top(BaseModel):
        d: Group = Group()
        b: Group | None = None
        c: list[Group] = []
        a: Group | int = 1
        e: Group = Group()

    class Listed(BaseModel):
        entries: list[Group] = []

    assert configs._misplaced(Top, "size") == " Did you mean a.size or b.size or d.size?"
    assert configs._misplaced(Top, "depth") == " Did you mean a.deep.depth or b.deep.depth or d.deep.depth?"
    assert configs._misplaced(Listed, "size") == " Did you mean entries.0.size or entries.0.deep.size?"
    assert configs._misplaced(Top, "a") == " Did you mean a?" and configs._misplaced(Top, "other") == ""


@pytest.mark.parametrize(
    ("name", "hint"),
    [("threshol", " Did you mean threshold?"), ("inputs[12]", " Write inputs.12 for an entry of inputs."), ("q", ""),
     ("other[1]", "")],
)  # fmt: skip
def test_the_nearest_name_is_offered_where_one_is_near(name, hint):
    assert configs._nearest(name, ["bands", "inputs", "threshold"]) == hint


@pytest.mark.parametrize(("count", "refused"), [(9, False), (10, True)])
@pytest.mark.parametrize("text", ["a: [{0}]", "a: &a [{1}]\nb: *a", "a: {{{2}}}"])
def test_the_values_of_a_config_are_counted_with_each_alias_as_often_as_it_is_used(monkeypatch, text, count, refused):
    """The mapping, its lists and the values in them. The bound is a small one here."""
    lists = 2 if "&a" in text else 1
    monkeypatch.setattr(config_text, "_MOST_VALUES", 1 + lists + lists * count - refused)
    values = text.format(
        ", ".join(["1"] * count), ", ".join(["1"] * count), ", ".join(f"k{n}: 1" for n in range(count))
    )
    if not refused:
        assert len(parse(values, "c.yaml", "yaml")["a"]) == count
        return
    with pytest.raises(ConfigError, match=r"^c\.yaml: more than \d+ values"):
        parse(values, "c.yaml", "yaml")


@pytest.mark.parametrize(
    ("path", "format"),
    [("a.json", "json"), ("A.JSON", "json"), ("a.yaml", "yaml"), ("json", "yaml"), ("a.json.yml", "yaml")],
)
def test_the_ending_tells_the_format(path, format):
    assert format_of(path) == format


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-12", -12), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("08", 8), ("1_000", "1_000"), ("1e3", 1000.0), ("1.", 1.0),
        ("-.5", -0.5), ("1.5E-3", 0.0015), ("-.inf", -math.inf), ("e3", "e3"), ("~", None), ("Null", None), ("", None),
        ("nul", "nul"), ("TRUE", True), ("False", False), ("yes", "yes"), ("off", "off"), ("2026-01-01", "2026-01-01"),
        ("0b1", "0b1"), ("'1'", "1"), ("trues", "trues"), ("1 2", "1 2"),
    ],
)  # fmt: skip
def test_a_scalar_has_the_type_that_yaml_1_2_gives_it(text, value):
    found = parse(f"a: {text}", "c.yaml", "yaml")["a"]
    assert (found, type(found)) == (value, type(value))


# --- the storage settings alone


def test_the_storage_settings_are_those_of_a_config_or_of_overrides_alone(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(GOOD + "storage: {region: there, retries: 3}\n")
    found = load(str(tmp_path / "c.yaml"), ["storage.retries=4"]).storage
    assert (found.region, found.retries, found.timeout_s) == ("there", 4, StorageOptions().timeout_s)
    monkeypatch.setenv("KEY", "hunter2")
    keys = ["storage.access_key_id=a", "storage.secret_access_key=${KEY}"]
    assert load_storage(keys).secret_access_key.get_secret_value() == "hunter2"
    assert load_storage([]) == StorageOptions()
    for override, said in {
        "storage.retries=-1": "-o storage.retries=-1: -1 given; wanted at least 0.",
        "name=x": "-o name=x: no such setting. A config has: storage.",
        "storage.retris=1": "-o storage.retris=1: no such setting. Did you mean retries? storage has: ",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_storage([override])
        assert str(caught.value).startswith(said) and len(lines(caught)) == 1


def test_a_config_in_the_environment_is_json_and_a_missing_variable_is_named(monkeypatch):
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": "a"}], "output": "o"}
    monkeypatch.setenv("CONFIG", json.dumps(plain))
    assert load("env:CONFIG", ["name=y"]).name == "y"
    monkeypatch.setenv("CONFIG", "kind: curate")
    with pytest.raises(ConfigError, match=r"^env:CONFIG: not valid JSON"):
        load("env:CONFIG")
    for name, shown in (("NONE", "NONE"), ("", r"\(no name given\)")):
        with pytest.raises(ConfigError, match=rf"^env:{name}: the environment has no variable {shown}\."):
            load(f"env:{name}")


# --- secrets and the environment

KEYS = "storage: {access_key_id: '${KEY_ID}', secret_access_key: '${KEY}', session_token: 'tok-${KEY}'}\n"


def test_the_environment_fills_secrets_and_they_are_never_shown(read, monkeypatch):
    monkeypatch.setenv("KEY_ID", "AKIA1")
    monkeypatch.setenv("KEY", "hunter2")
    config = read(GOOD + KEYS)
    assert config.storage.secret_access_key.get_secret_value() == "hunter2"
    assert config.storage.session_token.get_secret_value() == "tok-hunter2"
    shown = repr(config) + str(config) + config.model_dump_json() + str(config.model_dump())
    assert "hunter2" not in shown and "AKIA1" not in shown


def test_variables_that_are_not_set_are_all_named(read, monkeypatch):
    monkeypatch.delenv("KEY_ID", raising=False)
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        read(GOOD + KEYS)
    assert lines(caught) == [
        f"c.yaml, storage.{key}: the environment has no {name}. Set it, or use storage.profile."
        for key, name in (("access_key_id", "KEY_ID"), ("secret_access_key", "KEY"), ("session_token", "KEY"))
    ]


def test_an_input_has_a_store_of_its_own_with_keys_that_are_never_shown(read, monkeypatch):
    monkeypatch.setenv("KEY", "hunter2")
    own = "-o inputs.0.storage.profil=x: no such setting"
    keys = ["inputs.0.storage.access_key_id=AKIA1", "inputs.0.storage.secret_access_key=${KEY}"]
    config = read(GOOD, *keys, "storage.anonymous=true")
    assert config.inputs[0].storage.secret_access_key.get_secret_value() == "hunter2"
    (store,) = input_stores(config.store, config.inputs)
    assert (store.options, store.setting) == (config.inputs[0].storage, "inputs[0].storage")
    assert config.store.options.anonymous and config.store.setting == "storage"
    shown = repr(config) + config.model_dump_json() + repr(store) + json.dumps(curate_settings(config))
    assert "hunter2" not in shown and "AKIA1" not in shown
    with pytest.raises(ConfigError, match=own):
        read(GOOD, *keys, "inputs.0.storage.profil=x")
    monkeypatch.delenv("KEY")
    with pytest.raises(ConfigError, match=r"environment has no KEY. Set it, or use inputs.0.storage.profile"):
        read(GOOD, *keys)


@pytest.mark.parametrize("line", ["output: $HOME/x", "output: ${HOME}/x"])
def test_elsewhere_the_environment_means_nothing(read, line):
    text = GOOD.replace("output: out", line)
    if "{" not in line:
        assert read(text).output == "$HOME/x"
        return
    with pytest.raises(
        ConfigError, match=r"output: '\$\{HOME\}/x' uses an environment variable; those are read only in"
    ):
        read(text)


@pytest.mark.parametrize(
    ("added", "overrides"),
    [
        ("storage: {access_key_id: x, secret_access_key: [hunter2]}", []),
        ("storage: {secret_access_key: hunter2}", []),
        ("storage: {access_key_id: x, secret_access_key: hunter2, profil: x}", []),
        ("", ["storage.secret_access_key=[hunter2"]),
        ("", ["storage.secret_access_key={hunter2: 1}", "storage.access_key_id=x"]),
        ("", ["inputs.0.storage.secret_access_key=[hunter2"]),
        ("", ["inputs.0.storage.secret_access_key=hunter2"]),
        ("", ["inputs=[{path: x, storage: {secret_access_key: hunter2}}]"]),
        ("", ["inputs={path: x, storage: {secret_access_key: hunter2}}"]),
        ("", ["inputs.0.storage=[{secret_access_key: hunter2}]"]),
    ],
)
def test_no_mistake_shows_a_secret(read, added, overrides):
    with pytest.raises(ConfigError) as caught:
        read(GOOD + added, *overrides)
    assert "hunter2" not in str(caught.value)


# --- the schema


def test_the_schema_is_one_and_accepts_the_example_of_the_design(read):
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    example = parse(EXAMPLE, "example", "yaml")
    jsonschema.validate(example, found)
    assert read(EXAMPLE).rules.gopher_quality.min_words == 50
    for wrong in ({"dedup": {"treshold": 1}}, {"name": 3}, {"rules": {"packs": ["c5"]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(example | wrong, found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "clean: {terminology: [a]}",
            "clean.terminology: ['a'] given; wanted a group of settings, as in {name: value}, or text (in quotes, if it looks like a number).",
        ),
        (
            "validate: {json_schema: 5}",
            "validate.json_schema: 5 given; wanted text (in quotes, if it looks like a number), or a group of settings, as in {name: value}.",
        ),
        ("validate: {question_chars: [10]}", "validate.question_chars: 1 given; wanted at least 2 in the list."),
        (
            "validate: {since: {day: yesterday}}",
            "validate.since.day: 'yesterday' given; wanted a date, as in 2026-11-23.",
        ),
    ],
)
def test_a_setting_with_alternatives_that_are_no_groups_is_named_by_its_own_name(read, text, message):
    with pytest.raises(ConfigError) as caught:
        read(f"kind: prepare\nname: x\ninputs: [{{path: a, columns: {{day: day}}}}]\noutput: out\n{text}\n")
    assert lines(caught) == [f"c.yaml, {message}"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        ("{persona: {a: -1}}", "draw.persona.a: -1 given; wanted more than 0.0."),
        ("{persona: {str: -1}}", "draw.persona.str: -1 given; wanted more than 0.0."),
        ("{persona: []}", "draw.persona: [] given; wanted at least 1 in the list."),
        ("{persona: {}}", "draw.persona: {} given; wanted at least 1 entry."),
        ("{persona: ''}", "draw.persona: '' given; wanted at least 1 character."),
        (
            "{persona: 5}",
            "draw.persona: 5 given; wanted a list, as in [a, b], or a group of settings, as in {name: value}, or text "
            "(in quotes, if it looks like a number).",
        ),
    ],
)
def test_a_mistake_in_one_alternative_is_the_only_one_that_is_named(read, draw, message):
    with pytest.raises(ConfigError) as caught:
        read(
            "kind: generate\nname: x\ninputs: [{path: a}]\noutput: out\nmodel: {path: m}\nmake: {template: qa}\n"
            f"draw: {draw}\n"
        )
    assert lines(caught) == [f"c.yaml, {message}"]


@pytest.mark.parametrize("part", ["language", "rules", "personal_data", "dedup"])
def test_any_of_the_four_parts_may_be_switched_off(read, part):
    assert getattr(read(GOOD + f"{part}: null\n"), part) is None
    jsonschema.validate(parse(EXAMPLE, "example", "yaml") | {part: None}, schema())


def test_a_config_is_read_from_a_variable(monkeypatch):
    monkeypatch.setenv("A_CONFIG", '{"kind": "curate", "name": "x", "inputs": [{"path": "d"}], "output": "o"}')
    assert load("env:A_CONFIG", ["name=y"]).name == "y"
    monkeypatch.setenv("A_CONFIG", '{"kind": "curate", "nam": "x"}')
    with pytest.raises(ConfigError, match=r"env:A_CONFIG, nam: no such setting"):
        load("env:A_CONFIG")
    monkeypatch.delenv("A_CONFIG")
    with pytest.raises(ConfigError, match=r"env:A_CONFIG: the environment has no variable A_CONFIG"):
        load("env:A_CONFIG")
