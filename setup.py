"""Builds and packages cornernet_d2: ``pip install .``, ``pip install -e .`` or ``pip wheel .``.

Two compiled modules are optional and fail apart: ``_C``, the operators for the CPU, and
``_C_cuda``, for CUDA. Without them the operators run in standard PyTorch. Both need torch at build
time, so ask for them with ``pip install --no-build-isolation .``; an isolated build, which sees no
torch, installs the pure-Python package. Why something was not built is printed: pip shows it
with -v, ``python setup.py build_ext --inplace`` always.

Environment:
    FORCE_CUDA=1              build _C_cuda although no GPU is visible (needs CUDA_HOME); fail
                              instead of going without it
    FORCE_BUILD=1             fail instead of going without what cannot be built
    CORNERNET_D2_SKIP_BUILD=1 build neither
    TORCH_CUDA_ARCH_LIST      architectures, as for every torch extension: "8.0;9.0;10.0+PTX"
    MAX_JOBS                  number of parallel compilations
    CORNERNET_D2_OPENCV       the OpenCV package to require, instead of the one that is there
"""

from __future__ import annotations  # so that an older Python gets as far as python_requires

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

try:
    from torch.utils import cpp_extension
except ImportError:
    cpp_extension = None

ROOT = Path(__file__).parent
# The stable ABI of torch 2.10: one wheel serves that version and all later ones, and Python 3.10+.
TORCH_TARGET_VERSION = "0x020a000000000000"
PYTHON_TAG = "cp310"
# Where no GPU says which one: Turing to Blackwell, as far as the toolkit knows them.
CUDA_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


def flag(name: str) -> bool:
    return os.environ.get(name, "0").upper() in ("1", "ON", "YES", "TRUE")


def say(message: str) -> None:
    print(f"cornernet_d2: {message}", file=sys.stderr)


def why_not_built() -> str | None:
    """The reason why nothing is built, or None if something is."""
    if flag("CORNERNET_D2_SKIP_BUILD"):
        return "CORNERNET_D2_SKIP_BUILD is set"
    if cpp_extension is None:
        return "torch cannot be imported here; install with --no-build-isolation beside torch"
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 10):
        return f"they need torch 2.10 or later, this is {torch.__version__}"
    return None


def why_no_cuda() -> str | None:
    """The reason why ``_C_cuda`` is not built, or None if it is."""
    import torch

    if torch.version.cuda is None:
        return "this torch has no CUDA"
    if cpp_extension.CUDA_HOME is None:
        return "CUDA_HOME names no CUDA toolkit and there is no nvcc"
    if not (flag("FORCE_CUDA") or torch.cuda.is_available()):
        return "torch sees no GPU (FORCE_CUDA=1 builds it all the same)"
    return None


def choose_cuda_architectures() -> None:
    """Without a GPU and a TORCH_CUDA_ARCH_LIST, torch has no default and stops."""
    import torch

    if os.environ.get("TORCH_CUDA_ARCH_LIST") or torch.cuda.device_count():
        return
    nvcc = Path(cpp_extension.CUDA_HOME, "bin", "nvcc")
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = set(done.stdout.split())
    chosen = [a for a in CUDA_ARCHITECTURES if "compute_" + a.replace(".", "") in known]
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(chosen) + "+PTX"
    say(f"no GPU to go by, building for {os.environ['TORCH_CUDA_ARCH_LIST']}")


def extension(kind: Any, name: str, *sources: str) -> Any:
    defines = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    flags = {
        # -ffp-contract, --fmad: an IoU is rounded as PyTorch rounds it, or a threshold would not
        # be the same. -Wno-psabi: GCC notes that vectors are passed differently by other compiler
        # flags; here every function that takes them is inlined. -g0: debug information is most of
        # the file otherwise. No --use_fast_math: maxima must stay exact.
        "cxx": ["-O3", "-g0", "-Wno-psabi", "-ffp-contract=off", *defines],
        "nvcc": ["-O3", "--fmad=false", "-DUSE_CUDA", *defines],
    }
    sources = [f"cornernet_d2/csrc/{source}" for source in sources]
    headers = [str(path) for path in Path("cornernet_d2/csrc").rglob("*.*h")]
    return kind(
        f"cornernet_d2.{name}",
        sources,
        depends=headers,
        extra_compile_args=flags,
        py_limited_api=True,
    )


def extensions() -> list[Any]:
    sources = "corner_pool.cpp", "soft_nms.cpp"
    found = [extension(cpp_extension.CppExtension, "_C", *sources)]
    reason = why_no_cuda()
    if reason is None:
        sources = "cuda/corner_pool.cu", "cuda/soft_nms.cu"
        found.append(extension(cpp_extension.CUDAExtension, "_C_cuda", *sources))
    elif flag("FORCE_CUDA"):
        raise SystemExit(f"cornernet_d2: FORCE_CUDA is set, but {reason}")
    else:
        say(f"_C_cuda is not built: {reason}")
    return found


