"""Several processes of the program on this machine: torchrun, which says no more than they do."""

from __future__ import annotations

import logging
import os
import sys


def main(args: list[str]) -> int:
    """Run `fastdeit` in several processes to its end.

    Args:
        args: how many, and the arguments of the program.

    Returns:
        The exit code of the process that failed first, 128 and the signal's number after a signal,
        else 0.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    processes, *line = args
    # torchrun's own default, of which it would tell.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The processes have said why they end.
    logging.disable(logging.ERROR)
    # SIGUSR1, which it would die of, is passed on too.
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    own = ["--standalone", signals, f"--nproc-per-node={processes}", "-m", "fastdeit.tools.cli"]
    try:
        torchrun([*own, *line])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
