"""What holds for the source as a whole: direction of imports, sizes, and what must not be in it."""

import ast
import graphlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cornernet_d2"
SOURCES = sorted(PACKAGE.rglob("*.py"))
AIDS = [
    *ROOT.glob(".ci/**/*.py"),
    *ROOT.glob("tests/parity/*.py"),
    *ROOT.glob("tests/benchmarks/*.py"),
    *ROOT.glob("tests/strict_device/*.py"),
    *ROOT.glob("tests/hostile/*.py"),
]

# The whole package, part by part. A part imports from earlier rows and from itself, no other: those
# of one row do not know one another. The package's __init__ may import everything.
ROWS = (
    ("config", "layers", "canvas", "visualize", "hardware"),
    ("heatmaps",),
    ("targets",),
    ("data", "modeling"),
    ("compat", "model_zoo"),
    ("checkpoint", "prepare"),
    ("engine",),
    ("diagnosis", "export", "predictor"),
    ("serve",),
    ("tools",),
)
PARTS = [part for row in ROWS for part in row]
PRINTING = {"tools"}  # command lines talk to people; a library logs


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[tuple[str, ...]]:
    """Dotted names of this package that a file imports, at any depth of its code."""
    module = ("cornernet_d2", *path.relative_to(PACKAGE).with_suffix("").parts)
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(module[: -node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            names += [[*base, alias.name] for alias in node.names]
    return [tuple(name) for name in names if name[0] == "cornernet_d2"]


def _imported_parts(path: Path) -> set[str]:
    return {name[1] for name in _imports(path) if len(name) > 1 and name[1] in PARTS}


def _file(name: tuple[str, ...]) -> Path | None:
    """The file of the module that a dotted name is, or is in."""
    path = PACKAGE.joinpath(*name[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return _file(name[:-1]) if len(name) > 1 else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = _part(path)
    if part in ("__init__", "__main__"):
        return
    assert part in PARTS, f"say in ROWS, and in the README, where {part} stands"
    (row,) = (number for number, row in enumerate(ROWS) if part in row)
    assert _imported_parts(path) <= {part, *(p for earlier in ROWS[:row] for p in earlier)}


def test_no_file_imports_itself_through_others() -> None:
    """Imports inside functions and for types alone count: who reads a file needs them too."""
    graph = {path: {_file(name) for name in _imports(path)} - {path} for path in SOURCES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = [str(path.relative_to(PACKAGE)) for path in reversed(error.args[1])]
        pytest.fail(" -> ".join(circle))


def test_the_readme_states_the_order_of_imports() -> None:
    order = " → ".join(", ".join(row) for row in ROWS)
    assert f"{order}, train_net.py." in " ".join((ROOT / "README.md").read_text().split())


def test_the_import_test_sees_every_way_to_import(tmp_path: Path) -> None:
    path = PACKAGE / "layers" / "not_there.py"
    text = """
import cornernet_d2.engine
from cornernet_d2 import data
from ..targets import draw
def f():
    from .. import modeling
    from ..checkpoint.files import load
    from .own import x
"""

    class Fake(type(path)):
        def read_text(self, *_: object) -> str:
            return text

    found = _imported_parts(Fake(path))
    assert found == {"engine", "data", "targets", "modeling", "checkpoint", "layers"}


@pytest.mark.parametrize("path", SOURCES + AIDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documentation = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - len(documentation.splitlines())
            assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES + AIDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_are_annotated_and_the_library_does_not_print(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None]
            assert set(bare) <= {"self", "cls"}, f"{node.name}: {bare}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert path in AIDS or node.func.id != "print" or _part(path) in PRINTING, node.lineno


def _tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_place_of_one_machine_or_is_left_undone() -> None:
    # in pieces, so that this file does not find itself
    patterns = [r"(?<![\w./])/(?:wo" + r"rk|root|home|tmp|Users)/", r"\bTO" + r"DO\b|\bFIX" + "ME"]
    found = []
    for path in _tracked():
        if (
            path.suffix in (".py", ".yaml", ".md", ".cpp", ".cu", ".cuh", ".h", "")
            and path.exists()
        ):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if any(re.search(pattern, line) for pattern in patterns):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_no_large_or_built_file_is_tracked() -> None:
    sizes = {path: path.stat().st_size for path in _tracked() if path.exists()}
    assert not [path for path in sizes if path.suffix in (".so", ".pth", ".pkl", ".pyc", ".whl")]
    fixtures = sum(size for path, size in sizes.items() if "fixtures" in path.parts)
    assert fixtures < 3 * 2**20
    assert not [path for path, size in sizes.items() if size > 2 * 2**20]
