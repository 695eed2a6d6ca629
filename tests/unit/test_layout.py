"""The layout holds: who imports whom, what is packaged, how files are named and how long they are.

The folders `pipelines/`, `tools/`, `benchmarks/` stand beside `fastdeit/` and are installed below
it (`package_dir` in setup.cfg); these tests keep that safe.
"""

from __future__ import annotations

import ast
import configparser
import gc
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdeit

pytestmark = pytest.mark.slow  # as a whole

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fastdeit", "pipelines", "tools", "benchmarks")
BARE_NAMES = {"pipelines", "tools", "benchmarks"}
MAX_LINES = 400

# Which of our layers a layer may import.
ARROWS = {
    "fastdeit": {"fastdeit"},
    "pipelines": {"fastdeit", "pipelines"},
    "tools": {"fastdeit", "pipelines", "tools"},
    "benchmarks": {"fastdeit", "pipelines", "benchmarks"},
}
# Libraries that only some places may import: a file, or a folder with everything below it.
CONFINED = {
    "ffcv": ("pipelines/engines/ffcv_library.py", "benchmarks"),
    "nvidia.dali": (
        "pipelines/engines/dali_engine.py",
        "pipelines/engines/dali_gpu_engine.py",
        "benchmarks",
    ),
    "numba": (
        "pipelines",
        "benchmarks",
        "fastdeit/machine/numba_cache.py",
        "fastdeit/augment/cpu/warp.py",
    ),
    "tyro": ("tools", "benchmarks"),
}
# Import names that differ from the name of the requirement.
OTHER_LIBRARIES = {"cv2", "dali", "nvidia", "pil", "skimage", "sklearn", "triton"}


def parse(source: str) -> ast.Module:
    """Parse without collecting garbage in between.

    Python 3.11's parser is not re-entrant: a finaliser that fails during it (numba's do, for what
    FFCV compiled) has its traceback formatted, which parses too, and ends in a SystemError.
    """
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()


def setup_cfg() -> configparser.ConfigParser:
    """Read setup.cfg."""
    config = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines_of(section: str, key: str) -> list[str]:
    """The non-empty lines of one value of setup.cfg."""
    return [line.strip() for line in setup_cfg()[section][key].splitlines() if line.strip()]


def pairs_of(section: str, key: str) -> dict[str, str]:
    """The `name = value` lines of one value of setup.cfg."""
    pairs = (line.split("=", 1) for line in lines_of(section, key))
    return {name.strip(): value.strip() for name, value in pairs}


def python_files(*folders: str) -> list[Path]:
    """The .py files of some folders, as paths relative to the checkout."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return sorted(file.relative_to(ROOT) for file in files)


def module_name(file: Path) -> str:
    """The import name of a file: `pipelines/open.py` is `fastdeit.pipelines.open`."""
    parts = file.with_suffix("").parts
    return ".".join(parts if parts[0] == "fastdeit" else ("fastdeit", *parts))


def layer_of(module: str) -> str | None:
    """The layer a dotted name belongs to; None if it is not ours."""
    parts = module.split(".")
    if parts[0] != "fastdeit":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in BARE_NAMES else "fastdeit"


def imports_of(source: str, file: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full dotted name of everything a source imports, at any depth.

    `from a import b` yields `a` and `a.b`, since b may be a module; `importlib.import_module("a")`
    counts as an import too.
    """
    package = module_name(file).split(".")[:-1]
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.endswith("import_module") or called == "__import__":
                yield node.lineno, str(node.args[0].value)


