"""`fastdeit analyse WHAT`: the paper's analyses, of one's own runs and beside its figures."""

from __future__ import annotations

from fastdeit.tools.evaluate.analyse.disagreement import disagreement
from fastdeit.tools.evaluate.analyse.epochs import epochs
from fastdeit.tools.evaluate.analyse.throughput import throughput
from fastdeit.tools.evaluate.analyse.tokens import tokens


def analyse() -> int:
    """Compare decisions (Table 4), tokens, epochs (Figure 3) and throughput (Figure 1).

    A table goes to stderr, beside the paper's figures; the last line on stdout is one JSON object.
    With --out DIR it is kept there with a plot. `fastdeit analyse WHAT --help` shows the options.
    """
    raise AssertionError("one of its subcommands is called")


analyse.subcommands = {  # type: ignore[attr-defined]
    "disagreement": disagreement,
    "tokens": tokens,
    "epochs": epochs,
    "throughput": throughput,
}