def last_line(error: BaseException) -> str:
    message, *values = error.args or ("",)
    if values and "%s" in str(message):  # torch does not fill in what it says of versions
        message = message % tuple(values)
    return (str(message).strip() or type(error).__name__).splitlines()[-1]


def build_command() -> Any:
    class BuildExtension(cpp_extension.BuildExtension):
        """Torch's command, one extension after the other: one that fails costs no other."""

        def run(self) -> None:
            wanted, self.extensions, compiler = self.extensions, [], self.compiler
            built = []
            for extension in wanted:
                self.extensions, self.compiler = [extension], compiler
                name = extension.name.rpartition(".")[2]
                try:
                    if name == "_C_cuda":
                        choose_cuda_architectures()
                    super().run()
                    built.append(extension)
                except (Exception, SystemExit) as error:  # compilers fail in every possible way
                    if flag("FORCE_BUILD") or flag("FORCE_CUDA") and name == "_C_cuda":
                        raise
                    reason = last_line(error)
                    say(f"{name} was not built, standard PyTorch operators serve instead: {reason}")
            self.extensions = built

    return BuildExtension


def compiled_options() -> dict[str, Any]:
    """Arguments of setup() for the operators."""
    reason = why_not_built()
    if reason is not None:
        if flag("FORCE_CUDA") or flag("FORCE_BUILD"):
            if not flag("CORNERNET_D2_SKIP_BUILD"):
                raise SystemExit(f"cornernet_d2: the operators cannot be built: {reason}")
        say(f"the compiled operators are not built: {reason}")
        return {}
    return {
        "ext_modules": extensions(),
        "cmdclass": {"build_ext": build_command()},
        "options": {"bdist_wheel": {"py_limited_api": PYTHON_TAG}},
    }


def opencv() -> str:
    """The OpenCV package that is there: two of them in one environment break each other."""
    if chosen := os.environ.get("CORNERNET_D2_OPENCV"):
        return chosen
    for name in ("opencv-python", "opencv-contrib-python"):
        for build in (name, f"{name}-headless"):
            try:
                metadata.version(build)
                return build
            except metadata.PackageNotFoundError:
                continue
    return "opencv-python"


def version() -> str:
    text = (ROOT / "cornernet_d2" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE).group(1)


def packages() -> list[str]:
    """The package, and configs/ as its subpackage cornernet_d2.configs."""
    folders = [path for path in (ROOT / "configs").rglob("*") if path.is_dir()]
    names = [".".join(path.relative_to(ROOT / "configs").parts) for path in folders]
    configs = ["cornernet_d2.configs"] + [
        f"cornernet_d2.configs.{name}" for name in names if "__pycache__" not in name
    ]
    return find_packages(include=["cornernet_d2", "cornernet_d2.*"]) + configs


readme = ROOT / "README.md"
setup(
    name="cornernet_d2",
    version=version(),
    description="CornerNet as a plugin for Detectron2",
    long_description=readme.read_text() if readme.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=packages(),
    package_dir={"cornernet_d2.configs": "configs"},
    package_data={"cornernet_d2": ["py.typed"], "": ["*.yaml"]},
    python_requires=">=3.10",
    # Detectron2 is left out: the package index has no build of it that installs. What it alone
    # requires (omegaconf, yacs, matplotlib, Pillow ...) comes with it.
    install_requires=[
        "torch>=2.5",  # torch.library.register_vmap; compiled kernels need 2.10
        "torchvision",
        "numpy",
        "fvcore",
        "iopath",
        "pycocotools>=2.0.2",  # as Detectron2
        opencv(),
    ],
    extras_require={
        "export": ["onnx>=1.16", "onnxscript", "onnxruntime"],
        "openvino": ["onnx>=1.16", "onnxscript", "openvino"],
        "eval": ["faster-coco-eval"],
        "loggers": ["wandb", "mlflow"],
        "hub": ["safetensors", "huggingface_hub"],  # save_pretrained, load("OWNER/NAME")
        "serve": ["fastapi", "orjson", "uvicorn[standard]", "gradio>=5"],
        "timm": ["timm>=1.0"],
        "track": ["trackers>=2.1"],
        "dev": ["pytest", "hypothesis", "black", "ruff"],
    },
    entry_points={"console_scripts": ["cornernet = cornernet_d2.tools.command:main"]},
    **compiled_options(),
)