def faults_of(source: str, file: Path) -> list[str]:
    """The imports of one file that the layout forbids, each as `file:line: what`."""
    faults = set()
    layer = layer_of(module_name(file)) if file.parts[0] in FOLDERS else None
    for line, name in imports_of(source, file):
        where = f"{file}:{line}"
        if name.split(".")[0] in BARE_NAMES:
            faults.add(f"{where}: {name} is a bare name; write fastdeit.{name}")
        if layer is None:
            continue
        target = layer_of(name)
        if target is not None and target not in ARROWS[layer]:
            faults.add(f"{where}: {layer} must not import {target}")
        for library, places in CONFINED.items():
            inside = any(file == Path(place) or Path(place) in file.parents for place in places)
            if (name == library or name.startswith(f"{library}.")) and not inside:
                faults.add(f"{where}: {library} may be imported in {', '.join(places)} only")
    return sorted(faults)


def test_imports_follow_the_arrows() -> None:
    """No import against the arrows, of a library outside its place, or of ours by bare name."""
    files = python_files(*FOLDERS, "tests")
    assert len(files) > 10
    faults = [
        fault for file in files for fault in faults_of((ROOT / file).read_text("utf-8"), file)
    ]
    assert not faults, "\n".join(faults)


def imported_at_once(file: Path, modules: set[str]) -> Iterator[str]:
    """The modules of ours that a file imports when it is imported itself."""
    for node in parse((ROOT / file).read_text("utf-8")).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            yield name


def test_no_circles() -> None:
    """Each module can be imported first: none needs one that needs it."""
    files = {module_name(file): file for file in python_files(*FOLDERS)}
    needs = {
        name: {*imported_at_once(file, set(files))} - {"", name, "fastdeit"}
        for name, file in files.items()
        if file.name != "__init__.py"
    }
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, {name: sorted(others & needs.keys()) for name, others in needs.items()}
        needs = {name: others for name, others in needs.items() if name not in free}


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("fastdeit/a.py", "import fastdeit.pipelines", "fastdeit must not import pipelines"),
        ("fastdeit/a.py", "from fastdeit import tools", "fastdeit must not import tools"),
        ("fastdeit/a.py", "from .pipelines import plan", "fastdeit must not import pipelines"),
        ("pipelines/a.py", "from .. import benchmarks", "pipelines must not import benchmarks"),
        ("pipelines/__init__.py", "from ..tools import b", "pipelines must not import tools"),
        ("tools/a.py", "import fastdeit.benchmarks.x", "tools must not import benchmarks"),
        ("benchmarks/a.py", "from fastdeit.tools import b", "benchmarks must not import tools"),
        ("fastdeit/a.py", "def f():\n    import numba", "numba may be imported in"),
        ("fastdeit/a.py", "from tyro import cli", "tyro may be imported in"),
        ("tools/a.py", "importlib.import_module('ffcv.loader')", "ffcv may be imported in"),
        ("pipelines/plan/order.py", "from nvidia import dali", "nvidia.dali may be imported in"),
        ("tests/unit/test_a.py", "from pipelines import plan", "pipelines is a bare name"),
    ],
)
def test_the_import_check_sees(file: str, source: str, fault: str) -> None:
    """The check of the arrows finds each kind of forbidden import."""
    assert any(fault in found for found in faults_of(source, Path(file))), faults_of(
        source, Path(file)
    )


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "tools/a.py",
            "from fastdeit.pipelines import plan; from fastdeit import UserError; import tyro",
        ),
        ("benchmarks/cases/a.py", "import ffcv.loader, nvidia.dali; from ..harness import run"),
        ("pipelines/engines/ffcv_library.py", "import ffcv, numba; from . import plan"),
        ("pipelines/engines/dali_engine.py", "import nvidia.dali.fn"),
        ("tests/unit/test_a.py", "from fastdeit.tools import cli; import ffcv"),
    ],
)
def test_the_import_check_allows(file: str, source: str) -> None:
    """The check of the arrows lets the allowed imports through."""
    assert faults_of(source, Path(file)) == []


