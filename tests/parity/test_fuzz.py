"""Damaged datasets end in an error, or show what PIL makes of them: a few; fuzz.py does many."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import REFUSED, SAME, fuzz
from nightly import often


@pytest.mark.ffcv
@pytest.mark.parametrize("engine", ["ffcv", pytest.param("dali", marks=pytest.mark.dali)])
def test_damaged_datasets(engine: str, tmp_path: Path) -> None:
    """No signal, no hang, no picture that PIL does not show, no error that is not ours."""
    num = often(60, 2000) if engine == "ffcv" else often(30, 500)
    found = dict(fuzz(num, engine, seed=1, folder=tmp_path))
    assert len(found) == num
    wrong = {what: said for what, said in found.items() if said not in (SAME, REFUSED)}
    assert not wrong
    assert {SAME, REFUSED} == set(found.values())
