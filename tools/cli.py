"""The program `fastdeit`: finds the commands, parses the line, turns errors into one line.

A command is a function registered under the entry point group `fastdeit.commands` (setup.cfg), so
this module knows neither the commands nor the benchmarks by name. Its signature and docstring are
its options and help (tyro); its return value is the exit code.
"""

from __future__ import annotations

import errno
import functools
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from types import FrameType
from typing import Any

import tyro

from fastdeit import UserError, __version__
from fastdeit.errors import RunError, Stopped
from fastdeit.machine import launch
from fastdeit.machine.stopping import comes_again
from fastdeit.machine.threads import limit_spinning, limit_threads

# Before anything loads OpenMP.
limit_spinning()
limit_threads()

EXIT_REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on."""

ABOUT = """Train DeiT on ImageNet on one node: convert the data, train, evaluate, measure.

`fastdeit COMMAND --help` explains one command. Shell completion:
`fastdeit --tyro-write-completion bash ~/.local/share/bash-completion/completions/fastdeit`
(or zsh, tcsh)."""

# Names come from the fields themselves (`--batch-size`, not `--data.batch-size`).
PARSING = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)


def main(argv: list[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 the command found a fault (verify) or the run failed, 2 the input
        cannot be used or a file cannot be written, 75 a run was asked to stop and saved where it
        was (SIGTERM, SIGUSR1: start it again), 130 interrupted, 143 terminated.
    """
    args = sys.argv[1:] if argv is None else argv
    if argv is None:
        # A scheduler's stop cleans up as Ctrl-C does, instead of ending in the middle of a write.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as for `command &` in a script
                signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is told by its number
            stream.reconfigure(errors="backslashreplace")
    try:
        return run(args)
    except UserError as error:
        complain(str(error))
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our stdout went away (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error).split("\n")[0]
        way_out = " Raise the limit: ulimit -n 4096." if error.errno == errno.EMFILE else ""
        complain(f"{where}{reason}. What existed is as it was.{way_out}")
        return 2
    except (MemoryError, ImportError) as error:
        # A library that finds no room (ulimit -v); other imports that fail are ours.
        if isinstance(error, ImportError) and "shared object" not in str(error):
            raise
        reason = " ".join(str(error).split()) or "no more memory"
        complain(
            f"the program must have enough memory (ulimit -v). Found: {reason}. Allow it more, or "
            "ask for less: fewer --workers or --threads, a smaller --batch-size."
        )
        return 2
    except (FloatingPointError, RunError) as error:
        complain(str(error))
        return 1
    except Stopped as stopped:
        if launch.is_first_process():  # all processes of a job stop together
            print(f"fastdeit: stopped at {stopped}; {stopped.way_on} goes on", file=sys.stderr)
        return 130 if stopped.signal_number == signal.SIGINT else EXIT_REQUEUE
    except KeyboardInterrupt:
        print("fastdeit: interrupted", file=sys.stderr)
        # If it came in text that exec() ran, such as a dataclass being made, Python remembers it as
        # unhandled, and `python -m` would end by SIGINT instead of our code. Any other text resets
        # that.
        exec("")
        return 130
    finally:
        if _num_stops:  # Python's own end would be disturbed by another one
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


def complain(text: str) -> None:
    """Print an error; of the processes of a job all but the first say who they are."""
    who = "" if launch.is_first_process() else f"process {launch.rank()}: "
    print(f"fastdeit: error: {who}{text}", file=sys.stderr)


_num_stops = 0


def stop(number: int, frame: FrameType | None) -> None:
    """End the program on SIGINT or SIGTERM, through every block that cleans up, after an import.

    A second signal does not disturb the cleaning up, which takes a moment; a third ends at once.
    """
    global _num_stops
    if comes_again(number, frame):
        return
    _num_stops += 1
    if _num_stops == 2:
        print("fastdeit: ending; once more to end without cleaning up", file=sys.stderr)
    elif _num_stops > 2:
        os._exit(128 + number)
    elif number == signal.SIGTERM:
        print("fastdeit: terminated", file=sys.stderr)
        sys.exit(143)
    else:
        raise KeyboardInterrupt


def run(args: list[str]) -> int:
    """Parse `args` and call the command; errors pass through."""
    commands = {point.name: point for point in entry_points(group="fastdeit.commands")}
    if args == ["--version"]:
        print(f"fastdeit {__version__}")
        return 0
    if args and not args[0].startswith("-"):
        if args[0] not in commands:
            raise UserError(f"no such command. Found: {args[0]}. Known: {', '.join(commands)}.")
        # Only the module of the command that is asked for is imported.
        command = load_command(commands[args[0]])
        own = args[1:]
        check = getattr(command, "check_args", None)
        if check is not None:
            check(own)
        own = getattr(command, "complete_args", list)(own)
        prog, several = f"fastdeit {args[0]}", getattr(command, "subcommands", None)
        if several is not None:
            code = run_one_of(several, command, own, prog)
        else:
            code = tyro.cli(command, args=own, prog=prog, config=PARSING)
    else:
        tree = {name: with_short_help(load_command(point)) for name, point in commands.items()}
        code = tyro.extras.subcommand_cli_from_dict(
            tree, prog="fastdeit", description=ABOUT, args=args, config=PARSING
        )
    return int(code or 0)


def run_one_of(
    several: dict[str, Callable[..., int]], group: Callable[..., int], args: list[str], prog: str
) -> int:
    """Call the command of a group that `args` names."""
    if args and not args[0].startswith("-"):
        name = args[0]
        if name not in several:
            known = ", ".join(several)
            raise UserError(f"no such subcommand of {prog}. Found: {name}. Known: {known}.")
        command = several[name]
        return int(tyro.cli(command, args=args[1:], prog=f"{prog} {name}", config=PARSING) or 0)
    tree = {name: with_short_help(command) for name, command in several.items()}
    about = inspect.cleandoc(group.__doc__ or "")
    return int(
        tyro.extras.subcommand_cli_from_dict(
            tree, prog=prog, description=about, args=args, config=PARSING
        )
        or 0
    )


def load_command(point: EntryPoint) -> Callable[..., int]:
    """Import the function that an entry point names."""
    command: Callable[..., int] = point.load()
    return command


def with_short_help(command: Callable[..., int]) -> Callable[..., int]:
    """Copy `command` with only the first line of its docstring, for the list of commands."""

    @functools.wraps(command)
    def short(*args: Any, **kwargs: Any) -> int:
        return command(*args, **kwargs)

    short.__doc__ = (command.__doc__ or "").strip().split("\n")[0]
    return short


if __name__ == "__main__":
    sys.exit(main())
