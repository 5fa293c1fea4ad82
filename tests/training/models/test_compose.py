"""Adapters combined with weights: exactly, loadable by peft, and refused where a sum is not what they are."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file

from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.guard import WorkBounds
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_commands import adapter_weights, compose
from raymill.training.models import compose as composing
from raymill.training.models.base import load_base
from raymill.training.models.build import build_objective
from raymill.training.models.compose import (
    CONFIG,
    LoraAdapter,
    compose_adapters,
    largest_deviation,
    weighted_sum,
)
from tests.support.adapter_pairs import lora_of, pair
from tests.support.tiny_models import tiny_config

torch.set_num_threads(1)

IDS = torch.arange(1, 17).view(2, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a `base`, which the adapters made below are of."""
    folder = tmp_path_factory.mktemp("compose")
    build_objective(tiny_config("llama")).model.save_pretrained(folder / "base")
    return folder


def load_named(folder: Path, name: str = "base") -> Any:
    return load_base(Store(), Model(name=str(folder / name)), 0, torch.float32, None)


def make_adapter(folder: Path, name: str, seed: int, base: str = "base", **lora: Any) -> str:
    """An adapter as if trained: its Bs are not zero."""
    made = tiny_config({"name": str(folder / base)}, method="lora", seed=seed, lora={"rank": 4, "alpha": 8, **lora})
    model = build_objective(made).model
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.peft_config["default"].base_model_name_or_path = str(folder / base)
    model.save_pretrained(folder / name)
    return str(folder / name)


def changes(folder: Path, adapter: str) -> dict[str, torch.Tensor]:
    """What peft's own merging of an adapter adds to each weight of the base, in float64."""
    before = load_named(folder).double()
    after = PeftModel.from_pretrained(load_named(folder).double(), adapter, autocast_adapter_dtype=False)
    after = after.double().merge_and_unload().state_dict()
    return {name: after[name] - values for name, values in before.state_dict().items()}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"rank": 2}, {"rank": 8, "alpha": 3}),
        ({"rslora": True}, {}),
        ({"target": ["q_proj", "down_proj"]}, {"target": ["down_proj", "v_proj"], "rank": 3}),
    ],
    ids=["alike", "other ranks and alphas", "rslora", "other targets"],
)
def test_peft_loads_exactly_the_weighted_sum(folder, tmp_path, first, second):
    one, two = (
        make_adapter(tmp_path, "one", 1, folder / "base", **first),
        make_adapter(tmp_path, "two", 2, folder / "base", **second),
    )
    deviation, _ = compose_adapters(Store(), str(tmp_path / "out"), {one: 0.7, two: -0.3})
    assert deviation < 1e-6
    mine, left, right = (changes(folder, str(path)) for path in (tmp_path / "out", one, two))
    moved = 0
    for name, values in mine.items():
        want = 0.7 * left[name] - 0.3 * right[name]
        moved += bool(want.any())
        torch.testing.assert_close(values, want, rtol=0, atol=1e-6 * max(1.0, want.abs().max().item()))
    assert moved >= 6


