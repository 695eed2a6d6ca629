"""Importing this makes a process deaf to requests to stop; only the fork server preloads it.

A scheduler sends SIGTERM or SIGUSR1 to every process of a job. The trainer saves and ends; until
then it needs its workers, and these need the server that forked them.
"""

import signal

from fastdeit.stopping import SIGNALS

for _number in SIGNALS:
    signal.signal(_number, signal.SIG_IGN)
