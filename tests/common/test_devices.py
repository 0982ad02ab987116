"""Seeds, threads and the refusal of kernels whose results vary."""

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch

from stages.common.devices import find_device, in_processes, set_up_torch, takes_bfloat16
from tests.conftest import ROOT, end_within


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
    with pytest.raises(SystemExit, match="this processor has no AVX2; set native"):
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
    for device, warns in (("mps", True), ("cpu", False)):
        set_up_torch(5, 1, find_device(device))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warns


def times_three(number: int) -> int:
    return 3 * number


def test_jobs_come_back_in_their_order():
    assert list(in_processes(times_three, range(5), 1)) == [0, 3, 6, 9, 12]
    # In a fresh interpreter, because what other tests have started isn't safe to fork.
    names = "from tests.common.test_devices import in_processes, times_three"
    command = [sys.executable, "-c", f"{names}\nprint(*in_processes(times_three, range(5), 2))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "0 3 6 9 12\n"


PARENT = """
import os, signal, sys, time
from stages.common.devices import in_processes

def job(number):
    os.write(sys.stdout.fileno(), b"%d\\n" % os.getpid())  # at once: print may write the end of the line by itself
    time.sleep(float(sys.argv[1]))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
    for _ in in_processes(job, range(40), 2):
        time.sleep(3600)
"""


@pytest.fixture
def working(tmp_path):
    """A function that starts a program with two workers on jobs of so many seconds: its process, and the workers."""
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with contextlib.ExitStack() as opened:

        def start(seconds: float) -> tuple[subprocess.Popen, list[psutil.Process]]:
            command = [sys.executable, program, str(seconds)]
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": environment}
            parent = opened.enter_context(subprocess.Popen(command, start_new_session=True, **options))
            opened.callback(parent.kill)  # first, since the line above waits for its end in a test that fails, too
            numbers: set[int] = set()
            while len(numbers) < 2:  # one may have done its first job before the other begins
                numbers.add(int(parent.stdout.readline()))
            workers = [psutil.Process(number) for number in numbers]

            @opened.callback
            def end() -> None:
                for process in workers:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()

            return parent, workers

        yield start


@pytest.mark.parametrize("seconds", [0.5, 300])
def test_workers_end_with_the_process_that_was_killed(working, seconds):
    parent, workers = working(seconds)
    parent.kill()
    parent.wait()
    assert end_within([worker.pid for worker in workers], seconds=60)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals to a group of processes")
def test_ctrl_c_ends_workers_in_their_jobs(working):
    parent, workers = working(300)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=60) != 0
    assert end_within([worker.pid for worker in workers], seconds=60)


def test_a_precision_that_is_named_is_taken():
    cpu = torch.device("cpu")
    assert takes_bfloat16("bfloat16", cpu) and not takes_bfloat16("float32", cpu)


@pytest.mark.parametrize(
    ("used", "has", "expected"), [("AVX2", True, False), ("AVX512", True, True), ("AVX512", False, False)]
)
def test_auto_goes_by_what_pytorch_may_use_not_by_what_the_processor_has(monkeypatch, used, has, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has})
    assert takes_bfloat16("auto", torch.device("cpu")) == expected
    assert not takes_bfloat16("auto", torch.device("mps"))
