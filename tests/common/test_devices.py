"""Seeds, threads and the refusal of kernels whose results vary."""

import pytest
import torch

from stages.common.devices import find_device, set_up_torch, takes_bfloat16


@pytest.fixture
def restored():
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def test_a_stage_has_its_seed_its_threads_and_deterministic_kernels(restored):
    threads = torch.get_num_threads() + 1
    drawn = []
    for _ in range(2):
        torch.set_deterministic_debug_mode("default")
        set_up_torch(seed=5, num_threads=threads)
        drawn.append(torch.randn(3).tolist())
        assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert drawn[0] == drawn[1]


def test_a_processor_without_the_instructions_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": False})
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with pytest.raises(SystemExit, match="this processor has no AVX2; with native it does"):
        set_up_torch(seed=5, num_threads=1)


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        find_device("cuda")
    assert end.value.code == "device: cuda was asked for, but this machine has only: cpu"
    with pytest.raises(SystemExit, match="device: gpu was asked for"):
        find_device("gpu")


@pytest.mark.parametrize(
    "there, expected",
    [((False, False), "cpu"), ((True, False), "cuda"), ((False, True), "mps"), ((True, True), "cuda")],
)
def test_auto_takes_the_fastest_that_there_is(restored, monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there[0])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there[1])
    assert find_device("auto") == torch.device(expected)


def test_mps_warns_of_kernels_that_it_has_no_others_for(restored, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    torch.set_deterministic_debug_mode("default")
    find_device("mps")
    assert not torch.are_deterministic_algorithms_enabled()
    set_up_torch(seed=5, num_threads=1)
    find_device("cpu")
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    find_device("mps")
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_precision_that_is_named_is_taken():
    cpu = torch.device("cpu")
    assert takes_bfloat16("bfloat16", cpu) and not takes_bfloat16("float32", cpu)