def test_it_is_what_peft_calls_cat(folder, tmp_path):
    one, two = make_adapter(tmp_path, "one", 1, folder / "base"), make_adapter(tmp_path, "two", 2, folder / "base")
    compose_adapters(Store(), str(tmp_path / "out"), {one: 0.7, two: 0.3})
    mine = PeftModel.from_pretrained(load_named(folder), str(tmp_path / "out"))(input_ids=IDS).logits
    theirs = PeftModel.from_pretrained(load_named(folder), one, adapter_name="one")
    theirs.load_adapter(two, "two")
    theirs.add_weighted_adapter(["one", "two"], [0.7, 0.3], "both", combination_type="cat")
    theirs.set_adapter("both")
    torch.testing.assert_close(mine, theirs(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)


def test_the_merged_model_is_a_plain_one_with_the_adapters_logits(folder, tmp_path):
    one, two = make_adapter(tmp_path, "one", 1, folder / "base"), make_adapter(tmp_path, "two", 2, folder / "base")
    compose_adapters(Store(), str(tmp_path / "out"), {one: 0.5, two: 0.5}, merged=True)
    merged = load_base(Store(), Model(name=str(tmp_path / "out" / "merged")), 0, torch.float32, None)
    adapted = PeftModel.from_pretrained(load_named(folder), str(tmp_path / "out"))
    torch.testing.assert_close(merged(input_ids=IDS).logits, adapted(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


def test_it_reads_and_writes_an_object_store_and_says_from_what(
    folder, tmp_path, s3_root, s3_store, s3_server, capsys, monkeypatch
):
    named = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    one = make_adapter(tmp_path, "one", 1, folder / "base")
    (tmp_path / "one" / "tokenizer.json").write_text("{}")
    remote = paths.join(s3_root, "one")
    for path in (tmp_path / "one").iterdir():
        s3_store.write_bytes(paths.join(remote, path.name), path.read_bytes())
    output = paths.join(s3_root, "out")
    compose(output, [f"{one}=0.25", f"{remote}=0.5"])
    printed = capsys.readouterr().out
    assert "largest relative deviation" in printed
    assert "ranks 8" in printed
    names = {Path(file.uri).name for file in s3_store.list_files(output)}
    assert names == {CONFIG, "adapter_model.safetensors", "README.md", "tokenizer.json"}
    card = s3_store.read_bytes(paths.join(output, "README.md")).decode()
    assert f"| 0.25 | `{one}` | 4 | 14 |" in card
    assert f"| 0.5 | `{remote}` | 4 | 14 |" in card
    assert card.startswith(f'---\nbase_model: "{folder / "base"}"\n')


@pytest.mark.slow
def test_the_verb_prints_its_own_lines_alone(folder, tmp_path):
    one, two = make_adapter(tmp_path, "one", 1, folder / "base"), make_adapter(tmp_path, "two", 2, folder / "base")
    words = ["compose", str(tmp_path / "out"), "--adapter", f"{one}=0.5", "--adapter", f"{two}=0.5", "--merged"]
    done = subprocess.run([sys.executable, "-m", "raymill.cluster.cli", *words], capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["adapter", "checked", "merged"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a"], "give PATH=WEIGHT"),
        (["a=much"], "give PATH=WEIGHT"),
        (["a=nan"], "give PATH=WEIGHT"),
        (["=0.5"], "give PATH=WEIGHT"),
        (["a=0"], "changes nothing"),
        (["a=0.5", "./a=0.5"], "given twice"),
    ],
)
def test_weights_are_checked(given, said):
    with pytest.raises(ConfigError, match=said):
        adapter_weights(given)


@settings(max_examples=20)
@given(st.dictionaries(st.text("ab=/.", min_size=1, max_size=6), st.floats(0.1, 9), min_size=1, max_size=3))
def test_a_path_may_hold_an_equals_sign(weights):
    found = {paths.absolute(f"/x{path}"): weight for path, weight in weights.items()}
    if len(found) == len(weights):
        assert adapter_weights([f"{path}={weight!r}" for path, weight in found.items()]) == found


def test_a_base_on_another_store_is_read_only_if_the_user_names_it(folder, tmp_path):
    elsewhere, asked = "s3://somebody/base", list[str]()

    class Counting(Store):
        def exists(self, uri: str) -> bool:
            asked.append(uri.removesuffix("/config.json"))
            return not uri.startswith("s3:") and super().exists(uri)

        def list_files(self, folder: str, **how: Any) -> Any:
            asked.append(folder)
            return super().list_files(folder, **how) if not folder.startswith("s3:") else []

    one, two = make_adapter(tmp_path, "one", 1, folder / "base"), make_adapter(tmp_path, "two", 2, folder / "base")
    path = Path(two, CONFIG)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": elsewhere}))
    for weights, merged in (({one: 0.5, two: 0.5}, False), ({two: 1.0}, True)):
        with pytest.raises(ConfigError, match=f"is not on this machine as the adapter is.*`base` {elsewhere}"):
            compose_adapters(Counting(), str(tmp_path / "out"), weights, merged)
        assert elsewhere not in asked and not (tmp_path / "out").exists()
    with pytest.raises((ConfigError, StorageError)):
        compose_adapters(Counting(), str(tmp_path / "out"), {one: 0.5, two: 0.5}, base=elsewhere)
    assert elsewhere in asked
    compose_adapters(Counting(), str(tmp_path / "out"), {two: 1.0})  # without reading the base


def test_dora_is_refused_with_the_reason(folder, tmp_path):
    one, two = (
        make_adapter(tmp_path, "one", 1, folder / "base"),
        make_adapter(tmp_path, "two", 2, folder / "base", dora=True),
    )
    with pytest.raises(ConfigError, match=r"two\": cannot be combined exactly: DoRA rescales"):
        compose_adapters(Store(), str(tmp_path / "out"), {one: 0.7, two: 0.3})
    assert not (tmp_path / "out").exists()


def test_virtual_tokens_are_refused(folder, tmp_path):
    model = build_objective(tiny_config("llama", method="prefix")).model
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    model.save_pretrained(tmp_path / "prefix")
    with pytest.raises(ConfigError, match="PREFIX_TUNING, which is not additive"):
        compose_adapters(Store(), str(tmp_path / "out"), {str(tmp_path / "prefix"): 1.0})


def test_adapters_of_other_bases_are_refused_and_of_a_copy_of_the_base_are_not(folder, tmp_path):
    for name, seed in (("copy", 1), ("other", 2)):
        build_objective(tiny_config("llama", seed=seed)).model.save_pretrained(tmp_path / name)
    one = make_adapter(tmp_path, "one", 1, folder / "base")
    same, other = (
        make_adapter(tmp_path, "same", 2, tmp_path / "copy"),
        make_adapter(tmp_path, "else", 3, tmp_path / "other"),
    )
    with pytest.raises(ConfigError, match=r"else\": is of base .*other.*Only adapters of one base can be combined"):
        compose_adapters(Store(), str(tmp_path / "out"), {one: 0.7, other: 0.3})
    compose_adapters(Store(), str(tmp_path / "out"), {one: 0.7, same: 0.3})


def test_a_folder_that_is_no_adapter_and_an_output_that_is_taken_are_refused(folder, tmp_path):
    one = make_adapter(tmp_path, "one", 1, folder / "base")
    with pytest.raises(DataError, match=r"has no adapter_config.json"):
        compose_adapters(Store(), str(tmp_path / "out"), {str(folder / "base"): 1.0})
    with pytest.raises(ConfigError, match="there are files already"):
        compose_adapters(Store(), one, {one: 1.0})


def test_values_that_are_not_finite_are_not_written(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    one = make_adapter(tmp_path, "one", 1, folder / "base")
    path = Path(one, "adapter_model.safetensors")
    tensors = load_file(path)
    tensors[next(iter(tensors))][0, 0] = torch.inf
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(DataError, match="not finite"):
        compose_adapters(Store(), str(tmp_path / "out"), {one: 1.0})


def test_patterns_of_alpha_belong_to_the_modules_they_name():
    adapter = lora_of(pair("a.x", 2, 1) | pair("b.x", 2, 2), alpha_pattern={"b.x": 10})
    assert adapter.scale("base_model.model.a.x", 2) == 2
    assert adapter.scale("base_model.model.b.x", 2) == 5


def test_a_wrong_combination_is_seen():
    one, two = lora_of(pair("a.x", 2, 1)), lora_of(pair("a.x", 3, 2))
    right = weighted_sum([one, two], [0.5, 2.0])
    assert largest_deviation(right, [one, two], [0.5, 2.0]) < 1e-6
    assert largest_deviation(right, [one, two], [0.5, 2.1]) > 1e-2


def test_an_adapter_of_a_convolution_is_refused():
    """Its A and B have four dimensions, so their product is not the change of a matrix."""
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["conv"]}
    tensors = {
        "base_model.model.conv.lora_A.weight": torch.ones(2, 3, 3, 3),
        "base_model.model.conv.lora_B.weight": torch.ones(4, 2, 1, 1),
    }
    with pytest.raises(ConfigError, match=r"cannot be combined exactly: .*lora_A\.weight belongs to a convolution"):
        weighted_sum([LoraAdapter("one", settings, tensors)], [1.0])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "it is of type LOHA, which is not additive"),
        ({"target_parameters": ["experts.w"]}, "target_parameters"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "it trains biases"),
        ({"bias": "none", "lora_bias": True}, "it trains biases"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [7]}, "trainable_token_indices"),
    ],
)
def test_what_is_no_sum_of_products_is_refused(config, said):
    with pytest.raises(ConfigError, match=rf"adapters=\"hand-made\": cannot be combined exactly: .*{said}"):
        weighted_sum([lora_of(pair("a.x", 2, 1)), lora_of(pair("a.x", 2, 2), **config)], [1.0, 1.0])


