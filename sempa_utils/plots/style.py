"""One look for every figure: colour-blind safe colours, page width, readable type."""

import contextlib
import io
import textwrap
from collections.abc import Generator

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, in an order in which neighbours also differ in lightness.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "sky": "#56B4E9",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "black": "#222222",
    "grey": "#8A8A8A",
}
CYCLE = [COLOURS[name] for name in ("blue", "orange", "green", "sky", "vermillion", "purple")]

PAGE_WIDTH = 9.0  # inches; a notebook page shows this at full width

STYLE = {
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(color=CYCLE),
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 2,
}


@contextlib.contextmanager
def page_style() -> Generator[None, None, None]:
    """Apply the kit's style to the figures drawn inside the block, and to no others."""
    with plt.rc_context(STYLE):
        yield


class PageFigure(Figure):
    """A figure that a notebook can show by itself, without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=STYLE["figure.dpi"], bbox_inches="tight")
        return buffer.getvalue()


def note(axes, text: str, *, at, offset, **style):
    """Write `text` into the axes, `offset` points (1/72 inch) away from the place `at`; return the annotation."""
    return axes.annotate(text, at, xytext=offset, textcoords="offset points", **style)


def full_columns(count: int) -> int:
    """Return how many of `count` panels stand side by side, at most four, so that the fewest places stay empty."""
    return count if count <= 4 else min((4, 3), key=lambda columns: -count % columns)


def in_lines(name: str, *, columns: int) -> str:
    """Return a name in lines that fit above a panel, one of `columns` side by side."""
    return textwrap.fill(name, 84 // columns)


def panels(columns: int = 1, rows: int = 1, *, height: float = 3.4, **keywords):
    """Make a figure of page width with `rows` × `columns` axes; `height` in inches per row.

    Returns (figure, axes) as `matplotlib.pyplot.subplots` does.
    """
    figure = PageFigure(figsize=(PAGE_WIDTH, height * rows))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **keywords)
