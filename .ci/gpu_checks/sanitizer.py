"""Every kernel under compute-sanitizer: memory, shared-memory races, barriers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import ROOT, Rows, Settings

TOOLS = ("memcheck", "racecheck", "synccheck")
# Kernels of this package alone, by their namespace; calls that torch's allocator or cuBLAS try and
# survive are no errors.
FILTER = ("--kernel-name", "kns=cornernet_d2", "--report-api-errors", "no")
WORK = """
import sys, torch
from cornernet_d2.layers import corner_pool, corner_pool_sum
from cornernet_d2.modeling.soft_nms import batched_soft_nms
device, tiny = sys.argv[1], sys.argv[2] == "True"
shapes = ((1, 2, 33, 31), (2, 3, 129, 64), (1, 2, 40, 513), (1, 8, 1, 1), (1, 3, 600, 17))
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for shape in shapes[:1] if tiny else shapes:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
            x.requires_grad_()
            for mode in ("top", "bottom", "left", "right"):
                corner_pool(x, mode).float().square().sum().backward()
            for corner in ("tl", "br"):
                corner_pool_sum(x, x, corner).float().sum().backward()
for count, groups in ((64, 3), (1000, 1), (1, 1)):
    corners = torch.rand(count, 2, device=device) * 100
    boxes, scores = torch.cat([corners, corners + 40], dim=1), torch.rand(count, device=device)
    classes = torch.arange(count, device=device) % groups
    batched_soft_nms(boxes, scores, classes)
    parts = torch.rand(count, 2, device=device)
    batched_soft_nms(boxes, scores, classes, corner_scores=parts, exponent=8.0)
if device == "cuda":
    torch.cuda.synchronize()
"""


def run(settings: Settings) -> Rows:
    program = [sys.executable, "-W", "ignore", "-c", WORK, settings.device, str(settings.tiny)]
    # Cached memory would hide what is read after its tensor has gone.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    sanitizer = find()
    if settings.device == "cpu" or sanitizer is None:
        subprocess.run(program, cwd=ROOT, env=environment, check=True)
        yield {"tool": "none", "ok": True}
    if sanitizer is None:
        yield {"skipped": "compute-sanitizer is MISSING (it comes with the CUDA toolkit)"}
        return
    for tool in TOOLS if settings.device == "cuda" else ():
        command = [sanitizer, "--tool", tool, *FILTER, "--error-exitcode", "1", *program]
        status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        yield {"tool": tool, "ok": status == 0}


def find() -> str | None:
    """The program on the PATH, or that of the toolkit in CUDA_HOME."""
    found = shutil.which("compute-sanitizer")
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    for path in (home / "bin/compute-sanitizer", home / "compute-sanitizer/compute-sanitizer"):
        if found is None and path.is_file():
            found = str(path)
    return found
