"""What the processes of the parts have imported when they begin.

Nothing here may touch a GPU: a process that was forked after that cannot use it.
"""

# ruff: noqa: F401
from contextlib import suppress

with suppress(Exception):  # a part says what is wrong with a library, and this process lives on
    import tyro

    import fastdeit.benchmarks.cases.augment_pairs
    import fastdeit.benchmarks.cases.inference.measure
    import fastdeit.benchmarks.cases.loaders
    import fastdeit.benchmarks.cases.step_part
