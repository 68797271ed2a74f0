"""Builds and packages cornernet_d2: ``pip install .``, ``pip install -e .`` or ``pip wheel .``.

The compiled corner-pool operator is optional; without it the package runs on standard PyTorch
operators. It needs torch at build time, so ask for it with ``pip install --no-build-isolation .``;
an isolated build, which sees no torch, installs the pure-Python package and says so.

Environment:
    FORCE_CUDA=1              build the CUDA kernels although no GPU is visible (needs CUDA_HOME)
    FORCE_BUILD=1             fail instead of falling back when the operator cannot be built
    CORNERNET_D2_SKIP_BUILD=1 do not build the operator
    TORCH_CUDA_ARCH_LIST      architectures, as for every torch extension: "8.0;9.0;10.0+PTX"
    MAX_JOBS                  number of parallel compilations
"""

import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from setuptools import find_packages, setup

try:
    from torch.utils import cpp_extension
except ImportError:
    cpp_extension = None

ROOT = Path(__file__).parent
# The stable ABI of torch 2.10: one wheel serves that version and all later ones, and Python 3.10+.
TORCH_TARGET_VERSION = "0x020a000000000000"
PYTHON_TAG = "cp310"


def flag(name: str) -> bool:
    return os.environ.get(name, "0").upper() in ("1", "ON", "YES", "TRUE")


def say(message: str) -> None:
    print(f"cornernet_d2: {message}", file=sys.stderr)


def why_not_built() -> Optional[str]:
    """The reason why the operator is not built, or None if it is."""
    if flag("CORNERNET_D2_SKIP_BUILD"):
        return "CORNERNET_D2_SKIP_BUILD is set"
    if cpp_extension is None:
        return "torch cannot be imported here; install with --no-build-isolation beside torch"
    import torch

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 10):
        return f"it needs torch 2.10 or later, this is {torch.__version__}"
    return None


def with_cuda() -> bool:
    """Whether to build the CUDA kernels. A forced build without a toolkit is an error."""
    import torch

    if cpp_extension.CUDA_HOME is None or torch.version.cuda is None:
        if flag("FORCE_CUDA"):
            raise SystemExit(
                "cornernet_d2: FORCE_CUDA is set, but "
                + ("CUDA_HOME names no toolkit" if torch.version.cuda else "torch has no CUDA")
            )
        return False
    return flag("FORCE_CUDA") or torch.cuda.is_available()


def extension() -> Any:
    defines = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    # -Wno-psabi: GCC notes that vectors are passed differently by other compiler flags; here every
    # function that takes them is inlined. -g0: debug information is most of the file otherwise.
    flags = {"cxx": ["-O3", "-g0", "-Wno-psabi", *defines]}
    sources = ["cornernet_d2/csrc/corner_pool.cpp"]
    kind = cpp_extension.CppExtension
    if with_cuda():
        kind = cpp_extension.CUDAExtension
        sources.append("cornernet_d2/csrc/cuda/corner_pool.cu")
        # No --use_fast_math: maxima must stay exact. Torch adds the language version and -gencode.
        flags["nvcc"] = ["-O3", "-DUSE_CUDA", *defines]
    headers = [str(path) for path in Path("cornernet_d2/csrc").rglob("*.*h")]
    return kind(
        "cornernet_d2._C", sources, depends=headers, extra_compile_args=flags, py_limited_api=True
    )


def build_command() -> Any:
    class BuildExtension(cpp_extension.BuildExtension):
        """Torch's command; falls back to the pure-Python package unless the build is forced."""

        def run(self) -> None:
            try:
                super().run()
            except (Exception, SystemExit) as error:  # compilers fail in every possible way
                if flag("FORCE_CUDA") or flag("FORCE_BUILD"):
                    raise
                last = (str(error).strip() or type(error).__name__).splitlines()[-1]
                say(f"the operator was not built, standard PyTorch operators serve instead: {last}")
                self.extensions = []

    return BuildExtension


def compiled_options() -> Dict[str, Any]:
    """Arguments of setup() for the operator."""
    reason = why_not_built()
    if reason is not None:
        if flag("FORCE_CUDA") or flag("FORCE_BUILD"):
            if not flag("CORNERNET_D2_SKIP_BUILD"):
                raise SystemExit(f"cornernet_d2: the operator cannot be built: {reason}")
        say(f"the operator is not built: {reason}")
        return {}
    return {
        "ext_modules": [extension()],
        "cmdclass": {"build_ext": build_command()},
        "options": {"bdist_wheel": {"py_limited_api": PYTHON_TAG}},
    }


def version() -> str:
    text = (ROOT / "cornernet_d2" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE).group(1)


def packages() -> List[str]:
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
    # Detectron2 is left out: the package index has no build of it that installs. What Detectron2
    # itself requires (fvcore, iopath, omegaconf, yacs, matplotlib, Pillow ...) comes with it.
    install_requires=[
        "torch>=2.5",  # torch.library.register_vmap; the compiled operator needs 2.10
        "torchvision",
        "numpy",
        "pycocotools>=2.0.2",  # as Detectron2
        # Reading and warping images. Without windows, so that no system library is needed; beside
        # another OpenCV build install with --no-deps.
        "opencv-python-headless",
    ],
    extras_require={
        "export": ["onnx>=1.16", "onnxscript", "onnxruntime"],
        "dev": ["pytest", "hypothesis", "black", "ruff"],
    },
    **compiled_options(),
)
