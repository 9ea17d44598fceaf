"""Settings of the site for Sphinx: `make site` builds the repository's own pages, where they lie, into build/site.

What is a page, and in which order, stands in _toc.yml. Notebooks are shown as they were executed.
"""

import functools
import re

from latex2mathml.converter import convert

project = "SemPA kit"
author = copyright = "the SemPA kit's authors"
language = "en"
extensions = ["myst_nb", "sphinx_external_toc"]
exclude_patterns = [".*", "build", "site", "tests"]

external_toc_path = "site/_toc.yml"
external_toc_exclude_missing = True

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "navbar_persistent": [],
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["style"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html", "api.html"]}


def formula(tex: str, *, display: bool) -> str:
    """Return a formula as MathML, which a browser shows without a script and without a network."""
    return convert(tex.replace("{aligned}", "{split}"), display="block" if display else "inline")


def for_readers(text: str) -> str:
    """Return a page's source without the marks that tie its figures to records, and with the site's anchors.

    Jupyter's anchors keep the case of a heading; the site's do not.
    """
    text = re.sub(r"\s*<!-- results/.*? -->", "", text)
    return re.sub(r"\.ipynb#[\w-]+", lambda match: match[0].lower(), text)


def setup(app):
    """Tell Sphinx of the two functions above."""
    from docutils.nodes import SkipNode

    def visit(translator, node, display):
        translator.body.append(formula(node.astext(), display=display))
        raise SkipNode

    inline, block = (functools.partial(visit, display=display) for display in (False, True))
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("source-read", lambda app, name, source: source.append(for_readers(source.pop())))
