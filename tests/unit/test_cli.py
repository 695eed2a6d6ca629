"""The program: help that reads, errors of one line with exit code 2, nothing heavy for help."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastdeit import __version__
from fastdeit.augment import Operations
from fastdeit.tools.cli import main
from fastdeit.tools.data import augment_sheet

pytestmark = pytest.mark.slow  # as a whole

COMMANDS = (
    "sample-data convert verify inspect train teach ablate evaluate analyse import export "
    "predict bench report budget"
).split()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastdeit {__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """--help names every command."""
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command explains itself."""
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"fastdeit {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("fly", "no such command. Found: fly. Known: "),
        (
            "train fly",
            "no such recipe. Found: fly. Near it: nothing. `fastdeit train --list` shows all.",
        ),
        ("convert {tmp}/none {tmp}/out.beton", "source must exist. Found: nothing at"),
        ("convert {tmp}/empty {tmp}/out.beton", "source must hold one folder a class. Found: none"),
        ("verify {tmp}/none.beton", "dataset does not exist. Found: nothing at"),
        ("verify {tmp}/empty", "source must hold one folder a class. Found: none"),
        ("inspect {tmp}/text.beton", "is not a whole .beton of version 2. Found: 5 bytes"),
        ("evaluate {tmp}/none.pt {tmp}/empty", "checkpoint is not a file. Found: "),
        ("evaluate {tmp}/text.beton {tmp}/empty", "checkpoint cannot be read. Found: "),
        (
            "train demo-teacher --train a --val b --out {tmp}/run --batch-size 0",
            "batch_size must be at least 1. Found: 0.",
        ),
        ("train demo-teacher --train {tmp}/none --val b --out {tmp}/run", "dataset does not exist"),
        ("inspect {tmp}/empty --augment rand-m9", "augment needs a sheet to be drawn on."),
        ("inspect a --augment none --sheet b.png", "augment must be a policy that does something"),
        (
            "inspect a --augment rand-x9 --sheet b.png",
            "a field of auto_augment must be one of m, n",
        ),
        (
            "train demo-teacher --train a --val b --out {tmp}/run --auto-augment rand-m",
            "a field of auto_augment must be one of m, n, p, mstd, mmax, inc, w, t with its value.",
        ),
        (
            "train demo-teacher --train a --val b --out {tmp}/run --cutmix-minmax 0.5 0.505",
            "cutmix_minmax must leave a side to choose at 64 pixels. Found: (0.5, 0.505).",
        ),
        (
            "train demo-teacher --train a --val b --out {tmp}/run --loss bce",
            "smoothing must be 0 with --loss bce",
        ),
        ("bench loders", "no such subcommand of fastdeit bench. Found: loders. Known: all, "),
        ("bench step --device cuda:99", "device cuda:99 is not there. Found: "),
    ],
)
def test_wrong_input_is_one_line(
    line: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong input ends with exit code 2, one line on stderr, and nothing made."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.beton").write_text("hello")
    assert main(line.format(tmp=tmp_path).split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastdeit: error: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.beton"]


def test_half_a_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is told of others, but not where they are, says how to start them."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = f"train demo-teacher --train a --val b --out {tmp_path / 'run'}"
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert "Found: WORLD_SIZE=2 without RANK, MASTER_ADDR, MASTER_PORT." in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("line", ["inspect {val} --sheet {tmp}/a.png", "bench step --out {tmp}"])
def test_other_files_are_not_replaced(
    line: str, containers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of somebody's is neither a contact sheet nor rows of ours."""
    (tmp_path / "a.png").write_bytes(b"mine")
    assert main(line.format(val=containers["val"], tmp=tmp_path).split()) == 2
    assert "must be a new" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_a_sheet_replaces_a_sheet(containers: dict[str, Path], tmp_path: Path) -> None:
    """A contact sheet is written, and written again."""
    for _ in range(2):
        assert main(["inspect", str(containers["val"]), "--sheet", str(tmp_path / "a.png")]) == 0


@pytest.mark.parametrize(
    ("policy", "num_operations"),
    [("rand-m9-mstd0.5-inc1", 15), ("rand-mstd101-t3a", 3), ("original", 10), ("ta_wide", 14)],
)
def test_a_sheet_of_operations(
    policy: str,
    num_operations: int,
    containers: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each operation is drawn beside PIL's result, and no byte differs."""
    path = tmp_path / "a.png"
    line = ["inspect", str(containers["val"]), "--augment", policy, "--sheet", str(path)]
    assert main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == num_operations
    assert all(re.search(r": 0 of \d{6,} bytes differ from PIL$", line) for line in lines)
    with Image.open(path) as sheet:
        cells = (sheet.height - 4) / (112 + 14 + 4)
    assert cells == num_operations + 1


def test_a_sheet_shows_differences(
    containers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One byte that differs is counted; levels are the policy's and two deviations around it."""
    ours: list[NDArray[np.uint8]] = []
    real = augment_sheet.apply_operations

    def remember(images: Tensor, operations: Operations) -> Tensor:
        result = real(images, operations)
        ours.append(result[0].numpy())
        return result

    def off_by_two(*_: object) -> Image.Image:
        pixels = ours[-1].copy()
        pixels[5, 3, 2] ^= 2
        return Image.fromarray(pixels)

    monkeypatch.setattr(augment_sheet, "apply_operations", remember)
    monkeypatch.setattr(augment_sheet, "apply_with_pil", off_by_two)
    path = str(tmp_path / "a.png")
    policy = "rand-m10-mstd0.5-inc1"
    line = ["inspect", str(containers["val"]), "--augment", policy, "--sheet", path]
    assert main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Invert: 1 of 150528 bytes differ from PIL, by up to 2" in lines
    wanted = "Rotate at 27, -27, 30, -30: 4 of 602112 bytes differ from PIL, by up to 2"
    assert wanted in lines


def test_a_place_that_cannot_be_written_is_one_line(
    containers: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the system is one line with the path, not a traceback."""
    assert main(["inspect", str(containers["val"]), "--sheet", "/dev/null/a.png"]) == 2
    error = capsys.readouterr().err
    assert "/dev/null" in error
    assert error.count("\n") == 1


def test_sigterm_keeps_what_was_done(sample_source: Path, tmp_path: Path) -> None:
    """A scheduler's stop ends with exit code 143, and what was done is there to go on with."""
    program = [sys.executable, "-m", "fastdeit.tools.cli", "convert", "--reencode", "all"]
    line = [*program, str(sample_source / "train"), str(tmp_path / "out.beton"), "--workers", "1"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        pages = tmp_path / ".out.beton.partial"
        # Until an image was written; the file is there before.
        while not any(file.stat().st_blocks for file in pages.glob("pages-*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "fastdeit: terminated\n" in error
    assert "to go on with" in error
    assert [path.name for path in tmp_path.iterdir()] == [".out.beton.partial"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_impatience_does_not_hang(number: int, sample_source: Path, tmp_path: Path) -> None:
    """A second signal while the program cleans up changes nothing: it ends, and goes on later."""
    program = [sys.executable, "-m", "fastdeit.tools.cli", "convert", "--mode", "raw"]
    line = [*program, str(sample_source / "train"), str(tmp_path / "out.beton"), "--workers", "2"]
    for gap_s in (0.0, 0.02, 0.1):
        with subprocess.Popen(
            line,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            while not list(tmp_path.glob(".out.beton.partial/pages-*")):
                assert process.poll() is None
                time.sleep(0.01)
            for _ in range(2):
                os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
                time.sleep(gap_s)
            _, error = process.communicate(timeout=30)
        assert process.returncode == (130 if number == signal.SIGINT else 143)
        assert "Traceback" not in error, error
        shutil.rmtree(tmp_path / ".out.beton.partial", ignore_errors=True)


def test_missing_option_is_exit_code_2() -> None:
    """The parser's own errors exit with 2 as well."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "demo-teacher"])
    assert stop.value.code == 2


def test_completion_is_printed() -> None:
    """A shell completion script names the commands."""
    done = subprocess.run(
        [sys.executable, "-m", "fastdeit.tools.cli", "--tyro-print-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(command in done.stdout for command in COMMANDS)


def test_help_does_not_import_torch() -> None:
    """The help of training comes without loading torch, so it is there at once."""
    script = (
        "import sys\nfrom fastdeit.tools.cli import main\n"
        "try:\n    main(['train', 'demo', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_an_interrupt_in_executed_text_has_the_same_code(tmp_path: Path) -> None:
    """As in the making of a dataclass while modules are imported; Python would end by a signal."""
    (tmp_path / "interrupted.py").write_text(
        "from fastdeit.tools import cli\n"
        "cli.run = lambda args: exec('raise KeyboardInterrupt')\n"
        "raise SystemExit(cli.main(['convert']))\n"
    )
    line = [sys.executable, "-m", "interrupted"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "fastdeit: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["", "with stop_at_once(): "])
def test_an_import_is_not_interrupted(number: int, where: str, tmp_path: Path) -> None:
    """A signal waits for its end; PyTorch's C++ code would abort if it were stopped by one."""
    (tmp_path / "heavy.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.2)\nprint('whole')\n"
    )
    (tmp_path / "program.py").write_text(
        "import sys, time\nfrom fastdeit.machine.stopping import stop_at_once\n"
        "from fastdeit.tools import cli\n"
        "def run(args):\n"
        f"    {where or 'if True: '}import heavy; time.sleep(20)\n"
        "cli.run = run\nsys.exit(cli.main())\n"
    )
    line = [sys.executable, "-m", "program"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout == "whole\n"
    codes = {signal.SIGINT: 130, signal.SIGTERM: 75 if where else 143}
    assert ended.returncode == codes[signal.Signals(number)]
    assert "Traceback" not in ended.stderr
