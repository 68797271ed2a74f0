"""Which arithmetic and which memory format a machine is good at."""

import torch


def hardware_precision(device: str) -> tuple[torch.dtype | None, str]:
    """The fastest dtype that ``device`` has instructions for, None for float32, and why.

    What a machine only emulates is slower than float32, on a CPU many times.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return torch.bfloat16, f"the GPU is of compute capability {major}.{minor}"
        return torch.float16, f"the GPU, of compute capability {major}.{minor}, has no bfloat16"
    if device.startswith(("cpu", "cuda")):
        # Names that torch keeps to itself, and may drop: then float32 is right, only slower.
        for probe, name in (
            ("_is_amx_tile_supported", "AMX"),
            ("_is_avx512_bf16_supported", "AVX512-BF16"),
        ):
            if getattr(torch.cpu, probe, bool)():
                return torch.bfloat16, f"the CPU has {name}"
        return None, "the CPU has neither AMX nor AVX512-BF16"
    return None, f"nothing is known of the device {device}"


def check_device(device: str) -> None:
    """Raises ValueError where torch has no such device, or cannot use it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = f"{str(error).splitlines()[0][:100]}"
        raise ValueError(f"device {device!r} cannot be used here: {known}") from error


def prefers_channels_last(device: str, half: bool) -> tuple[bool, str]:
    """Whether training is faster on channels_last maps, and why; no measurement, so that every run
    on a machine computes the same.

    On CPUs measured with one thread, contiguous over channels_last: 1.05 to 1.18 with AVX-512, 0.85
    (Hourglass-52) to 1.12 (CornerNet-Shapes) with AVX2.

    Args:
        device: as in MODEL.DEVICE.
        half: most of the arithmetic is in float16 or bfloat16.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        return half, "tensor cores take channels_last in half precision" if half else "float32"
    capability = torch.backends.cpu.get_cpu_capability()
    if device.startswith(("cpu", "cuda")):
        return capability.startswith("AVX512"), f"the CPU has {capability}"
    return False, f"nothing is known of the device {device}"
