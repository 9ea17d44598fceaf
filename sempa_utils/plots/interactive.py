"""A figure with sliders in a live notebook, the same figure at its starting values on a saved page."""

import importlib.util
import os
from collections.abc import Callable

__all__ = ["sliders", "is_live"]

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

    controls = {name: _slider(ipywidgets, name, *limits) for name, limits in ranges.items()}
    output = ipywidgets.interactive_output(lambda **values: display(draw(**values)), controls)
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), output])


def _slider(ipywidgets, name, lowest, highest, start):
    whole = all(isinstance(value, int) for value in (lowest, highest, start))
    kind, step = (ipywidgets.IntSlider, 1) if whole else (ipywidgets.FloatSlider, (highest - lowest) / 100)
    return kind(value=start, min=lowest, max=highest, step=step, description=name, continuous_update=False)
