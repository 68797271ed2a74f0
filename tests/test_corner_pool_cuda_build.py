"""The real CUDA extension on a machine without a GPU: it builds, loads, and its code is lean."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.cpp_extension import CUDA_HOME

from tests.benchmarks.cuda_static import find_cuobjdump, measure, table
from tests.cuda_emulation import Emulation

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ["7.5", "8.0", "9.0", "10.0"]
ACCESSES = 2 + 2 + 2 + 1  # a vector or an element of float32, float16, bfloat16; float64
KERNELS = ACCESSES * 5 + 1  # and soft-NMS

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


def test_builds_loads_and_reaches_the_goals_of_the_static_table(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "cornernet_d2", source / "cornernet_d2", ignore=_binaries)
    shutil.copytree(ROOT / "configs", source / "configs")
    shutil.copy(ROOT / "setup.py", source)
    environment = {
        **os.environ,
        "FORCE_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": ";".join(ARCHITECTURES) + "+PTX",
        "NVCC_APPEND_FLAGS": "-Xptxas -v",
        "NVCC_THREADS": "2",
    }
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]

    spills = [tuple(map(int, m)) for m in re.findall(r"(\d+) bytes spill stores, (\d+) bytes", log)]
    assert len(spills) == KERNELS * len(ARCHITECTURES)
    assert set(spills) == {(0, 0)}

    check = (
        "import sys, types, torch; package = types.ModuleType('cornernet_d2');"
        "package.__path__ = ['cornernet_d2']; sys.modules['cornernet_d2'] = package;"
        "from cornernet_d2.layers import corner_pool, is_compiled;"
        "assert is_compiled() == {'cpu': True, 'cuda': True};"
        "assert corner_pool(torch.eye(3)[None, None], 'top').sum() == 6"
    )
    subprocess.run([sys.executable, "-c", check], cwd=source, check=True)

    if find_cuobjdump() is None:
        pytest.skip("built and loaded; no cuobjdump to read its machine code with")
    (library,) = (p for p in (source / "cornernet_d2").glob("*.so") if _has_kernels(p))
    kernels = measure(library, Emulation(tmp_path))
    assert len(kernels) == 5 * 3 * len(ARCHITECTURES), table(kernels)
    for kernel in kernels:
        assert kernel.spills == 0 and kernel.access == 16 and kernel.blocks >= 128, kernel
        if kernel.arch >= 80:  # sm_75 has no maximum that propagates NaN
            assert kernel.cap >= (1.0 if "backward" in kernel.name else 1.5), kernel


def _has_kernels(library: Path) -> bool:
    return b"columns_forward" in library.read_bytes()


def _binaries(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name.endswith((".so", "__pycache__"))}
