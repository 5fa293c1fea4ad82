"""Callbacks of the user: when they are called, with what, and what becomes of an exception."""

import json
import pickle
import textwrap
from pathlib import Path

import pytest

from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError
from raymill.training.config import TrainConfig
from raymill.training.records.job import Job
from tests.support.fit_jobs import STEPS, fit_alone, fit_until, lines, pack_tiny, settings, tiny_job
from tests.support.train_inline import train_inline, write_corpus

MODULE = """
    import json

    class Notes:
        def __init__(self, path: str, fails_at: int = 0) -> None:
            self.path, self.fails_at = path, fails_at

        def note(self, event, value):
            with open(self.path, "a") as file:
                file.write(json.dumps([event, value]) + "\\n")

        def on_step(self, record):
            if record["step"] == self.fails_at:
                raise KeyError("not there")
            self.note("step", record)
            record["loss"] = None  # a copy

        def on_checkpoint(self, checkpoint):
            self.note("checkpoint", checkpoint)

        def on_end(self, outcome):
            if self.fails_at < 0:
                raise SystemExit(3)
            self.note("end", outcome)

    class EndAlone:
        def on_end(self, outcome):
            pass

    def count(record):
        with open("counted", "a") as file:
            file.write("x")

    class Neither:
        def step(self, record):
            pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_callbacks.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def job_with(here):
    pack_tiny(str(here))

    def make(*callbacks, **more) -> Job:
        job = tiny_job(str(here), **more)
        given = settings(str(here), **more).model_dump(mode="json", exclude_unset=True) | {"callbacks": callbacks}
        config = load_values(given, "train")
        assert isinstance(config, TrainConfig)
        return Job(config, job.folder, job.packed, job.classes, job.steps)

    return make


def noted(path: Path) -> list[tuple[str, dict]]:
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def test_they_are_called_after_each_step_each_checkpoint_and_at_the_end(job_with, here):
    job = job_with(
        {"use": "my_callbacks:Notes", "path": str(here / "notes")}, "my_callbacks:count", "my_callbacks:EndAlone"
    )
    outcome = fit_alone(job)
    found = noted(here / "notes")
    steps = [value for event, value in found if event == "step"]
    assert steps == [line for line in lines(job) if line["step"]]
    assert [one["step"] for one in steps] == list(range(1, STEPS + 1))
    assert (here / "counted").read_text() == "x" * STEPS
    checkpoints = [value for event, value in found if event == "checkpoint"]
    assert checkpoints[-1] == {"uri": outcome["checkpoint"], "step": STEPS} and len(checkpoints) >= STEPS // 3
    assert found[-1] == ("end", outcome)


def test_after_a_restart_the_steps_since_the_checkpoint_come_again(job_with, here):
    job = job_with({"use": "my_callbacks:Notes", "path": str(here / "notes")})
    fit_until(job, 5, alone=True)
    fit_alone(job)
    seen = [value["step"] for event, value in noted(here / "notes") if event == "step"]
    again = next(at for at in range(1, len(seen)) if seen[at] <= seen[at - 1])
    assert seen[:again] in ([1, 2, 3, 4], [1, 2, 3, 4, 5]) and seen[again:] == list(range(seen[again], STEPS + 1))


def test_an_exception_ends_the_training_with_the_name_and_a_corrected_one_continues(job_with, here):
    use = {"use": "my_callbacks:Notes", "path": str(here / "notes")}
    with pytest.raises(DataError, match=r"callbacks: my_callbacks:Notes raised KeyError: 'not there' in on_step"):
        fit_alone(job_with(use | {"fails_at": 7}))
    with pytest.raises(DataError, match=r"callbacks: my_callbacks:Notes raised SystemExit: 3 in on_end"):
        fit_alone(job_with(use | {"fails_at": -1}))
    outcome = fit_alone(job_with(use))
    assert noted(here / "notes")[-1] == ("end", outcome), "the end is told once it is corrected"


def test_callbacks_change_no_fingerprint_and_are_in_no_record_where_there_are_none(job_with, here):
    config = job_with("my_callbacks:count").config
    assert config.fit_settings() == settings(str(here)).fit_settings()
    assert "callbacks" not in settings(str(here)).model_dump(mode="json")
    assert "callbacks" not in config.run_settings()


def test_what_is_no_callback_is_refused_and_code_of_a_record_is_not_run(job_with, here):
    with pytest.raises(ConfigError, match=r"is a class without on_step or on_checkpoint or on_end"):
        job_with("my_callbacks:Neither")
    recorded = Job.from_json(job_with("my_callbacks:count").to_json())
    with pytest.raises(ConfigError, match="this callback is code that the record of a run names"):
        fit_alone(recorded)
    with pytest.raises(ValueError, match="callbacks are of all phases"):
        settings(str(here), phases=[{"name": "a", "callbacks": []}])


def test_workers_get_them_with_the_config(job_with, here):
    config = pickle.loads(pickle.dumps(job_with({"use": "my_callbacks:Notes", "path": "x", "fails_at": 3}).config))
    (found,) = config.callbacks
    assert found.loaded().make().fails_at == 3


SEEN = []


def seen(record: dict) -> None:
    SEEN.append(record["step"])


def test_in_python_a_function_is_given_itself_and_a_run_of_phases_calls_it_in_each(here, monkeypatch):
    write_corpus(here)
    phases = [{"name": "one", "steps": 2}, {"name": "two", "steps": 3}]
    plain = {"corpus": str(here / "corpus.jsonl"), "output": str(here / "run"), "evaluate": {"every_steps": 9}}
    train_inline(plain | {"callbacks": [seen], "phases": phases}, monkeypatch)
    assert SEEN == [1, 2, 1, 2, 3]
