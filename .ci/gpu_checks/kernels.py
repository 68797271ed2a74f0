"""That calls on this device reach a compiled kernel: a test that passes may have run none."""

import json
import os
import subprocess
import sys

import torch

from . import ROOT, Rows, Settings

REPORT = (
    "import json; from cornernet_d2.layers import is_compiled; print(json.dumps(is_compiled()))"
)
# One pass over the operators; what runs is asked of the profiler.
LAUNCHES = """
import torch
from cornernet_d2.layers import corner_pool, corner_pool_sum
x = torch.randn(1, 4, 8, 8, device="cuda", requires_grad=True)
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
    (corner_pool(x, "top") + corner_pool_sum(x, x, "br")).sum().backward()
    torch.cuda.synchronize()
kernels = [e.key for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
print(sum("cornernet" in name for name in kernels), len(kernels))
"""


def run(settings: Settings) -> Rows:
    """Builds in place, for this GPU alone, what is not compiled yet."""
    device = settings.device
    compiled = _compiled()
    if not compiled[device]:
        yield {"note": f"No {device} kernels ({compiled}): building them in place."}
        environment = dict(os.environ)
        if device == "cuda":
            environment["FORCE_CUDA"] = "1"
            capability = "{}.{}".format(*torch.cuda.get_device_capability())
            environment.setdefault("TORCH_CUDA_ARCH_LIST", capability)
        build = [sys.executable, "setup.py", "build_ext", "--inplace", "--force"]
        subprocess.run(build, cwd=ROOT, env=environment, check=True)
        compiled = _compiled()
    yield {
        "kernels": f'is_compiled()["{device}"]',
        "found": compiled[device],
        "ok": compiled[device],
    }
    if device == "cuda" and compiled[device]:
        ours, all_kernels = map(int, _python(LAUNCHES).splitlines()[-1].split())
        if all_kernels:
            yield {"kernels": "launched in a profile", "found": ours, "ok": ours > 0}
        else:
            yield {"note": "The profiler sees no kernels here: not allowed to, perhaps."}


def _compiled() -> dict[str, bool]:
    return json.loads(_python(REPORT).splitlines()[-1])


def _python(code: str) -> str:
    """What a new process prints: a library that is loaded cannot be replaced."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
