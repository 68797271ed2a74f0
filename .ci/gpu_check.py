"""``python .ci/gpu_check.py``: everything to trust the operator on this GPU.

Builds the CUDA kernels in place, runs the operator's tests with them, repeats a few under
compute-sanitizer (memory, races, barriers), and prints the benchmark and the share of the copy
bandwidth as tables for the README. Needs a clone of the repository, nvcc and a GPU.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the operator is built in place
SANITIZED = """
import torch
from cornernet_d2.layers import corner_pool, corner_pool_sum
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for shape in ((1, 2, 33, 31), (2, 3, 129, 64), (1, 2, 40, 513), (1, 8, 1, 1)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=layout)
            x.requires_grad_()
            for mode in ("top", "bottom", "left", "right"):
                corner_pool(x, mode).float().square().sum().backward()
            for corner in ("tl", "br"):
                corner_pool_sum(x, x, corner).float().sum().backward()
torch.cuda.synchronize()
"""


def _step(title: str, command: list[str], **environment: str) -> bool:
    print(f"\n## {title}\n", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment})
    if done.returncode:
        print(f"\nFAILED: {' '.join(command[:4])} ... (exit status {done.returncode})")
    return done.returncode == 0


def _median_ms(call: Callable[[], object], repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[repeats // 4 :])[len(times[repeats // 4 :]) // 2]


def bandwidth() -> None:
    """Prints each kernel's bytes a second as a share of a device copy's."""
    from cornernet_d2.layers import corner_pool, corner_pool_sum  # after the build

    operators = torch.ops.cornernet_d2
    print("| map | kernel | GB/s | share of copy |\n| --- | --- | --- | --- |")
    for shape in ((1, 128, 128, 128), (8, 256, 128, 128)):
        for dtype in (torch.float32, torch.bfloat16):
            x, y, grad = (torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
            size = x.numel() * x.element_size()
            kernels = {"copy": (2, x.clone)}
            for mode, dim in (("top", 2), ("left", 3)):
                kernels[mode] = 2, lambda m=mode: corner_pool(x, m)
                kernels[f"{mode} backward"] = 3, lambda d=dim: operators.corner_pool_backward(
                    grad, x, d, True
                )
            kernels["sum"] = 3, lambda: corner_pool_sum(x, y, "tl")
            rates = {k: n * size / _median_ms(call) / 1e6 for k, (n, call) in kernels.items()}
            for name, rate in rates.items():
                label = f"{'x'.join(map(str, shape))} {str(dtype)[6:]}"
                print(f"| {label} | {name} | {rate:.0f} | {rate / rates['copy']:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python .ci/gpu_check.py", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bandwidth", action="store_true", help="only the bandwidth table")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_check needs a GPU that torch can see.", file=sys.stderr)
        return 1
    if args.bandwidth:
        bandwidth()
        return 0
    python = [sys.executable]
    build = python + ["setup.py", "build_ext", "--inplace", "--force"]
    if not _step("Build", build, FORCE_CUDA="1"):
        return 1
    print(f"\nGPU: {torch.cuda.get_device_name()}, torch {torch.__version__}")
    tests = ["tests/test_corner_pool.py", "tests/test_corner_pool_registration.py"]
    good = [_step("Tests", python + ["-m", "pytest", "-q", *tests])]
    if shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck", "synccheck"):
            sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
            good.append(_step(f"compute-sanitizer {tool}", sanitizer + python + ["-c", SANITIZED]))
    else:
        print("\ncompute-sanitizer is not on the PATH: skipped")
    benchmark = python + ["-m", "tests.benchmarks", "op", "--device", "cuda"]
    good.append(_step("Against other implementations", benchmark))
    good.append(_step("Bandwidth", python + [__file__, "--bandwidth"]))
    print("\nall passed" if all(good) else "\nFAILED, see above")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