@pytest.mark.parametrize("change", ["A alone", "B alone", "something else"])
def test_a_matrix_without_its_counterpart_and_other_tensors_are_refused(change):
    tensors = pair("a.x", 2, 1)
    if change == "something else":
        tensors["base_model.model.a.x.scale"] = torch.ones(2)
    else:
        del tensors[f"base_model.model.a.x.lora_{'B' if change == 'A alone' else 'A'}.weight"]
    with pytest.raises(ConfigError, match="is no A or B of LoRA, or lacks its counterpart"):
        weighted_sum([lora_of(tensors)], [1.0])


def test_an_adapter_of_an_embedding_is_combined():
    """peft names its matrices otherwise, without `.weight`."""
    adapters = []
    for seed, rank in ((1, 2), (2, 3)):
        a, b = pair("a.embed", rank, seed).values()
        names = ("lora_embedding_A", "lora_embedding_B")
        named = {f"base_model.model.a.embed.{name}": one for name, one in zip(names, (a, b), strict=True)}
        adapters.append(lora_of(named))
    found = weighted_sum(adapters, [0.5, 2.0])
    (matrix,) = found.pairs()
    torch.testing.assert_close(found.change(matrix), 0.5 * adapters[0].change(matrix) + 2 * adapters[1].change(matrix))
    assert found.config["r"] == 5


