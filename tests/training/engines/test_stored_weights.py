"""Weights that stay in the files of a model until an engine shards them: the same training, without their memory."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.models import build
from raymill.training.models.base import load_base, stored_dtype
from raymill.training.models.build import build_objective
from tests.support.ranks import RankPool
from tests.support.sampled import sampled
from tests.support.tiny_models import tiny_config
from tests.support.training_cases import MODEL, Case, new_engine, saved_state, take_steps

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def save(folder: Path, dtype: torch.dtype, **settings: Any) -> str:
    model = build_objective(tiny_config(MODEL | settings, seed=5)).model
    model.to(dtype).save_pretrained(folder)
    return str(folder)


def config_of(folder: str, engine: str, precision: str) -> Case:
    return Case(engine, steps=3, more={"model": {"name": folder, "tokenizer": "train"}, "precision": precision})


def train(case: Case, in_float32: bool) -> dict[str, Any]:
    """On a rank: a training of weights as they are stored, or loaded in float32."""
    with pytest.MonkeyPatch.context() as patch:
        if in_float32:
            patch.setattr(build, "stored_dtype", lambda store, model: torch.float32)
        engine, objective = new_engine(case)
        loaded = {str(one.dtype) for one in objective.parameters()}
        try:
            start = saved_state(engine)
            losses, norms = take_steps(case, engine, objective, 0, case.steps)
            return {"losses": losses, "norms": norms, "start": start, "saved": saved_state(engine), "types": loaded}
        finally:
            engine.close()


@pytest.mark.parametrize(
    ("engine", "precision", "stored"),
    [
        ("fsdp2", "float32", "bfloat16"),
        *sampled(
            [
                ("fsdp2", "bf16", "bfloat16"), ("fsdp2", "float32", "float16"), ("zero1", "bf16", "bfloat16"),
                ("zero2", "bf16", "float16"), ("zero3", "bf16", "bfloat16"), ("zero3", "float32", "bfloat16"),
                ("zero2", "float32", "float32"),
            ],
            2,
        ),
    ],
)  # fmt: skip
def test_a_training_has_the_same_bits_as_of_weights_loaded_in_float32(engine, precision, stored, tmp_path, two):
    case = config_of(save(tmp_path / "model", TYPES[stored]), engine, precision)
    (found, *_), (wanted, *_) = two.run(train, case, False), two.run(train, case, True)
    assert found["losses"] == wanted["losses"] and found["norms"] == wanted["norms"]
    for state in ("start", "saved"):
        assert found[state].keys() == wanted[state].keys()
        assert all(torch.equal(values, wanted[state][name]) for name, values in found[state].items())
    if engine == "fsdp2":
        assert found["types"] == {"torch.float32"}, "sharded weights are the masters"


@pytest.fixture(scope="module")
def two():
    with RankPool(2) as ranks:
        yield ranks


@pytest.mark.parametrize("stored", TYPES)
def test_files_of_one_type_are_loaded_in_it(stored, tmp_path):
    assert stored_dtype(Store(), Model(name=save(tmp_path / "model", TYPES[stored]))) == TYPES[stored]


def test_files_of_several_types_are_loaded_in_float32(tmp_path):
    folder = save(tmp_path / "model", torch.bfloat16)
    file = Path(folder, "model.safetensors")
    tensors = load_file(file)
    first = min(tensors)
    save_file(tensors | {first: tensors[first].float() + 1e-4}, file, metadata={"format": "pt"})
    assert stored_dtype(Store(), Model(name=folder)) == torch.float32


@pytest.mark.parametrize("kind", ["I16", "U16"])
def test_whole_numbers_are_no_weights(kind, tmp_path):
    """Of 16 bits, as weights of bf16 whose type in the header was changed; they would be rounded to weights."""
    folder = save(tmp_path / "model", torch.bfloat16)
    file = Path(folder, "model.safetensors")
    file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"%s" ' % kind.encode(), 1))
    with pytest.raises(DataError, match=f"numbers of type {kind}"):
        load_base(Store(), Model(name=folder), 0, torch.float32, None)


def test_tensors_that_are_not_used_are_named_once(tmp_path, capfd, caplog):
    folder = save(tmp_path / "model", torch.bfloat16)
    file = Path(folder, "model.safetensors")
    tensors = load_file(file)
    save_file(tensors | {f"x{n}": torch.zeros(1) for n in range(500)}, file, metadata={"format": "pt"})
    load_base(Store(), Model(name=folder), 0, torch.float32, None)
    assert "x77" not in caplog.text + "".join(capfd.readouterr())
    assert "500 tensors of its files are not used, such as x0" in caplog.text


def memory_of_its_own() -> int:
    """Bytes of this process that no file has."""
    (kilobytes,) = re.findall(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(kilobytes)


def test_weights_in_the_type_of_their_file_take_no_memory_of_the_process(tmp_path):
    folder = save(tmp_path / "model", torch.bfloat16, hidden_size=512, intermediate_size=8192, num_hidden_layers=4)
    size = Path(folder, "model.safetensors").stat().st_size
    assert size > 100 << 20
    kept, taken = [load_base(Store(), Model(name=folder), 0, torch.bfloat16, None)], list[int]()
    for _ in range(3):  # the allocator of a process of many tests takes memory at times, weights would each time
        before = memory_of_its_own()
        kept.append(load_base(Store(), Model(name=folder), 0, torch.bfloat16, None))
        taken.append(memory_of_its_own() - before)
    assert min(taken) < size / 10
    assert next(kept[-1].parameters()).dtype == torch.bfloat16
