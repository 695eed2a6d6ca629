"""How OpenMP's threads, which are torch's on a CPU, wait for work."""

from __future__ import annotations

import os

POLICY, SPINCOUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPINS = 10_000
"""A tenth of a millisecond to half of one, as long as a processor's pause takes. It bridges the
gap between two operations of a forward pass, where waking a thread would cost more than the work
(DeiT-Ti on one image, 2 cores: 30 img/s without, 53 with it, 53 with OpenMP's own 300,000)."""


def limit_spinning() -> None:
    """Let threads that wait spin for a moment and then sleep; what a user has set stays.

    By OpenMP's own choice they spin for many times that long, and take the core from whoever works:
    from decoding threads, and from a second process on the same cores, which then runs at half its
    speed. It holds if nothing has loaded OpenMP yet, and for the processes that this one starts.
    """
    if POLICY not in os.environ and SPINCOUNT not in os.environ:
        # For OpenMP libraries other than GNU's, which do not know of spins, sleeping at once.
        os.environ.update({POLICY: "PASSIVE", SPINCOUNT: str(SPINS)})


def describe_waiting() -> str | None:
    """The setting in words, such as "PASSIVE, 10000 spins"; None if OpenMP chooses."""
    words = {POLICY: "{}", SPINCOUNT: "{} spins"}
    said = [form.format(os.environ[name]) for name, form in words.items() if name in os.environ]
    return ", ".join(said) or None
