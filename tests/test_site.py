"""The site: its list of pages is whole, its formulas are MathML, and a page is shown without the marks for tests."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import yaml
from test_readme import NOTEBOOKS, PAGES

ROOT = Path(__file__).parent.parent
SPEC = spec_from_file_location("conf", ROOT / "site" / "conf.py")
conf = module_from_spec(SPEC)
SPEC.loader.exec_module(conf)


def test_the_side_bar_has_every_page_once():
    contents = yaml.safe_load((ROOT / conf.external_toc_path).read_text(encoding="utf8"))
    listed = [contents["root"], *(page["file"] for part in contents["parts"] for page in part["chapters"])]
    there = [page.removesuffix(".md") for page in PAGES] + [f"notebooks/{path.stem}" for path in NOTEBOOKS.values()]
    assert sorted(listed) == sorted(there)


def test_every_formula_of_the_notebooks_is_mathml():
    text = "\n".join(path.read_text(encoding="utf8") for path in NOTEBOOKS.values())
    text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    formulas = re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$(?!\$)", text, flags=re.DOTALL)
    assert formulas
    for block, inline in formulas:
        math = ElementTree.fromstring(conf.formula(block or inline, display=bool(block)))
        assert math.tag.endswith("math") and math.get("display") == ("block" if block else "inline")
        assert "\\" not in "".join(math.itertext()), block or inline


def test_a_page_is_shown_without_marks_and_leads_to_the_anchors_of_the_site():
    text = "From 1.5 <!-- results/one.json: figures.a -->, and 2 <!-- results/one.json: figures.b -->.\n<!-- kept -->"
    assert conf.for_readers(text) == "From 1.5, and 2.\n<!-- kept -->"
    assert conf.for_readers("[words](01_theory.ipynb#Glossary)") == "[words](01_theory.ipynb#glossary)"
    assert conf.for_readers("[Words](findings.md#Aa)") == "[Words](findings.md#Aa)"
