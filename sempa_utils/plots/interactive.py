"""Figures to play with in a live notebook, and the same figures standing still on a saved page."""

import html
import importlib.util
import os
import textwrap
from collections.abc import Callable

import numpy as np

from sempa_utils.plots.space import ROLES
from sempa_utils.plots.style import COLOURS, page_style, panels

__all__ = ["scatter", "sliders", "is_live"]

STATIC_VARIABLE = "SEMPA_STATIC"


def is_live() -> bool:
    """Whether sliders can work here: a notebook kernel, ipywidgets, and SEMPA_STATIC not set.

    SEMPA_STATIC set to anything but "" or "0" asks for static figures.
    """
    if os.environ.get(STATIC_VARIABLE, "0") not in ("", "0"):
        return False
    if importlib.util.find_spec("ipywidgets") is None or importlib.util.find_spec("IPython") is None:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def sliders(draw: Callable, **ranges):
    """Show `draw(**values)`, with a slider for each value where the page is live.

    `draw` takes the values by name and returns a matplotlib Figure. A range is (lowest, highest,
    start), integers for a slider over integers, e.g. `sliders(draw, beta=(0.05, 2.0, 0.1), n=(2, 8, 4))`.
    Returns an ipywidgets box if `is_live()`, else the Figure at the starting values: let it end a cell.
    Raises ValueError for no range, or for one that is not lowest ≤ start ≤ highest with lowest < highest.
    """
    if not ranges:
        raise ValueError("sliders needs a range: sliders(draw, beta=(lowest, highest, start))")
    for name, limits in ranges.items():
        if len(limits) != 3 or not (limits[0] <= limits[2] <= limits[1] and limits[0] < limits[1]):
            raise ValueError(f"{name} must be (lowest, highest, start) with lowest ≤ start ≤ highest, not {limits}")
    if not is_live():
        return draw(**{name: limits[2] for name, limits in ranges.items()})

    import ipywidgets
    from IPython.display import display

    controls = {name: _slider(ipywidgets, name, limits) for name, limits in ranges.items()}
    output = ipywidgets.interactive_output(lambda **values: display(draw(**values)), controls)
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), output])


def _slider(ipywidgets, name, limits):
    lowest, highest, start = limits
    whole = all(isinstance(value, int) for value in limits)
    kind, step = (ipywidgets.IntSlider, 1) if whole else (ipywidgets.FloatSlider, (highest - lowest) / 100)
    return kind(value=start, min=lowest, max=highest, step=step, description=name, continuous_update=False)


def scatter(points: dict[str, np.ndarray], sentences: dict[str, list[str]], *, numbered: int = 4):
    """Show points {role: (n, 2)} of the roles of `plots.space`, with their sentences {role: [n]}.

    Returns an HTML drawing whose hover tells a point's sentence if `is_live()`, else a Figure in which `numbered`
    points far from each other are told (1a, 2a, …), each with its nearest neighbour in the plane (1b, 2b, …): let it
    end a cell. Raises ValueError unless each point has a sentence.
    """
    points = {role: np.asarray(values, dtype=float) for role, values in points.items()}
    for role, values in points.items():
        if values.shape != (len(sentences[role]), 2):
            raise ValueError(f"{role}: {len(sentences[role])} sentences need as many points (n, 2), not {values.shape}")
    if is_live():
        from IPython.display import HTML

        return HTML(_drawing(points, sentences))
    return _numbered(points, sentences, numbered)


def _drawing(points, sentences, width: int = 860, height: int = 520, margin: int = 24) -> str:
    """Return an SVG drawing in which each point has a title: browsers show it on hover."""
    every = np.concatenate(list(points.values()))
    low, span = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-12)
    shapes = {"o": '<circle r="5"/>', "^": '<path d="M0-6 6 5H-6Z"/>', "s": '<path d="M-5-5H5V5H-5Z"/>'}

    def mark(role: str, x: float, y: float, inside: str) -> str:
        colour, marker = ROLES[role]
        place = f'transform="translate({x:.1f} {y:.1f})" fill="{COLOURS[colour]}" fill-opacity=".75"'
        return f"<g {place}>{inside}{shapes[marker]}</g>"

    marks = []
    for place, (role, values) in enumerate(points.items()):
        # The legend, above the points.
        marks.append(mark(role, margin + 110 * place, -12, f'<text x="12" y="5" fill="black">{role}</text>'))
        for (across, up), sentence in zip((values - low) / span, sentences[role]):
            x, y = margin + across * (width - 2 * margin), height - margin - up * (height - 2 * margin)
            marks.append(mark(role, x, y, f"<title>{html.escape(f'{role}: {sentence}')}</title>"))
    box = f'viewBox="0 -24 {width} {height + 24}" style="width:100%;font:14px sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(marks)}</svg>'


def _numbered(points, sentences, count: int):
    every = np.concatenate(list(points.values()))
    texts = [
        f"{textwrap.shorten(sentence, 110, placeholder=' …')} ({role})"
        for role in points
        for sentence in sentences[role]
    ]
    chosen = [int(np.linalg.norm(every - every.mean(axis=0), axis=1).argmax())]
    while len(chosen) < min(count, len(every)):  # next, the point farthest from all that are chosen
        distances = np.linalg.norm(every[:, None] - every[chosen], axis=2).min(axis=1)
        chosen.append(int(distances.argmax()))
    told = {}
    for number, index in enumerate(chosen, start=1):
        told[f"{number}a"] = index
        distances = np.linalg.norm(every - every[index], axis=1)
        distances[index] = np.inf
        if np.isfinite(distances.min()):
            told[f"{number}b"] = int(distances.argmin())
    with page_style():
        figure, (left, right) = panels(2, height=4.4, gridspec_kw={"width_ratios": [1.35, 1]})
        for role, values in points.items():
            colour, marker = ROLES[role]
            left.scatter(*values.T, s=16, marker=marker, color=COLOURS[colour], alpha=0.6, linewidths=0, label=role)
        for name, index in told.items():
            middle = {"ha": "center", "va": "center", "bbox": {"boxstyle": "round,pad=0.15", "facecolor": "white"}}
            left.annotate(name, every[index], fontsize=9, fontweight="bold", **middle)
        left.set(xlabel="component 1", ylabel="component 2")
        lines = [textwrap.fill(f"{name}  {texts[index]}", 50, subsequent_indent="    ") for name, index in told.items()]
        right.text(0, 1, "\n".join(lines), va="top", fontsize=9, linespacing=1.35, parse_math=False)
        right.set_axis_off()
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
