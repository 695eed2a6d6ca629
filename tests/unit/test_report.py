"""`fastdeit report`: its numbers, and that the page needs nothing but itself."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from fastdeit.tools.report.results import half_width_pct
from report_runs import (
    BENCH,
    HOSTILE,
    Capture,
    Loads,
    MakeRun,
    page_of,
    write_bench,
)

pytestmark = pytest.mark.slow  # as a whole


def test_headline_gives_the_joint_head_against_chance(make_run: MakeRun) -> None:
    """The headline takes the joint head of the last evaluation and divides it by chance."""
    page = page_of(make_run())
    assert "Top-1 on val: 71.3% (joint head, 600 images), 14 times chance (5.0%)." in page
    assert "demo-student (deit_tiny, depth 4, 2.7 M parameters), trained for 2 epochs" in page
    assert "Stopped early" not in page
    assert "<pre>fastdeit train &#39;a b&#39;</pre>" in page


@pytest.mark.parametrize(
    ("top1_pct", "num_classes", "has_failed"),
    [(10.0, 20, True), (10.1, 20, False), (75.0, 2, True), (98.0, 2, False)],
)
def test_accuracy_near_chance_is_called_a_failure(
    make_run: MakeRun, top1_pct: float, num_classes: int, has_failed: bool
) -> None:
    """Top-1 that is not above twice chance is said to have failed to learn."""
    folder = make_run(
        heads={"class": {"top1_pct": top1_pct}}, environment={"num_classes": num_classes}
    )
    page = page_of(folder)
    assert ("Failed to learn: top-1 on val is" in page) is has_failed
    assert f"{top1_pct}% (class head, 600 images)" in page


def test_chance_is_not_guessed(make_run: MakeRun, capsys: Capture) -> None:
    """Without the number of classes chance is n/a on the page and null in the JSON."""
    assert "71.3% (joint head, 600 images); chance n/a" in page_of(make_run(environment={}))
    assert json.loads(capsys.readouterr().out)["runs"][0]["chance_pct"] is None


def test_evaluation_json_comes_before_the_last_line(make_run: MakeRun) -> None:
    """evaluation.json is reported where it exists, and a difference to the metrics is said."""
    folder = make_run()
    content = {"data": "val.beton", "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
    (folder / "evaluation.json").write_text(json.dumps(content))
    page = page_of(folder)
    assert "Top-1 on val: 68.0% (joint head, 500 images), 14 times chance" in page
    assert "The last evaluation in training gave 71.3% (joint head)" in page


def test_evaluation_on_other_data_is_named(make_run: MakeRun) -> None:
    """Accuracy on another data set does not pass as accuracy on val."""
    folder = make_run()
    for dataset, name in [("/v2/val.beton", "/v2/val.beton"), ("data/val.beton", "val")]:
        content = {"dataset": dataset, "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
        (folder / "evaluation.json").write_text(json.dumps(content))
        assert f"Top-1 on {name}: 68.0%" in page_of(folder)


def test_chance_is_that_of_the_classes_that_were_left(make_run: MakeRun) -> None:
    """An evaluation on some of the classes says among how many was chosen."""
    folder = make_run()
    content = {"dataset": "r", "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
    (folder / "evaluation.json").write_text(json.dumps(content | {"num_classes": 4}))
    assert "2.7 times chance (25.0%)" in page_of(folder)


def by_class(num: int) -> dict[str, Any]:
    """What an evaluation holds of so many classes, of which the first has no image."""
    return {
        "head": "joint",
        "weights": "raw",
        "names": [HOSTILE, *(f"class {number}" for number in range(1, num))],
        "total": [0, *[1000] * (num - 1)],
        "correct": [0, *range(1, num)],
        "confused": [[2, 1, 444], [1, num - 1, 333]],
    }


def test_classes_have_a_section(make_run: MakeRun) -> None:
    """The worst, the best, the mean without the empty class, and the confusions; up to 200."""
    folder = make_run()
    content = {"dataset": "r", "num_images": 500, "heads": {"joint": {"top1_pct": 68.0}}}
    pages = {}
    for num in (0, 4, 100, 201):
        found = {"by_class": by_class(num)} if num else {}
        (folder / "evaluation.json").write_text(json.dumps(content | found))
        pages[num] = " ".join(page_of(folder).split())
    for num in (0, 201):
        assert "<h2>Classes</h2>" not in pages[num]
    assert (
        "Mean of the top-1 of 99 classes: 5.0% (joint head, raw weights). 1 without" in pages[100]
    )
    shown = [f"<th>class {n}</th> <td>{n / 10:.1f} " for n in (*range(1, 11), *range(99, 89, -1))]
    places = [pages[100].index(text) for text in shown]
    assert places == sorted(places)
    assert "<th>best</th>" in pages[100] and "<th>class 11</th>" not in pages[100]
    row = "<th>class 2</th> <td>class 1</td><td>444</td><td>1,000</td>"
    assert row in pages[100] and row in pages[4]
    assert "<th>best</th>" not in pages[4] and "<th>worst</th>" not in pages[4]


def test_half_width_agrees_with_the_quadratic() -> None:
    """The half width is that of the two proportions at which the score test is at its limit."""
    n, p, z = 600, 0.7133, 1.959964
    a, b, c = 1 + z * z / n, -(2 * p + z * z / n), p * p
    expected = 100 * math.sqrt(b * b - 4 * a * c) / (2 * a)
    found = half_width_pct(100 * p, n)
    assert found == pytest.approx(expected, rel=1e-9), f"{found} against {expected}"
    assert found == pytest.approx(3.61, abs=0.01)
    assert half_width_pct(100.0, 600) == pytest.approx(0.318, abs=0.001)
    assert half_width_pct(50.0, None) is None


def test_heads_table_has_every_head(make_run: MakeRun) -> None:
    """The table lists top-1 and top-5 of class, dist and joint with their half widths."""
    page = page_of(make_run())
    for cells in ("69.5 <small>&plusmn; 3.7", "70.5 <small>&plusmn; 3.6", "94.0 <small>&plusmn; 1"):
        assert cells in page
    assert page.index("<td>class</td>") < page.index("<td>dist</td>") < page.index("<td>joint</td>")


def test_hostile_strings_are_escaped(make_run: MakeRun) -> None:
    """Markup in a title, folder, recipe, head, benchmark or environment is text, never a tag."""
    folder = make_run(
        '<script>alert("folder")',
        recipe=HOSTILE,
        heads={HOSTILE: {"top1_pct": 50.0}},
        environment={HOSTILE: HOSTILE, "engine": HOSTILE},
    )
    row = {
        "case": HOSTILE,
        "name": HOSTILE,
        "unit": HOSTILE,
        "median": 1.0,
        "baseline": HOSTILE,
        "bound_what": HOSTILE,
        "note": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
    }
    page = page_of(
        folder,
        make_run(recipe=HOSTILE, heads=None),
        title=HOSTILE,
        not_measured=(HOSTILE,),
        bench=(write_bench(folder, [row]),),
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10
    # The folder tells runs of one recipe from each other; the configuration stands there whole.
    assert page.count("(&lt;script&gt;alert(&#34;folder&#34;))") > 2
    assert "&#34;name&#34;: &#34;&lt;script&gt;alert(" in page


def test_page_loads_nothing(make_run: MakeRun) -> None:
    """Every address in the page is a data URI or an id of the page itself, and ids are unique."""
    folder = make_run()
    page = page_of(folder, make_run("teacher"), bench=(write_bench(folder, BENCH),))
    (loads := Loads()).feed(page)
    assert page.count("<svg") == 7  # three panels for each run, one bar chart
    outside = [a for a in loads.addresses if not a.startswith(("data:", "#"))]
    assert not outside, outside
    assert "data:image/png;base64,iVBORw0KGgo" in page
    assert not loads.tags & {"script", "iframe", "object", "embed", "form"}
    assert not re.findall("https?:|@import", page)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {a[1:] for a in loads.addresses if a.startswith("#")} <= set(ids)


def test_same_inputs_give_the_same_bytes(make_run: MakeRun) -> None:
    """Writing a report again over itself leaves identical bytes and no other file."""
    folder = make_run()
    bench = (write_bench(folder, BENCH),)
    first = page_of(folder, bench=bench)
    assert page_of(folder, bench=bench) == first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["report.html", "student"]