def test_the_config_of_a_combination_has_a_scale_of_1_and_the_targets_of_its_adapters():
    """Four modules: the rank of most is the usual one, others are listed by their whole names."""
    names = ("a.0.x", "a.1.x", "b.0.x", "b.1.x")
    one = {key: value for name in names for key, value in pair(name, 2, 1).items()}
    two = {key: value for name in names[:1] for key, value in pair(name, 3, 2).items()}
    kept = {"target_modules": ["x", "y"], "layers_to_transform": [0, 1], "layers_pattern": "a", "exclude_modules": "z"}
    first = lora_of(one, use_rslora=True, lora_dropout=0.5, inference_mode=False, **kept)
    alike = weighted_sum([first, lora_of(two, **kept | {"target_modules": ["y", "x"]})], [1.0, 1.0]).config
    assert (alike["r"], alike["lora_alpha"]) == (2, 2)
    assert alike["rank_pattern"] == alike["alpha_pattern"] == {r"a\.0\.x": 5}
    assert (alike["use_rslora"], alike["lora_dropout"], alike["inference_mode"]) == (False, 0.0, True)
    assert {name: alike[name] for name in kept} == kept
    for other in (
        {"target_modules": ["x"]},
        {"layers_to_transform": [0]},
        {"layers_pattern": "b"},
        {"exclude_modules": None},
    ):
        found = weighted_sum([first, lora_of(two, **kept | other)], [1.0, 1.0]).config
        assert found["target_modules"] == sorted(names), other
        assert {found[name] for name in kept if name != "target_modules"} == {None}
    pairs = [pair(name, rank, 1) for name, rank in zip(names, (3, 3, 2, 2), strict=True)]
    even = {key: value for one in pairs for key, value in one.items()}
    assert weighted_sum([lora_of(even)], [1.0]).config["r"] == 2, "of equally frequent ranks the least"


def test_a_matrix_that_is_not_changed_deviates_by_nothing():
    zero = lora_of({key: torch.zeros_like(value) for key, value in pair("a.x", 2, 1).items()}, alpha_pattern=None)
    assert largest_deviation(weighted_sum([zero], [1.0]), [zero], [1.0]) == 0


def test_the_tokenizer_is_kept_where_the_adapters_have_the_same(folder, tmp_path):
    one, two = (
        make_adapter(tmp_path, "one", 1, folder / "base"),
        make_adapter(tmp_path, "two", 2, folder / "base", rank=2),
    )
    files = ("tokenizer.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja")
    for path in (one, two):
        for name in files:
            Path(path, name).write_text(name)
    compose_adapters(Store(), str(tmp_path / "same"), {one: 1.0, two: 1.0}, merged=True)
    for folder_of in (tmp_path / "same", tmp_path / "same" / "merged"):
        assert {name: (folder_of / name).read_text() for name in files} == {name: name for name in files}
    card = (tmp_path / "same" / "README.md").read_text()
    assert f"| 1 | `{one}` | 4 | 14 |" in card and f"| 1 | `{two}` | 2 | 14 |" in card
    Path(two, "vocab.json").write_text("other")
    _, ranks = compose_adapters(Store(), str(tmp_path / "other"), {one: 1.0, two: 1.0})
    assert not [name for name in files if (tmp_path / "other" / name).exists()] and ranks == "6"


