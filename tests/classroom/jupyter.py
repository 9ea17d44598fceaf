"""A page of JupyterLab in Chromium, used as a student does: all cells, a slider, a wrong and a right answer.

Not part of the suite: it wants Chromium, which is found on the path or named by CHROMIUM, and Playwright, which
`pip install -e '.[classroom]'` brings. `make classroom CLASSROOM=tests/classroom/jupyter.py`; pictures of the page lie
in build/classroom afterwards.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import jupytext
import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[classroom]'")

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "classroom"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# A sandbox wants more than a container gives; no page is fetched but the one of this machine.
SWITCHES = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
TOKEN, PATIENCE = "classroom", 600_000  # milliseconds, for a busy machine
WRONG = "def best_of_probability(scores):\n    return scores.log_softmax(-1)[..., 0]"
RIGHT = "def best_of_probability(scores):\n    return scores.softmax(-1)[..., 0]"

sys.path.insert(0, str(ROOT / "notebooks"))
import exercises as editions  # noqa: E402


def lesson(path: Path) -> None:
    """Write the class's edition of notebook 01 up to its first slider, and its first exercise: no model is needed."""
    cells = editions.student(jupytext.read(ROOT / "notebooks" / "source" / "01_theory.py")).cells

    def first(text: str) -> int:
        return next(place for place, cell in enumerate(cells) if text in cell.source)

    slider, imported, written = map(first, ("interactive.sliders", "import exercises", "def best_of_probability"))
    kept = [*cells[: slider + 1], cells[imported], *cells[written - 1 : written + 1]]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=kept, metadata=kernel), path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on this machine, and the address of the lesson."""
    folder = tmp_path_factory.mktemp("lab")
    lesson(folder / "01_theory.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # Every cell is on the page, also those that are not seen.
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}', encoding="utf8")
    surroundings = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_CONFIG_DIR": str(folder / "configuration"),
        "SEMPA_PROFILE": "smoke",
        "SEMPA_BUILD_DIR": str(folder / "build"),
        "PYTHONPATH": str(ROOT),
    }
    surroundings.pop("SEMPA_STATIC", None)
    options = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root", f"--IdentityProvider.token={TOKEN}"]
    options += ["--LabApp.news_url=None", f"--ServerApp.root_dir={folder}"]
    log = folder / "server.log"
    with open(log, "w", encoding="utf8") as output:
        command = [sys.executable, "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=surroundings, stdout=output, stderr=output, cwd=folder)
    try:
        yield f"{address(process, log)}/lab/tree/01_theory.ipynb?token={TOKEN}"
    finally:
        process.terminate()
        process.wait()


def address(process: subprocess.Popen, log: Path) -> str:
    """Return where the server answers, once it does."""
    while process.poll() is None:
        if match := re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf8")):
            with contextlib.suppress(urllib.error.URLError):  # it names its address before it listens
                with urllib.request.urlopen(f"{match[0]}/api/status?token={TOKEN}"):
                    return match[0]
        time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def page(server):
    """The lesson, opened and run by "Run All Cells"."""
    if not CHROMIUM:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(PATIENCE)
        page.goto(server)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("| Idle").or_(page.locator("[data-status=idle]")).first.wait_for(state="attached")
        run_all(page)
        yield page
        page.screenshot(path=PICTURES / "jupyter_last.png")
        browser.close()


def run_all(page) -> None:
    """Choose "Run All Cells" until a cell runs.

    Where the machine is slow the page asks for a kernel before it knows the one that runs, and forgets what was asked.
    """
    page.add_locator_handler(page.get_by_role("button", name="Select Kernel"), lambda button: button.click())
    begun = page.locator(".jp-CodeCell .jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    while not begun.count():
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        with contextlib.suppress(sync_api.TimeoutError):
            begun.first.wait_for(timeout=30_000)


def cell(page, text: str):
    return page.locator(".jp-CodeCell", has_text=text).last


def run_cell(page, text: str, code: str) -> None:
    """Write code in the place of a cell's function, and run it as the keyboard does."""
    one = cell(page, text)
    one.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(f'{code}\n\n\nexercises.check("best_of_probability", best_of_probability)')
    page.keyboard.press("Control+Enter")


def test_run_all_gives_every_cell_its_output_and_no_error(page):
    report = cell(page, "exercises.check").locator(".jp-OutputArea-output")
    sync_api.expect(report.first).to_contain_text(
        "replace `raise NotImplementedError` by your answer", timeout=PATIENCE
    )
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts and all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts), prompts
    assert page.locator("mjx-container").count() > 2, "formulas are set"
    page.screenshot(path=PICTURES / "jupyter_run_all.png")


def test_a_slider_draws_the_picture_anew(page):
    controls = cell(page, "interactive.sliders").locator(".jp-OutputArea").first
    picture, readout = controls.locator("img").last, controls.locator(".widget-readout").first
    picture.wait_for()
    before = picture.get_attribute("src"), readout.inner_text()
    handle = controls.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(readout).not_to_have_text(before[1], timeout=PATIENCE)
    sync_api.expect(controls.locator("img").last).not_to_have_attribute("src", before[0], timeout=PATIENCE)
    assert int(readout.inner_text()) == int(before[1]) + 1
    page.screenshot(path=PICTURES / "jupyter_slider.png")


def test_a_wrong_answer_is_told_why_and_a_right_one_is_praised(page):
    report = cell(page, "exercises.check").locator(".jp-OutputArea-output").first
    run_cell(page, "exercises.check", WRONG)
    sync_api.expect(report).to_contain_text("log-probability", timeout=PATIENCE)
    report.scroll_into_view_if_needed()
    page.screenshot(path=PICTURES / "jupyter_wrong.png")
    run_cell(page, "exercises.check", RIGHT)
    sync_api.expect(report).to_contain_text("Well done", timeout=PATIENCE)
    page.screenshot(path=PICTURES / "jupyter_right.png")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
