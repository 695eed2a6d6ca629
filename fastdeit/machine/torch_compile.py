"""Models under torch.compile: of fixed shapes, without a word lost when one is compiled again.

torch keeps compiled code on disk, in TORCHINDUCTOR_CACHE_DIR; a file of it brings it to another
machine of the same kind.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fastdeit.config import TrainConfig
from fastdeit.errors import UserError, require
from fastdeit.files import replace_file
from fastdeit.machine.device import Compute, choose_compile_mode

ABOUT = "about.json"


def begin_compiling(config: TrainConfig, compute: Compute) -> Callable[[nn.Module], nn.Module]:
    """Forget the compiled code of models before, and load that of a file if there is one.

    Returns what puts a model under torch.compile, in the mode of the configuration, or leaves it as
    it is. Shapes are fixed: where torch lets them vary, code is slower, and a second size of a
    batch would make it do so. Parts of a step of two sizes are two graphs. Raises UserError if the
    file is of no use here.
    """
    mode = choose_compile_mode(config.run.compile, compute)
    require(
        mode is not None or config.run.compiled is None,
        "compiled",
        config.run.compiled,
        f"has no effect where nothing is compiled, as by default on a CPU (here {compute.device})",
        "Leave it out, or pass --compile default.",
    )
    if mode is None:
        return lambda model: model
    torch.compiler.reset()  # torch gives up on a class of models of many shapes
    # torch's caches on disk do not know which attention was chosen while a graph was made, and
    # would hand out the graph of another.
    torch.compiler.config.cache_key_tag = f"attention {compute.attention}"
    if config.run.compiled is not None:
        load_compiled(config.run.compiled, compute.device)
    return functools.partial(torch.compile, mode=mode, dynamic=False)  # type: ignore[return-value]


class RecompileWatch:
    """Notices when a model is compiled again, and says why, once."""

    def __init__(self, is_on: bool) -> None:
        """Begin; until `settle` everything may be compiled."""
        self._is_on = is_on
        self._num_settled: int | None = None

    def settle(self) -> None:
        """All shapes have been seen: from now on no compilation is expected."""
        if self._is_on and self._num_settled is None:
            self._num_settled = num_graphs()

    def warning(self) -> str | None:
        """What to say of a compilation since then; None if there was none, or it was said."""
        if self._num_settled is None or num_graphs() <= self._num_settled:
            return None
        self._is_on, self._num_settled = False, None
        return (
            f"a model was compiled again, which takes as long as the first time: {last_cause()}. "
            "Shapes, precision and modes should stay as they are after the first epoch"
        )


def num_graphs() -> int:
    """How many graphs torch.compile has made in this process, since its last reset or before."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def last_cause() -> str:
    """Why torch.compile last compiled a function again, in one line."""
    from torch._dynamo.utils import get_compilation_metrics

    metrics = get_compilation_metrics()
    cause = getattr(metrics[-1], "recompile_reason", None) if metrics else None
    return " ".join(str(cause).split())[:300] if cause else "torch does not say why"


# ---- compiled code in a file ---------------------------------------------------------------------
def compiled_artifacts() -> bytes | None:
    """The code that this process compiled, or found in torch's caches; None if there is none."""
    saved = torch.compiler.save_cache_artifacts()
    return None if saved is None else saved[0]


def code_fits(device: torch.device) -> dict[str, str]:
    """What compiled code depends on: where these are the same, it can be used."""
    triton = "none"
    if device.type == "cuda":
        import triton as library

        triton = library.__version__
    is_gpu = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "triton": triton,
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
    }


def write_compiled(
    path: Path, artifacts: bytes, fits: dict[str, str], is_added: bool = False
) -> None:
    """Write the compiled code of a process into a file, which appears when it is complete.

    With `is_added` it is added to what is in the file, which must be for the same `fits`.
    """
    content = io.BytesIO(path.read_bytes() if is_added else b"")
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        names = archive.namelist()
        if not names:
            archive.writestr(ABOUT, json.dumps(fits))
        archive.writestr(f"artifacts-{len(names):03d}", artifacts)
    replace_file(path, content.getvalue())


def load_compiled(path: Path, device: torch.device) -> int:
    """Put the compiled code of a file of `write_compiled` into torch's caches on disk.

    It is code: take only files that you, or somebody you trust, made. The result says from how many
    processes the code is. Raises UserError if the file cannot be read, or its code is for another
    version or GPU.
    """
    way_out = "Leave out --compiled, and it is compiled here."
    try:
        with zipfile.ZipFile(path) as archive:
            fits = json.loads(archive.read(ABOUT))
            names = [name for name in archive.namelist() if name != ABOUT]
            artifacts = [archive.read(name) for name in names]
    # What zipfile raises for archives that are cut, encrypted or of another kind.
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.error) as error:
        raise UserError(
            f"compiled must be a file that --save-compiled wrote. Found: {path}, "
            f"{' '.join(str(error).split())}. {way_out}"
        ) from error
    here = code_fits(device)
    if fits != here:
        differ = [f"{name} {fits.get(name)}, here {here[name]}" for name in here]
        raise UserError(
            "compiled code must be for this GPU and these versions. Found: "
            f"{'; '.join(differ)}. {way_out}"
        )
    for content in artifacts:
        if torch.compiler.load_cache_artifacts(content) is None:
            raise UserError(f"compiled code must be readable by torch. Found: {path}. {way_out}")
    return len(artifacts)
