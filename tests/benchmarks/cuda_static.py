"""``python -m tests.benchmarks.cuda_static``: what the CUDA kernels cost, without a GPU.

Compiles the kernels for several architectures, or reads a compiled library that holds their PTX
too, and prints a line for every vectorised kernel at 128 channels of 128x128. The worst of both
layouts and of 5 and 8 images counts.

    registers     of a thread; shared: bytes of a block
    spills        accesses to local memory in the machine code
    blocks/SM     resident blocks, from registers, shared memory and threads
    instructions  that a thread issues: the PTX it executes (see ptx.py), times the kernel's length
                  in machine code over its length in PTX
    access        bytes of the narrowest access to global memory in the machine code
    cap           the share of the device's copy speed that so many instructions allow:
                  bytes moved / instructions issued * 0.6 * peak issue / copy speed, with an H100's
                  numbers and the 60 % of peak issue that good kernels reach. Below 1 instructions,
                  not memory, decide the speed.
    blocks        of the launch for one image
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch.utils.cpp_extension import CUDA_HOME

from tests.cuda_emulation import BACKWARD, CSRC, FORWARD, SUM, Emulation, Launch

from .ptx import Program

ARCHITECTURES = (80, 90, 100)
ISSUE_A_SECOND = 0.6 * 132 * 4 * 32 * 1.755e9  # SMs, schedulers, lanes, clock: thread instructions
COPY_BYTES_A_SECOND = 3.0e12
REGISTERS_AN_SM = 65536
THREADS_AN_SM = {75: 1024, 80: 2048, 90: 2048, 100: 2048}
SHARED_AN_SM = {75: 64 << 10, 80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
SHARED_RESERVED = 1024  # a block, by the driver
DTYPES = {"f": torch.float32, "6__half": torch.float16, "13__nv_bfloat16": torch.bfloat16}
MANGLED = re.compile(
    r"\d(columns|rows)_(forward|backward)I(f|6__half|13__nv_bfloat16)Li(\d+)E(Lb1)?"
)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
SOURCE = """
#include "cuda/corner_pool.cuh"
using namespace cornernet_d2::gpu;
struct Start {
  template <class Kernel, class Arguments>
  void operator()(Kernel kernel, dim3 grid, dim3 block, Arguments args) const {
    kernel<<<grid, block>>>(args);
  }
};
template <class T>
void instantiate(Args<T> args) {
  launch_pool<T, Mode::kForward>(args, Start());
  launch_pool<T, Mode::kBackward>(args, Start());
  launch_sum<T>(args, args, Start());
}
template void instantiate(Args<Float32>);
template void instantiate(Args<Float16>);
template void instantiate(Args<BFloat16>);
"""


@dataclass(frozen=True)
class Kernel:
    """One kernel in one architecture's machine code; the fields are the table's columns."""

    name: str  # "columns" or "rows", with "+ addend" or "backward"
    dtype: str
    arch: int
    registers: int
    shared: int
    spills: int
    blocks_an_sm: int
    instructions: int
    access: int
    cap: float
    blocks: int


def find_cuobjdump() -> str | None:
    """The disassembler of the toolkit, or the one that comes with Triton."""
    folders = [str(Path(CUDA_HOME or "", "bin"))]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:
        folders.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(folders))


def compile_kernels(folder: Path) -> Path:
    """The kernels for ARCHITECTURES, and the last one's PTX, as torch's extensions compile them."""
    source, library = folder / "kernels.cu", folder / "kernels.fatbin"
    source.write_text(SOURCE)
    command = [str(Path(CUDA_HOME or "", "bin", "nvcc")), "-fatbin", "-O3", "-std=c++20"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command += [f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}"]
    subprocess.run([*command, f"-I{CSRC}", str(source), "-o", str(library)], check=True)
    return library


def measure(library: Path, emulation: Emulation) -> list[Kernel]:
    """The vectorised kernels in ``library``, which holds machine code and PTX.

    Raises:
        ValueError: no cuobjdump is installed.
    """
    tool = find_cuobjdump()
    if tool is None:
        raise ValueError("cuobjdump is not on PATH, in CUDA_HOME or in Triton: install one")
    text = {
        option: subprocess.run(
            [tool, option, str(library)], capture_output=True, text=True, check=True
        ).stdout
        for option in ("-sass", "-res-usage", "-ptx")
    }
    programs = dict(Program.all_of(text["-ptx"]))
    usage: dict[int, str] = {}
    for arch, part in _by_arch(text["-res-usage"]):
        usage[arch] = usage.get(arch, "") + part  # a library has a part for each object file
    kernels = []
    for arch, code in _by_arch(text["-sass"]):
        for part in code.split("Function : ")[1:]:
            mangled = part.split(maxsplit=1)[0]
            match = MANGLED.search(mangled)
            if match is not None and int(match[4]) > 1:
                resources = usage[arch].split(f"Function {mangled}:")[1]
                numbers = re.search(r"REG:(\d+) .*?SHARED:(\d+)", resources)
                name = (
                    match[1] + " backward" * (match[2] == "backward") + " + addend" * bool(match[5])
                )
                kernels.append(
                    _measure(
                        name, DTYPES[match[3]], arch, part, numbers, programs[mangled], emulation
                    )
                )
    return sorted(kernels, key=lambda kernel: (kernel.arch, kernel.name, kernel.dtype))


def _by_arch(text: str) -> Iterator[tuple[int, str]]:
    for part in re.split(r"^arch = sm_", text, flags=re.MULTILINE)[1:]:
        yield int(re.match(r"\d+", part)[0]), part


def _measure(
    name: str,
    dtype: torch.dtype,
    arch: int,
    code: str,
    resources: re.Match,
    program: Program,
    emulation: Emulation,
) -> Kernel:
    operations = [o for o in INSTRUCTION.findall(code) if o != "NOP"]
    registers, shared = int(resources[1]), int(resources[2])
    if arch < 90 or shared == 0:  # from sm_90 on the compiler counts the reserved part
        shared += SHARED_RESERVED
    launches = [launch for images in (5, 8) for launch in _launches(name, dtype, images, emulation)]
    costs = [_average(program, launch) for launch in launches]
    expansion = len(operations) / program.length
    threads = launches[0].block[0] * launches[0].block[1]
    warp_registers = -(-registers * 32 // 256) * 256
    return Kernel(
        name=name,
        dtype=str(dtype).removeprefix("torch."),
        arch=arch,
        registers=registers,
        shared=shared,
        spills=sum(o.startswith(("STL", "LDL")) for o in operations),
        blocks_an_sm=min(
            REGISTERS_AN_SM // (warp_registers * threads // 32), SHARED_AN_SM[arch] // shared,
            THREADS_AN_SM[arch] // threads,
        ),
        instructions=round(expansion * max(issued for issued, _ in costs)),
        access=min(_access_bytes(o) for o in operations if o.startswith(("LDG", "STG"))),
        cap=min(moved / issued for issued, moved in costs)
        / expansion * ISSUE_A_SECOND / COPY_BYTES_A_SECOND,
        blocks=min(launch.grid for launch in _launches(name, dtype, 1, emulation)),
    )  # fmt: skip


def _access_bytes(operation: str) -> int:
    match = re.search(r"\.(128|64|U16|S16|U8)\b", operation)
    return int(re.sub(r"\D", "", match[1])) // 8 if match else 4


def _launches(name: str, dtype: torch.dtype, images: int, emulation: Emulation) -> Iterator[Launch]:
    """Every launch of the kernel in the four modes and both layouts."""
    x = torch.empty(images, 128, 128, 128, dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        operands = [torch.empty_like(x, memory_format=layout) for _ in range(3)]
        for dim in (2, 3):
            is_rows = layout == torch.contiguous_format and dim == 3
            if is_rows != name.startswith("rows"):
                continue
            for reverse in (False, True):
                if name.endswith("addend"):
                    yield emulation.launches(SUM, 2, reverse, *operands)[1]
                elif name.endswith("backward"):
                    yield from emulation.launches(BACKWARD, dim, reverse, *operands)
                else:
                    yield from emulation.launches(FORWARD, dim, reverse, *operands[:2])


def _average(program: Program, launch: Launch) -> tuple[float, float]:
    """Instructions and bytes of a thread, over the segments of a block in the grid's middle."""
    arguments, total = bytes(launch.args)[: launch.size], [0, 0]
    columns, segments = launch.block
    for segment in range(segments):
        special = {"%tid.x": 5, "%tid.y": segment, "%ntid.x": columns, "%ntid.y": segments,
                   "%ctaid.x": launch.grid // 2}  # fmt: skip
        for i, count in enumerate(program.executed(arguments, special)):
            total[i] += count
    return total[0] / segments, total[1] / segments


def table(kernels: list[Kernel]) -> str:
    head = [field.name.replace("_an_", "/") for field in fields(Kernel)]
    lines = [head, ["---"] * len(head)]
    for kernel in kernels:
        lines.append([f"{v:.2f}" if isinstance(v, float) else str(v) for v in astuple(kernel)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cuda_static")
    parser.add_argument("library", nargs="?", type=Path, help="default: compiles the kernels")
    library = parser.parse_args().library
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(table(measure(library or compile_kernels(folder), Emulation(folder))))


if __name__ == "__main__":
    main()
