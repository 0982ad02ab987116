"""`instructions` reaches NumPy and PyTorch before they are loaded, and nothing that the user has set is lost."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import stages

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, stages
assert not {"numpy", "torch"} & set(sys.modules), "too late"
import json, os, numpy, torch
features = numpy._core._multiarray_umath.__cpu_features__
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "numpy": features.get("X86_V4", False),
    "set": {name: os.environ[name] for name in stages.AVX2 if name in os.environ},
}))
"""

needs_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="no x86-64 processor")


def found_with(folder: Path, **environment: str) -> dict:
    """Return what a program that imports `stages` in the folder finds."""
    inherited = {name: value for name, value in os.environ.items() if name not in stages.AVX2}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_x86
@pytest.mark.parametrize(
    "text", ["seed: 0\ninstructions: avx2  # or native\n", "instructions: 'avx2'\n", "seed: 0\n", None]
)
def test_no_newer_instructions_than_avx2(tmp_path, text):
    if text is not None:
        (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    found = found_with(tmp_path)
    assert found == {"torch": "AVX2", "numpy": False, "set": stages.AVX2}


@needs_x86
@pytest.mark.parametrize("text", ["instructions: native\n", 'seed: 0\ninstructions: "native"\n'])
def test_native_limits_nothing(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert found_with(tmp_path)["set"] == {}
    assert found_with(tmp_path, **stages.AVX2)["set"] == {}, "of a program that started this one"
    own = {"ATEN_CPU_CAPABILITY": "default"}
    assert found_with(tmp_path, **own) | {"numpy": None} == {"torch": "DEFAULT", "numpy": None, "set": own}


def test_tests_run_as_the_stages_do():
    import torch

    configured = stages.configured_instructions()
    assert configured in ("avx2", "native")
    if configured == "avx2" and platform.machine().lower() in ("x86_64", "amd64"):
        assert torch.backends.cpu.get_cpu_capability() == "AVX2"
