"""The program: help that reads, errors of one line with exit code 2, nothing heavy for help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastdeit import __version__
from fastdeit.tools.cli import main

COMMANDS = "sample-data convert verify inspect train evaluate bench report".split()


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
        ("train fly", "no such recipe. Found: fly. Known: demo-teacher, demo."),
        ("convert {tmp}/none {tmp}/out.beton", "source must be a folder"),
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
        ("bench loaders", "bench loaders needs a dataset. Found: none. Pass --data"),
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


def test_several_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under torchrun training says that it cannot, rather than run twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = f"train demo-teacher --train a --val b --out {tmp_path / 'run'}"
    assert main(line.split()) == 2
    assert "training runs in one process so far. Found: WORLD_SIZE=2." in capsys.readouterr().err


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
