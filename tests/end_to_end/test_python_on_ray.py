"""The Python API on Ray: from a script, from threads, inside a task of a program's own Ray, and from a notebook."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray

# What every program here curates: six documents, one of them twice, without kernels to compile but those of `dedup`.
# On one CPU, as each worker imports for two seconds.
SETTINGS = (
    "dict(inputs='in', language=None, rules=None, personal_data=None, execution={'cpus': 1}, storage={'timeout_s': 60})"
)


@pytest.fixture
def here(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (0, 1, 2, 3, 4, 0):
        name = f"{number}-{len(list((tmp_path / 'in').iterdir()))}.txt"
        (tmp_path / "in" / name).write_text(f"Document {number} tells of river {number}, which is {number} miles long.")
    return tmp_path


def run_program(folder: Path, code: str) -> str:
    """What a program without `if __name__ == "__main__"` prints, which starts in this folder."""
    (folder / "program.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_whose_call_is_interrupted_continues_and_finds_its_process_as_it_was(here):
    shown = run_program(
        here,
        f"""
import logging, os, signal, sys, threading
import raymill
settings = {SETTINGS}
import raymill.pipelines  # sets where compiled kernels are kept
import ray
environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
streams = sys.stdout, sys.stderr
def interrupt(update):
    # Here, in the main thread: after any other line it could be raised in a finaliser, where Python ignores it.
    assert threading.current_thread() is threading.main_thread()
    if update.stage == 'measure':
        signal.raise_signal(signal.SIGINT)
try:
    raymill.curate(output='out', progress=interrupt, **settings)
except KeyboardInterrupt:
    print('interrupted')
assert not ray.is_initialized()
run = raymill.curate(output='out', progress=False, **settings)
assert run.fresh and run.corpus.rows == 5 and not ray.is_initialized() and not os.path.exists('home/.ray')
assert os.environ == environment, set(os.environ.items()) ^ set(environment.items())
assert signal.getsignal(signal.SIGTERM) == handler and (sys.stdout, sys.stderr) == streams
assert not [one.name for one in threading.enumerate() if one.name == 'control process']
assert ray.get(ray.remote(lambda: 7).remote()) == 7, 'a call of the program starts a Ray after ours'
ray.shutdown()
assert raymill.curate(output='out-2', progress=False, **settings).fresh, 'and ours after it'
print('done')
""",
    )
    assert shown == "interrupted\ndone\n"


def test_a_dataset_outlives_the_call_that_made_it_and_the_next_call_uses_its_ray(here):
    shown = run_program(
        here,
        f"""
import raymill
settings = {SETTINGS}
run = raymill.curate(output='out', progress=False, **settings)
rows = run.corpus.to_ray_dataset()
assert len({{row['id'] for row in rows.take_all()}}) == 5 and 'duplicate_count' in rows.schema().names
again = raymill.curate(output='out-2', progress=False, **settings)
import os, ray
assert again.corpus.to_ray_dataset().union(rows).count() == 10
print(os.path.dirname(ray.get_runtime_context().worker.node.get_session_dir_path()))
""",
    )
    assert not Path(shown.strip()).exists(), "the Ray and its files end with the process"


def test_threads_share_one_ray_which_the_session_ends(here):
    shown = run_program(
        here,
        f"""
import threading
from concurrent.futures import ThreadPoolExecutor
import raymill
settings = {SETTINGS}
def curate(number):
    return raymill.curate(output=f'out-{{number}}', progress=False, **settings).corpus.manifest.digest
with ThreadPoolExecutor(2) as pool:
    digests = set(pool.map(curate, range(2)))
import ray
assert not ray.is_initialized()
with raymill.session(cpus=1):
    assert ray.is_initialized()
    try:
        raymill.curate(output='out-3', address='127.0.0.1:1', progress=False, **settings)
    except raymill.ConfigError as error:
        assert 'until the calls that run' in str(error), error
    digests.add(curate(4))
assert not ray.is_initialized() and len(digests) == 1, digests
print('done')
""",
    )
    assert shown == "done\n"


def test_a_ray_that_the_program_started_is_used_from_a_task_and_left(here):
    shown = run_program(
        here,
        f"""
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
import raymill
settings = {SETTINGS}
here = raymill.curate(output='out', progress=False, **settings)
assert ray.is_initialized(), 'it is left as it is'

@ray.remote(num_cpus=1)
def inside(settings):
    import raymill
    return raymill.curate(output='out-of-a-task', progress=False, **settings).corpus.manifest.digest

import os
settings['inputs'] = os.path.abspath('in')
assert ray.get(inside.remote(settings | {{'name': 'b'}})) == here.corpus.manifest.digest
assert ray.data.from_items([1]).count() == 1 and here.corpus.to_ray_dataset().count() == 5
print('done')
""",
    )
    assert shown.endswith("done\n")


def test_the_notebook_of_the_examples_shows_progress_the_funnel_and_reasons(tmp_path):
    shutil.copytree(ROOT / "docs" / "examples" / "notebook", tmp_path, dirs_exist_ok=True)
    notebook = nbformat.read(tmp_path / "curate.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute(
        env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    pages = [one["data"].get("text/html", "") for one in outputs["run"] if "data" in one]
    assert any("<td>Exact duplicates</td>" in page for page in pages)
    shown = [one["data"]["text/plain"] for one in outputs["run"] if one.output_type == "display_data"]
    assert any(text.startswith("measure: 1/1 unit") for text in shown), shown
    texts = {id: found[-1]["data"]["text/plain"] for id, found in outputs.items() if found and "data" in found[-1]}
    assert "quiet" in texts["explain"] and "removed documents" in texts["what-if"]
    assert texts["kept"] == "['harbour', 'market']"
    assert ast.literal_eval(texts["removed"]) == {
        "harbour-again": "exact_duplicate",
        "short": "gopher_short_doc",
        "sale": "quiet",
        "hafen": "language_not_kept",
    }
