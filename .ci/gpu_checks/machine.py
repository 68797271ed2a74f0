"""What every number of the report depends on: GPU, driver, clocks, torch, this commit."""

import platform
import shutil
import subprocess

import torch

from cornernet_d2 import __version__

from . import ROOT, Rows, Settings

QUERY = {
    "driver": "driver_version",
    "SM clock now": "clocks.sm",
    "SM clock at most": "clocks.max.sm",
    "memory clock now": "clocks.mem",
    "power limit": "power.limit",
    "temperature, C": "temperature.gpu",
    "other processes' use": "utilization.gpu",
}


def run(settings: Settings) -> Rows:
    yield _row("torch", f"{torch.__version__}, CUDA {torch.version.cuda}")
    yield _row("cornernet_d2", f"{__version__}, commit {_output('git', 'rev-parse', 'HEAD')}")
    yield _row("system", f"{platform.platform()}, Python {platform.python_version()}")
    yield _row("CPU threads", torch.get_num_threads())
    if settings.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU: is it a CUDA build, and does nvidia-smi list one?")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield _row(
            f"GPU {index}",
            f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, "
            f"{gpu.multi_processor_count} SMs, {gpu.total_memory / 2**30:.0f} GiB, "
            f"L2 {gpu.L2_cache_size / 2**20:.0f} MiB",
        )
    yield _row("cuDNN", torch.backends.cudnn.version())
    if shutil.which("nvidia-smi") is None:
        yield _row("driver, clocks", "nvidia-smi is not on the PATH")
        return
    values = _output(
        "nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader"
    )
    for name, value in zip(QUERY, values.splitlines()[0].split(", ")):
        yield _row(name, value)


def _row(name: str, value: object) -> dict[str, object]:
    return {"": name, "value": value}


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
