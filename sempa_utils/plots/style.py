"""One look for every figure: colour-blind safe colours, page width, readable type."""

import contextlib

import matplotlib.pyplot as plt

# Okabe and Ito's palette, in an order in which neighbours also differ in lightness.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "black": "#222222",
    "grey": "#8A8A8A",
}
CYCLE = [COLOURS[name] for name in ("blue", "orange", "green", "vermillion", "sky", "purple")]

PAGE_WIDTH = 9.0  # inches; a notebook page shows this at full width

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
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
def page_style():
    """Apply the kit's style to the figures drawn inside the block, and to no others."""
    with plt.rc_context(STYLE):
        yield


def panels(columns: int = 1, rows: int = 1, height: float = 3.4, **keywords):
    """Make a figure of page width with `rows` × `columns` axes; `height` in inches per row.

    Returns (figure, axes) as `matplotlib.pyplot.subplots` does.
    """
    return plt.subplots(rows, columns, figsize=(PAGE_WIDTH, height * rows), **keywords)
