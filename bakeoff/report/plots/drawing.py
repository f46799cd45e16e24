"""What all pictures share: colours, style, and how a figure becomes a file."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bakeoff.core.files import replace
from bakeoff.report.escape import plain

# Okabe and Ito's palette, without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
GREY = "#666666"
# parse_math: a dollar sign in a name is a dollar sign.
STYLE: Any = {
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}
UNIT = "loss, nats per label token"


@dataclass(frozen=True)
class Image:
    """A plot: its file and what it shows, for those who can't see it."""

    path: Path
    caption: str
    first: bool = False
    """Whether it stands beside the comparison table."""


def save(figure: Figure, path: Path, caption: str, *, first: bool = False) -> Image:
    """Writes `figure` to `path` as PNG without date or version."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None, "Date": None})
    replace(path, buffer.getvalue())
    return Image(path, caption, first)


def label(name: str) -> str:
    """A name that fits beside an axis."""
    short = plain(name)
    return short if len(short) <= 24 else short[:23] + "…"
