"""Compiled loops: kept on disk, and never taken for those of other sources."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdeit
import fastdeit.pipelines
from fastdeit.machine import numba_cache
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.pipelines.engines.pipeline import PipelineOptions
from fastdeit.pipelines.plan.order import Plan

pytestmark = pytest.mark.slow  # as a whole

CODE = """
import json
from fastdeit.machine.numba_cache import compiled

@compiled()
def twice(x):
    return x + x

result = twice(21)
kept = (twice.stats.cache_hits, twice.stats.cache_misses)
print(json.dumps([result, *(sum(found.values()) for found in kept)]))
"""


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """Let each test see its own folder, and what follows that of the environment."""
    numba_cache.code_folder.cache_clear()
    yield
    numba_cache.code_folder.cache_clear()


def test_code_that_cannot_be_kept_is_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without any folder for compiled code there is a warning, said once."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level("WARNING"):
        functions = [numba_cache.compiled()(lambda x, n=n: x + n) for n in (1, 2)]
    assert [function(40) for function in functions] == [41, 42]
    assert [record.message for record in caplog.records] == [
        "compiled code cannot be kept on disk; set NUMBA_CACHE_DIR to a folder for it"
    ]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    """What one process compiled, the next one loads."""
    (tmp_path / "code.py").write_text(CODE)
    kept = tmp_path / "kept"
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(kept)}
    line = [sys.executable, str(tmp_path / "code.py")]
    said = [json.loads(subprocess.check_output(line, env=environ, text=True)) for _ in range(2)]
    assert said == [[42, 0, 1], [42, 1, 0]]
    assert [path.name for path in kept.iterdir()] == [compiled_name(kept)]


@pytest.mark.ffcv
def test_the_decoder_of_batches_is_kept(drawn: DatasetIndex) -> None:
    """Numba can keep it: it names no function of ctypes, and is compiled or loaded once."""
    from fastdeit.pipelines.engines.ffcv_engine import FfcvPipeline, _decode_batch

    plan = Plan(keys=drawn.keys, batch_size=8, image_size=32, is_training=True)
    for _ in range(2):
        with FfcvPipeline(drawn, plan, PipelineOptions(threads=1)) as batches:
            next(iter(batches))
    kept = _decode_batch.stats
    assert sum(kept.cache_hits.values()) + sum(kept.cache_misses.values()) == 1


def compiled_name(parent: Path) -> str:
    """The only folder that there may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(parent))
        folder = numba_cache.code_folder()
    assert folder is not None
    return folder.name


def test_other_sources_have_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A changed file is a new folder; old ones go after a month, others' stay."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    source = tmp_path / "keyed.py"
    monkeypatch.setattr(numba_cache, "_path_of", lambda _module: source)
    folders = []
    for text in ("A = 1", "A = 2", "A = 3"):
        source.write_text(text)
        numba_cache.code_folder.cache_clear()
        folder = numba_cache.code_folder()
        assert folder is not None and folder not in folders
        folders.append(folder)
        if text == "A = 2":
            os.utime(folders[0], (0, 0))
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_every_source_counts() -> None:
    """Whatever a compiled function names comes from a module whose text is hashed."""
    roots = {"fastdeit": fastdeit, "fastdeit.pipelines": fastdeit.pipelines}
    with_compiled = set()
    for name, package in roots.items():
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for path in root.rglob("*.py"):
            tree = ast.parse(path.read_text())
            needed = modules_compiled_in(tree)
            if needed is not None:
                module = ".".join((name, *path.relative_to(root).with_suffix("").parts))
                with_compiled.add(module)
                assert {module, *needed} <= set(numba_cache.SOURCES), module
    assert len(with_compiled) == 6  # none is found if this test looks for the wrong thing


def modules_compiled_in(tree: ast.Module) -> set[str] | None:
    """The modules of ours whose names a file's compiled functions use; None if it has none."""
    origin: dict[str, str] = {}
    imports_it = False
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastdeit"):
            for alias in node.names:
                imports_it |= alias.name == "compiled"
                in_module = node.module if node.module != "fastdeit" else f"fastdeit.{alias.name}"
                origin[alias.asname or alias.name] = in_module
    if not imports_it:
        return None
    # Constants of the file may be made of other modules', so all that is assigned counts.
    looked_at = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign)
        or (isinstance(node, ast.FunctionDef) and node.decorator_list)
    ]
    for function in looked_at:  # types and decorators are not compiled
        if isinstance(function, ast.FunctionDef):
            function.decorator_list = []
            function.returns = None
    names = {n.id for node in looked_at for n in ast.walk(node) if isinstance(n, ast.Name)}
    return {origin[name] for name in names & origin.keys()} - {"fastdeit.machine.numba_cache"}
