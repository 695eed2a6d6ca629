"""Worker processes: order, errors, and a worker that is killed."""

from __future__ import annotations

import signal
import time

import pytest
from worker_tasks import double

from fastdeit import UserError
from fastdeit.tools.data.workers import in_chunks, ordered_map


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order(workers: int) -> None:
    """Every result, in the order of the items, whatever their number."""
    for count in (0, 1, 15, 16, 17, 1000):
        found = list(ordered_map(double, "", in_chunks(range(count)), workers))
        assert found == [2 * number for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_raises_arrives(workers: int) -> None:
    """The exception of an item is raised where the results are read."""
    with pytest.raises(ValueError, match="planted"):
        list(ordered_map(double, "raise", in_chunks(range(1000)), workers))


def test_an_exception_that_cannot_be_sent() -> None:
    """Its kind and text arrive all the same."""
    shared = "raise what cannot be sent"
    with pytest.raises(RuntimeError, match="Local: planted"):
        list(ordered_map(double, shared, in_chunks(range(1000)), 2))


def test_a_killed_worker_is_an_error() -> None:
    """A worker that is killed ends the work with one error instead of a wait for ever."""
    started = time.monotonic()
    with pytest.raises(UserError, match=r"a worker process ended .* Found: exit code -9"):
        list(ordered_map(double, "die", in_chunks(range(1000)), 2))
    assert time.monotonic() - started < 20


def test_an_item_that_ends_its_worker() -> None:
    """It alone has the result that is made of the exit code; all others are done."""
    found = list(ordered_map(double, "die", in_chunks(range(1000)), 2, on_end=lambda code: code))
    assert found == [2 * number if number != 500 else -9 for number in range(1000)]


def test_a_reader_that_stops_reading() -> None:
    """Workers that wait to send large results end at once with their reader."""
    results = ordered_map(double, "large", in_chunks(range(10_000)), 2)
    assert len(next(results)) == 200_000
    time.sleep(0.5)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 2


def test_what_blocks_ctrl_c_goes_on_blocking_it() -> None:
    """A caller that waits with its own Ctrl-C finds it blocked as before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        assert list(ordered_map(double, "", in_chunks(range(3)), 2)) == [0, 2, 4]
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