def test_the_ranks_of_an_adapter_are_named_from_the_least_to_the_most():
    assert composing._ranks(lora_of(pair("a.x", 8, 1) | pair("b.x", 2, 2) | pair("c.x", 4, 3))) == "2 to 8"


def test_the_config_of_an_adapter_is_written_last(folder, tmp_path):
    written = []

    class Recording(Store):
        def upload(self, local, uri):
            written.append(Path(uri).relative_to(tmp_path / "out").as_posix())
            super().upload(local, uri)

    one = make_adapter(tmp_path, "one", 1, folder / "base")
    compose_adapters(Recording(), str(tmp_path / "out"), {one: 1.0}, merged=True)
    assert written[-1] == CONFIG and written.index("merged/config.json") < written.index("adapter_model.safetensors")


def test_an_adapter_that_lacks_its_tensors_or_its_base_is_refused(folder, tmp_path):
    one = Path(make_adapter(tmp_path, "one", 1, folder / "base"))
    settings = json.loads((one / CONFIG).read_text())
    (one / CONFIG).write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="names no base_model_name_or_path"):
        compose_adapters(Store(), str(tmp_path / "out"), {str(one): 1.0})
    (one / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"has no adapter_model\.safetensors"):
        compose_adapters(Store(), str(tmp_path / "out"), {str(one): 1.0})


def test_revisions_of_one_name_are_other_bases(monkeypatch):
    """Compared by what they hold, which has to be fetched; equal names and revisions need no look."""
    looked = []
    monkeypatch.setattr(composing, "model_fingerprint", lambda store, base: looked.append(base) or base.revision)

    def of(revision: str | None) -> LoraAdapter:
        return lora_of({}, base_model_name_or_path="org/base", revision=revision)

    assert composing._common_base(Store(), [of("a"), of("a")]) == Model(name="org/base", revision="a")
    assert looked == []
    with pytest.raises(ConfigError, match="base org/base at revision b, and hand-made of org/base at a"):
        composing._common_base(Store(), [of("a"), of("b")])


def test_the_libraries_say_as_much_afterwards_as_before(folder, tmp_path):
    from transformers.utils import logging

    one = make_adapter(tmp_path, "one", 1, folder / "base")
    before = logging.get_verbosity()
    try:
        for level, bars in ((logging.INFO, True), (logging.WARNING, False)):
            logging.set_verbosity(level)
            logging.enable_progress_bar() if bars else logging.disable_progress_bar()
            compose_adapters(Store(), str(tmp_path / f"out{level}"), {one: 1.0})
            assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, b""), (CONFIG, b"[]"), (CONFIG, b"{}"), (CONFIG, b"[" * 100_000), (CONFIG, b"\xff"),
        ("adapter_model.safetensors", b""), ("adapter_model.safetensors", b"\xff" * 100),
        ("adapter_model.safetensors", b"\x02\0\0\0\0\0\0\0{}tail"),
    ],
)  # fmt: skip
def test_a_damaged_adapter_is_named_and_no_defect(folder, tmp_path, name, content):
    adapter = shutil.copytree(make_adapter(folder, "to-damage", seed=3), tmp_path / "damaged")
    (adapter / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        compose_adapters(Store(), str(tmp_path / "out"), {str(adapter): 1.0})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"init_lora_weights": "pissa"}, "peft changes the base when it loads it"),
        ({"init_lora_weights": ["corda"]}, "peft changes the base when it loads it"),
        ({"alora_invocation_tokens": [1]}, "it is added after certain tokens alone"),
        ({"use_qalora": True}, "it adapts pooled inputs"),
        ({"lora_alpha": "4"}, "want numbers"),
        ({"lora_alpha": float("nan")}, "want numbers"),
        ({"alpha_pattern": ["a"]}, "want numbers"),
        ({"alpha_pattern": 1}, "want numbers"),
        ({"alpha_pattern": {"a": True}}, "want numbers"),
        ({"lora_alpha": True}, "want numbers"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern cannot be matched"),
        ({"alpha_pattern": {"([a-z0-9_.]+)+!": 1}}, "alpha_pattern cannot be matched"),
    ],
)
def test_a_hostile_or_damaged_config_is_refused(monkeypatch, config, said):
    monkeypatch.setattr(composing, "_OF_A_PATTERN", WorkBounds(1, 1 << 30))
    with pytest.raises(ConfigError, match=rf"adapters=\"hand-made\": .*{said}"):
        weighted_sum([lora_of(pair("a" * 30 + ".x", 2, 1), **config)], [1.0])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(3, 5), torch.ones(6, 2)),
        (torch.ones(0, 5), torch.ones(6, 0)),
        (torch.ones(2, 5, dtype=torch.int64), torch.ones(6, 2)),
        (torch.ones(2, 5, dtype=torch.complex64), torch.ones(6, 2)),
        (torch.ones(2, 0), torch.ones(6, 2)),
        (torch.ones(2, 5), torch.ones(0, 2)),
    ],
    ids=["other ranks", "no rank", "whole numbers", "complex", "no column", "no row"],
)
def test_matrices_that_cannot_be_those_of_lora_are_refused(a, b):
    names = pair("a.x", 2, 1)
    with pytest.raises(ConfigError, match=r"wanted floating-point \[r, n\] and \[m, r\]"):
        weighted_sum([lora_of(dict(zip(names, (a, b), strict=True)))], [1.0])


