"""What every plot has in common: look and file; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastdeit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, XAxis, YAxis
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

COLORS = ("#2f6db5", "#c0392b", "#2e8b57", "#e07b00", "#7d3cb5", "#8c6d31", "#008b8b", "#d1478c")
"""Of series, in their order; the first is ours where there are others."""
GREY = "#8a8a8a"
"""Of what the paper says."""
HEAD_LINES: dict[str, Literal["--", ":", "-"]] = {"class": "--", "dist": ":", "joint": "-"}
MAX_TITLE = 34
"""Letters of a name in a plot."""
LOOK: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eeeeee",
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    # Names come from users: a dollar sign is one.
    "text.parse_math": False,
}


@contextmanager
def house_style(changes: dict[Any, Any] | None = None) -> Iterator[None]:
    """A context, or a decorator, in which axes and texts are made as ours look.

    The user's matplotlibrc does not count: equal numbers give equal pictures.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**LOOK, **(changes or {})})
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path, dpi: int = 130, mark: str | None = None) -> None:
    """Write a figure; the file appears when it is complete, with a mark for `check_ours`."""
    with replacing(path) as partial:
        metadata = None if mark is None else {"Software": mark}
        figure.savefig(partial, format="png", dpi=dpi, metadata=metadata)


def note(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **how: Any
) -> Annotation:
    """Write beside a point; the text as it is, without mathematics.

    The text lies on that side of the point to which `offset`, in points, goes. `how` are
    matplotlib's arguments of an annotation, such as va="center".
    """
    right, up = offset
    sides = {"ha": "left" if right > 0 else "right", "va": "bottom" if up > 0 else "top"}
    words = {"textcoords": "offset points", "parse_math": False, **sides, **how}
    return axes.annotate(text, point, offset, **words)


def whole_numbers(axis: Axis) -> None:
    """Let the ticks be whole numbers, such as epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def plain_log(axis: XAxis | YAxis) -> None:
    """Make an axis logarithmic with its numbers written out: 1,000, no powers of ten."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    # matplotlib's own formatter writes mathematics, which `LOOK` takes for letters.
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def shorten(name: str) -> str:
    """A name that fits; the end tells runs of a path from each other."""
    return name if len(name) <= MAX_TITLE else "..." + name[3 - MAX_TITLE :]


def cut(name: str, length: int = MAX_TITLE) -> str:
    """A name of at most so many letters, of which the first ones tell the most."""
    return name if len(name) <= length else name[: length - 3] + "..."