def test_packages_equal_the_tree() -> None:
    """Setup.cfg lists every folder with an __init__.py, and every folder with .py files has one."""
    roots = pairs_of("options", "package_dir")
    assert roots == {
        layer if layer == "fastdeit" else f"fastdeit.{layer}": layer for layer in FOLDERS
    }
    files = python_files(*FOLDERS)
    folders = {file.parent for file in files}
    packages = {file.parent for file in files if file.name == "__init__.py"}
    assert folders == packages, f"without __init__.py: {folders - packages}"
    names = sorted(module_name(folder / "x").removesuffix(".x") for folder in packages)
    assert sorted(lines_of("options", "packages")) == names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel built from a copy of the checkout, with a result planted in benchmarks/results/."""
    copy = tmp_path_factory.mktemp("wheel") / "fastdeit"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "benchmarks" / "results").mkdir(exist_ok=True)
    (copy / "benchmarks" / "results" / "planted.jsonl").write_text("{}\n")
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run([sys.executable, *command], cwd=copy, check=True)
    (file,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_wheel_has_one_top_level_name(wheel: zipfile.ZipFile) -> None:
    """The built wheel installs one importable name, fastdeit."""
    (top_level,) = (name for name in wheel.namelist() if name.endswith(".dist-info/top_level.txt"))
    assert wheel.read(top_level).decode().split() == ["fastdeit"]


def test_wheel_holds_the_code_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The built wheel has every module, the package data, and neither results nor tests."""
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = python_files(*FOLDERS)
    expected = {str(file if file.parts[0] == "fastdeit" else "fastdeit" / file) for file in files}
    report = {f"fastdeit/tools/report/{name}" for name in ("page.html", "style.css")}
    assert names == expected | report | {"fastdeit/py.typed", "fastdeit/paper/tables.json"}


def test_pytest_options() -> None:
    """Pytest imports tests by path and runs no doctests, which would load files under two names."""
    options = setup_cfg()["tool:pytest"]["addopts"].split()
    assert "--import-mode=importlib" in options
    assert "--strict-markers" in options
    assert not any(option.startswith("--doctest") for option in options)


def test_no_file_is_too_long() -> None:
    """No Python or shell file is longer than 400 lines."""
    files = [
        *python_files(*FOLDERS, "tests"),
        *(f.relative_to(ROOT) for f in ROOT.glob("tools/*.sh")),
    ]
    lengths = {str(file): len((ROOT / file).read_text("utf-8").splitlines()) for file in files}
    assert not {file: length for file, length in lengths.items() if length > MAX_LINES}


def test_module_names() -> None:
    """No module is called utils, or like a library, which it would shadow when run as a script."""
    requirements = lines_of("options", "install_requires") + lines_of(
        "options.extras_require", "ffcv"
    )
    libraries = {re.split(r"[^\w-]", line)[0].replace("-", "_").lower() for line in requirements}
    forbidden = libraries | OTHER_LIBRARIES | {"utils"}
    assert {"torch", "timm", "ffcv", "numpy"} <= forbidden
    names = [
        file.stem if file.stem != "__init__" else file.parent.name
        for file in python_files(*FOLDERS)
    ]
    assert not forbidden & set(names)


def test_version_is_written_once() -> None:
    """The version of setup.cfg is `fastdeit.__version__`."""
    assert setup_cfg()["metadata"]["version"] == fastdeit.__version__


@pytest.mark.parametrize(
    "target",
    [
        *pairs_of("options.entry_points", "fastdeit.commands").values(),
        *pairs_of("options.entry_points", "console_scripts").values(),
    ],
)
def test_entry_point_exists(target: str) -> None:
    """An entry point names a function at the top level of an existing file."""
    module, function = target.split(":")
    file = ROOT.joinpath(*module.removeprefix("fastdeit.").split(".")).with_suffix(".py")
    assert file.is_file()
    tree = parse(file.read_text("utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "module",
    ["fastdeit", "fastdeit.pipelines", "fastdeit.tools.cli", "fastdeit.benchmarks.bench"],
)
def test_import_is_light(module: str) -> None:
    """Importing the package, or the program before its line is parsed, imports nothing heavy."""
    heavy = "{'torch', 'torchvision', 'timm', 'numba', 'ffcv', 'nvidia'}"
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
