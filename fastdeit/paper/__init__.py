"""The tables of the DeiT paper (arXiv:2012.12877), as data.

Source of every figure: `tables.json` beside this file, which says where it comes from.
"""

from fastdeit.paper.tables import (
    PaperRow,
    Resolution,
    resolutions,
    rows_of_architecture,
    table5,
    table5_protocol,
)

__all__ = [
    "PaperRow",
    "Resolution",
    "resolutions",
    "rows_of_architecture",
    "table5",
    "table5_protocol",
]
