"""A worker's device, its allocator, and the process group it joins."""

import os

import pytest
import torch

from training.fit import place

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.fixture
def allocator(monkeypatch):
    """An environment without settings, and an allocator without any."""
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    torch._C._accelerator_setAllocatorSettings("")
    yield
    torch._C._accelerator_setAllocatorSettings("")


def test_before_cuda_starts_the_environment_asks_for_expandable_segments(allocator):
    assert not torch.cuda.is_initialized()
    place.use_expandable_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_where_cuda_runs_already_as_under_ray_train_the_allocator_itself_is_set(allocator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    place.use_expandable_segments()
    assert torch._C._accelerator_getAllocatorSettings() == "expandable_segments:True"


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES)
def test_an_allocator_setting_of_the_users_stays(name, allocator, monkeypatch):
    monkeypatch.setenv(name, "max_split_size_mb:128")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    place.use_expandable_segments()
    assert {n: os.environ.get(n) for n in ALLOCATOR_VARIABLES if n in os.environ} == {name: "max_split_size_mb:128"}
    assert torch._C._accelerator_getAllocatorSettings() == ""