def test_the_check_makes_no_whole_matrix():
    """One of 2^40 values here, of two adapters of 8 MB."""
    names = pair("a.x", 2, 1)
    one = lora_of(dict(zip(names, (torch.ones(1, 1 << 20), torch.ones(1 << 20, 1)), strict=True)))
    right = weighted_sum([one, one], [0.5, 2.0])
    assert largest_deviation(right, [one, one], [0.5, 2.0]) < 1e-6
    assert largest_deviation(right, [one, one], [0.5, 2.1]) == pytest.approx(0.1 / 2.1)


def test_opposite_changes_of_one_adapter_deviate_by_nothing():
    one = lora_of(pair("a.x", 2, 1))
    assert largest_deviation(weighted_sum([one, one], [1.0, -1.0]), [one, one], [1.0, -1.0]) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_makes_the_deviation_nan(value):
    one = lora_of({key: torch.full_like(values, value) for key, values in pair("a.x", 2, 1).items()})
    assert math.isnan(largest_deviation(weighted_sum([one], [1.0]), [one], [1.0]))


def test_an_adapter_without_matrices_is_refused():
    with pytest.raises(ConfigError, match="holds no matrix"):
        weighted_sum([lora_of({})], [1.0])


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"revision": ["a"]}, r"revision is \['a'\]"),
        ({"task_type": "X"}, "task_type is 'X'"),
        ({"lora_alpha": 10**400}, "want numbers"),
    ],
)
def test_a_setting_of_another_form_is_an_error_of_the_adapter(folder, tmp_path, config, said):
    one, two = (Path(make_adapter(tmp_path, name, 1, folder / "base")) for name in ("one", "two"))
    (one / CONFIG).write_text(json.dumps(json.loads((one / CONFIG).read_text()) | config))
    with pytest.raises(ConfigError, match=said):
        compose_adapters(Store(), str(tmp_path / "out"), {str(one): 1.0, str(two): 1.0})


def test_a_matrix_that_the_base_does_not_have_is_not_merged(folder, tmp_path):
    one, two = (Path(make_adapter(tmp_path, name, 1, folder / "base")) for name in ("one", "two"))
    tensors = load_file(one / "adapter_model.safetensors")
    save_file(
        {key.replace("q_proj", "x_proj"): value for key, value in tensors.items()}, one / "adapter_model.safetensors"
    )
    with pytest.raises(ConfigError, match=r"has no module .*x_proj"):
        compose_adapters(Store(), str(tmp_path / "out"), {str(one): 1.0, str(two): 1.0}, merged=True)


def test_a_combination_has_no_regular_expression_and_no_setting_that_loads_code_or_files():
    expression = "([a-z0-9_.]+)+!"
    hostile = {
        "target_modules": expression, "exclude_modules": expression, "layers_pattern": [expression],
        "layers_to_transform": [0], "rank_pattern": {expression: 8}, "megatron_core": "evil", "megatron_config": {},
        "corda_config": {"cache_file": "/etc/passwd"}, "auto_mapping": {"parent_library": "evil"},
    }  # fmt: skip
    found = weighted_sum([lora_of(pair("a.x", 2, 1), **hostile)] * 2, [1.0, 1.0]).config
    assert found["target_modules"] == ["a.x"]
    assert not [name for name, value in found.items() if expression in str(value) or "evil" in str(value)]
    assert "corda_config" not in found
