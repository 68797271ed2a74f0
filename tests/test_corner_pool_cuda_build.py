"""The real CUDA extension on a machine without a GPU: it builds, spills nothing, loads."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import CUDA_HOME

ROOT = Path(__file__).parents[1]
# CUDA 13 dropped Volta (sm_70); older toolkits still build it.
ARCHITECTURES = ["7.0", "8.0", "9.0", "10.0"]
KERNELS = 4 * 2 * 5 + 1  # types x access widths x kernels, and soft-NMS

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("CORNERNET_D2_TEST_CUDA_BUILD", "0") != "1",
        reason="takes minutes; CORNERNET_D2_TEST_CUDA_BUILD=1 runs it",
    ),
    pytest.mark.skipif(
        CUDA_HOME is None or not Path(CUDA_HOME or "", "bin", "nvcc").is_file(),
        reason="needs nvcc",
    ),
]


def test_builds_without_spills_and_loads(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "cornernet_d2", source / "cornernet_d2", ignore=_binaries)
    shutil.copytree(ROOT / "configs", source / "configs")
    shutil.copy(ROOT / "setup.py", source)
    nvcc = Path(CUDA_HOME, "bin", "nvcc")
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    chosen = [a for a in ARCHITECTURES if f"compute_{a.replace('.', '')}" in known]
    assert {"8.0", "9.0", "10.0"} <= set(chosen)
    environment = {
        **os.environ,
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": ";".join(chosen) + "+PTX",
        "NVCC_APPEND_FLAGS": "-Xptxas -v",
        "NVCC_THREADS": "2",
    }
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]

    spills = [tuple(map(int, m)) for m in re.findall(r"(\d+) bytes spill stores, (\d+) bytes", log)]
    assert len(spills) == KERNELS * len(chosen)
    assert set(spills) == {(0, 0)}

    check = (
        "import sys, types, torch; package = types.ModuleType('cornernet_d2');"
        "package.__path__ = ['cornernet_d2']; sys.modules['cornernet_d2'] = package;"
        "from cornernet_d2.layers import corner_pool, is_compiled;"
        "assert is_compiled() == {'cpu': True, 'cuda': True};"
        "assert corner_pool(torch.eye(3)[None, None], 'top').sum() == 6"
    )
    subprocess.run([sys.executable, "-c", check], cwd=source, check=True)
    assert torch.version.cuda


def _binaries(_: str, names: list) -> set:
    return {name for name in names if name.endswith((".so", "__pycache__"))}
