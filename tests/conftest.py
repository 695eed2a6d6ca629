"""What every test needs: this checkout installed, known capabilities, threads for its cores."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing.forkserver
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_once import made_once
from sample_photographs import need_photographs

ROOT = Path(__file__).resolve().parent.parent

# Set before the first import of torch, so that it holds for subprocesses too. On a machine that
# gives a process two cores of many, torch would otherwise start a thread per core of the machine.
CACHE = tempfile.TemporaryDirectory(prefix="fastdeit-tests-")
NUM_CORES = len(os.sched_getaffinity(0))
ASKED = os.environ.get("OMP_NUM_THREADS", "")
# Nothing is kept in the cache of who runs the tests.
os.environ["XDG_CACHE_HOME"] = CACHE.name
# Threads that wait must not take the cores from the tests beside them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = str(min(int(ASKED), NUM_CORES) if ASKED.isdigit() else NUM_CORES)


def why_not_installed() -> str | None:
    """Say why `fastdeit.pipelines` is not this checkout's; None if it is."""
    try:
        spec = importlib.util.find_spec("fastdeit.pipelines")
    except ImportError as error:
        return str(error)
    if spec is None or spec.origin is None:
        return "No module named 'fastdeit.pipelines'"
    if Path(spec.origin).resolve() != ROOT / "pipelines" / "__init__.py":
        return f"fastdeit.pipelines comes from {spec.origin}"
    return None


def pytest_configure() -> None:
    """Stop before collecting anything if the tests would run on something else."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as for `make test &` in a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    why = why_not_installed()
    if why is not None:
        raise pytest.UsageError(
            f"this checkout ({ROOT}) is not the installed fastdeit. Found: {why}. Run: make test, "
            "or in an environment of your own: python -m pip install --no-deps -e ."
        )


def why_no_gpu() -> str | None:
    """Say why there is no CUDA device; None if there is one."""
    import torch

    if torch.cuda.is_available():
        return None
    return (
        f"no CUDA device: torch {torch.__version__} (built for CUDA {torch.version.cuda}) sees none"
    )


def why_no_module(name: str) -> str | None:
    """Say why a module cannot be imported; None if it can."""
    try:
        importlib.import_module(name)
    # A broken native library raises OSError or RuntimeError as often as ImportError.
    except Exception as error:
        return f"import {name}: {type(error).__name__}: {error}"
    return None


def why_not_pillow_12() -> str | None:
    """Say why Pillow is none that published results were trained with; None if it is."""
    import PIL

    if int(PIL.__version__.split(".")[0]) < 13:
        return None
    return f"Pillow {PIL.__version__}: from 13 on it resamples in another order and posterizes less"


CAPABILITIES: dict[str, Callable[[], str | None]] = {
    "gpu": why_no_gpu,
    "ffcv": lambda: why_no_module(
        "fastdeit.pipelines.engines.ffcv_library"
    ),  # not ffcv, which takes longer
    "dali": lambda: why_no_module("nvidia.dali"),
    "pillow_12": why_not_pillow_12,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose marker names a capability that is missing, with the reason."""
    for marker, why_missing in CAPABILITIES.items():
        # The check imports a heavy library, so it is made only if a collected test asks for it.
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = why_missing() if marked else None
        if reason is not None:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def one_fork_server() -> None:
    """Start multiprocessing's server with what all workers import: it would be with the first's.

    Otherwise each worker of a loader imports torch once more.
    """
    multiprocessing.set_forkserver_preload(
        ["fastdeit.pipelines.engines.pil_engine", "fastdeit.tools.data.workers"]
    )
    multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="session")
def sample_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small source with every oddity: 300 training and 40 validation images of 20 classes."""
    need_photographs()
    from fastdeit.tools.data.sample_data.command import sample_data

    def make(root: Path) -> None:
        assert sample_data(root / "source", 300, 40, workers=NUM_CORES) == 0

    return made_once(tmp_path_factory, "data", make) / "source"


@pytest.fixture(scope="session")
def containers(sample_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The training images as "beton", "webdataset" and "imagefolder", and "val" as a .beton."""
    from fastdeit.tools.data.convert.command import convert

    names = {"beton": "train.beton", "webdataset": "train", "val": "val.beton"}

    def make(root: Path) -> None:
        for what, name in names.items():
            source = sample_source / ("val" if what == "val" else "train")
            assert convert(source, root / name) == 0

    root = made_once(tmp_path_factory, "containers", make)
    made = {what: root / name for what, name in names.items()}
    return {**made, "imagefolder": sample_source / "train"}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The index of a .beton of 96 drawn photographs of 4 classes, which need no package."""
    from fastdeit.benchmarks.harness.photographs import photograph
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.tools.data.convert.command import convert

    root = tmp_path_factory.mktemp("drawn")
    for number in range(96):
        place = root / "photographs" / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        photograph(number).resize((160, 120)).save(place / f"{number}.jpg", quality=90)
    assert convert(root / "photographs", root / "drawn.beton") == 0
    return open_dataset(root / "drawn.beton")


@pytest.fixture
def parts_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run the parts of benchmarks in this process, so that what a test patches holds in them.

    Rows go below the test's folder unless --out is given.
    """
    from fastdeit.benchmarks.harness import isolated

    monkeypatch.setattr(isolated, "run_isolated", isolated.call_here)
    monkeypatch.chdir(tmp_path)
