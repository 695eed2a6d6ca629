"""What the processes of the parts have imported when they begin.

Nothing here may touch a GPU: a process that was forked after that cannot use it.
"""

# ruff: noqa: F401
from contextlib import suppress

with suppress(Exception):  # a part says what is wrong with a library, and this process lives on
    import tyro

    import fastdeit.benchmarks.augment
    import fastdeit.benchmarks.inference.measure
    import fastdeit.benchmarks.loaders
    import fastdeit.benchmarks.step_part
