"""Configuration strings of policies: what is refused, and that reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastdeit import UserError
from fastdeit.policies import NAMED_OPS, one_operation, parse_policy


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("randaug", r"must be a policy of timm's. Found: 'randaug'. Known: rand-.*, none"),
        ("", r"must be a policy of timm's. Found: ''."),
        ("augmix-m5", r"Found: 'augmix-m5'"),
        ("ta_wide-m9", r"Found: 'ta_wide-m9'"),
        (
            "rand-m9-q3",
            r"one of m, n, p, mstd, mmax, inc, w, t with its value. Found: q3 in rand-m9-q3",
        ),
        ("rand-m", r"Found: m in rand-m"),
        ("rand-9", r"Found: 9 in rand-9"),
        ("rand--m9", r"Found: an empty one in rand--m9"),
        ("rand-m9-m8", r"must be given once. Found: m twice"),
        ("rand-m9-w1", r"w of auto_augment must be a whole number, from 0 to 0. Found: 1"),
        ("rand-w0-t3a", r"w and t of auto_augment exclude each other. Found: w0 and t3a"),
        ("rand-m9.5", r"m of auto_augment must be a whole number, from 0 to 1000. Found: 9.5"),
        ("rand-p1.5", r"p of auto_augment must be a number, from 0 to 1. Found: 1.5"),
        ("rand-n0", r"n of auto_augment must be a whole number, from 1 to 100. Found: 0"),
        ("rand-inc2", r"inc of auto_augment must be a whole number, from 0 to 1. Found: 2"),
        ("rand-tmine", r"must be tweights, t3a or t3aw. Found: tmine"),
        ("rand-n16-tweights", r"n must be at most 15, since no operation comes twice"),
        ("original-m9", r"one of mstd with its value. Found: m9 in original-m9"),
    ],
)
def test_what_cannot_be_is_refused(config: str, message: str) -> None:
    """One line: what, value found, rule, way out."""
    with pytest.raises(UserError, match=message) as error:
        parse_policy(config)
    assert "\n" not in str(error.value)


def test_none_is_no_policy() -> None:
    """`none` switches the policy off."""
    assert parse_policy("none") is None


@pytest.mark.parametrize("inc", ["", "-inc1"])
def test_weights_of_older_versions_of_timm(inc: str) -> None:
    """w0 draws 13 operations by the weights that timm had before 1.0."""
    policy = parse_policy(f"rand-m9-w0{inc}")
    assert policy is not None
    assert policy.weights is not None
    weights = dict(zip(policy.names, policy.weights, strict=True))
    assert sum(weights.values()) == pytest.approx(1.0)
    end = "Increasing" if inc else ""
    assert weights["Rotate"] == 0.3
    assert weights[f"Color{end}"] == 0.025
    assert weights[f"Solarize{end}"] == 0.005
    assert not {"Invert", f"Posterize{end}"} & set(weights)


@pytest.mark.parametrize("name", NAMED_OPS)
def test_one_operation_is_a_policy(name: str) -> None:
    """Each operation alone, always applied."""
    policy = one_operation(name, 9)
    assert policy.num_slots == 1
    assert policy.names == (name,)
    assert policy.rows[0][0].prob == 1
    with pytest.raises(KeyError):
        one_operation("Cutout", 9)


def test_reading_a_configuration_needs_no_torch() -> None:
    """Help and errors of the command line come before anything heavy is imported."""
    code = (
        "import sys; from fastdeit.recipes import RECIPES; from pathlib import Path; "
        "RECIPES['demo'](Path('a'), Path('b'), Path('c'), Path('d')); "
        "sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
