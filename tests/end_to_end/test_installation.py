"""The wheel in environments of its own: without extras and with each alone, outside of the checkout. `make wheel`."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from raymill.cluster.cli import VERBS
from tests.support.tickets import answer, question
from tests.support.train_inline import PLAIN, sentences

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]
VERSIONS = ("3.12", "3.13")
_WITHOUT_WHEEL = "deepspeed"  # published as source of pure Python, from which pip builds a wheel without a compiler
NEED_TRAIN = ("train", "pack", "export", "compose", "tune-demo", "cross-validate")

# A sentence model of random weights, made where sentence-transformers is installed.
_MAKE_SENTENCE_MODEL = """
from pathlib import Path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer
Path("words.txt").write_text("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", "to"]))
BertTokenizer("words.txt").save_pretrained("plain")
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained("plain")
SentenceTransformer(modules=[Transformer("plain"), Pooling(16)], device="cpu").save("sentences")
"""


class Installed:
    """An environment with the wheel, and a folder with small configs in which its verbs run."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        name = f"{wheel}[{extra}]" if extra else str(wheel)
        self.python(
            "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt"), name
        )
        texts = [{"id": str(row), "text": f"{question(row)} {answer(row)}"} for row in range(40)]
        tickets = [{"id": str(row), "q": question(row), "a": answer(row)} for row in range(40)]
        columns = {"prompt": "q", "completion": "a"}
        source = {"source": "s", "path": "tickets.jsonl", "id": "id", "columns": columns}
        cpus = {"execution": {"cpus": 2}}
        configs: dict[str, dict] = {
            "curate": {"inputs": [{"path": "texts.jsonl"}]} | cpus,
            "prepare": {"inputs": [source]} | cpus,
            "train": PLAIN | {"corpus": "sentences.jsonl", "steps": 2},
        }
        for kind, settings in configs.items():
            self.write(f"{kind}.json", json.dumps({"kind": kind, "name": kind, "output": f"out-{kind}"} | settings))
        for name, rows in (("texts", texts), ("tickets", tickets), ("sentences", sentences(120))):
            self.write(f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, name: str, content: str) -> None:
        (self.folder / name).write_text(content)

    def python(self, *words: str) -> None:
        """Run the environment's Python, which must succeed."""
        done = self._run(str(self.bin / "python"), *words)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def raymill(self, *words: str, code: int = 0) -> str:
        """What the command printed; its exit code must be `code`."""
        done = self._run(str(self.bin / "raymill"), *words)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=3600)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the committed and changed files of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "source" / name, follow_symlinks=False)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "./source"]
    subprocess.run(build, cwd=folder, check=True)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_has_one_package(wheel):
    tops = {name.partition("/")[0].partition("-")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"raymill"}


@pytest.mark.parametrize("extra", ["", *EXTRAS], ids=lambda extra: extra or "none")
def test_every_verb_works_or_names_its_extra_where_only_one_is_installed(tmp_path, wheel, extra):
    installed = Installed(tmp_path, wheel, extra)
    for verb in VERBS:
        needs_train = verb in NEED_TRAIN and extra != "train"
        said = installed.raymill(verb, "--help", code=2 if needs_train else 0)
        assert ("Run: pip install 'raymill[train]'." if needs_train else f"raymill {verb}") in said
    for verb in ("plan", "submit"):
        if extra != "train":
            assert "Run: pip install 'raymill[train]'." in installed.raymill(verb, "train.json", code=2)
    installed.raymill("config", "check", "train.json")
    no_cluster = installed.raymill("runs", "--to", "kuberay", code=2)
    assert ("raymill[k8s]" in no_cluster) == (extra != "k8s")
    _WITH.get(extra, lambda installed: None)(installed)


def _without(installed: Installed) -> None:
    installed.raymill("curate", "curate.json")
    installed.raymill("prepare", "prepare.json")
    for output in ("out-curate", "out-prepare"):
        assert "finished" in installed.raymill("inspect", output)


def _with_train(installed: Installed) -> None:
    installed.raymill("pack", "train.json")
    installed.raymill("train", "train.json")
    assert (installed.folder / "out-train" / "manifest.json").exists()


def _with_sql(installed: Installed) -> None:
    installed.python("-c", "import sqlite3, json; db = sqlite3.connect('t.db'); "
        "db.execute('create table t (id, q, a)'); "
        "db.executemany('insert into t values (?, ?, ?)', "
        "[tuple(json.loads(line).values()) for line in open('tickets.jsonl')]); db.commit()")  # fmt: skip
    database = {"url": f"sqlite:///{installed.folder}/t.db", "query": "select * from t order by id"}
    source = {"source": "s", "database": database, "id": "id", "columns": {"prompt": "q", "completion": "a"}}
    installed.raymill("prepare", "prepare.json", "-o", f"inputs=[{json.dumps(source)}]")


def _with_embeddings(installed: Installed) -> None:
    installed.python("-c", _MAKE_SENTENCE_MODEL)
    installed.raymill("prepare", "prepare.json", "-o", "assess.embeddings.model=./sentences")


_WITH = {"": _without, "train": _with_train, "sql": _with_sql, "embeddings": _with_embeddings}


@pytest.mark.parametrize("python", VERSIONS)
@pytest.mark.parametrize("extra", ["", *EXTRAS], ids=lambda extra: extra or "none")
def test_all_dependencies_resolve_to_wheels_for_other_pythons(tmp_path, extra, python):
    listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    wanted = [one for one in listed if not one.startswith(_WITHOUT_WHEEL)]
    command = ["install", "--dry-run", "--quiet", "--only-binary=:all:", "--python-version", python]
    command += ["--target", str(tmp_path), "--constraint", str(ROOT / "constraints.txt")]
    done = subprocess.run([sys.executable, "-m", "pip", *command, *wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
