"""Build, execute and publish the notebooks; `make run` calls this.

From each percent script in notebooks/source/ comes, in build/, an executed notebook and an HTML page;
build/index.html links them with their headline figures and build/summary.json holds time and memory.
An interrupted run goes on at the notebook it was in.
"""

import argparse
import base64
import contextlib
import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import psutil
import torch
from latex2mathml.converter import convert as to_mathml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from sempa_utils import __version__, models, profiles, records
from sempa_utils.checks import InputError, fingerprint, write_whole

HERE = Path(__file__).parent
# The scripts that come before the notebooks, and what the index page calls what they find.
SCRIPTS = {"first": "What SemPA did", "others": "Beside it: other objectives, and no KL term"}
# On several cores two of these at a time, in this order: first what others wait for, and what takes long.
SIDE_BY_SIDE = ("others", "04", "03", "01", "05", "02")
LANES = 2
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # of what has another one beside it


def main() -> int:
    """Run what the command line says; return 0, or 1 if a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--model", default="packaged", help="packaged, a hub id or a directory")
    parser.add_argument(
        "--build", type=Path, default=HERE.parent / "build", help="where everything goes"
    )
    parser.add_argument("--only", help="run the notebooks whose names contain this")
    publishing = "afterwards copy notebooks beside their sources and the summary into results/"
    parser.add_argument("--publish", action="store_true", help=publishing)
    options = parser.parse_args()

    try:
        profiles.get(options.profile)
        models.fetch(options.model)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    model = options.model
    if Path(model).is_dir():
        model = str(Path(model).resolve())  # the notebooks run in another working directory
    build = options.build.resolve()
    build.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "SEMPA_PROFILE": options.profile,
        "SEMPA_MODEL": model,
        "SEMPA_BUILD_DIR": str(build),
        "SEMPA_STATIC": "1",
        "SEMPA_COMMAND": f"make run PROFILE={options.profile}",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    sources = [
        path
        for path in sorted((HERE / "source").glob("[0-9]*.py"))
        if (options.only or "") in path.stem
    ]
    if not sources:
        print(f"error: no notebook's name contains {options.only!r}", file=sys.stderr)
        return 1
    print(
        f"profile {options.profile}, model {options.model}: {len(sources)} notebooks → {build}",
        flush=True,
    )

    started = time.perf_counter()
    data = os.environ.get("SEMPA_DATA_DIR")
    texts = [path.read_text(encoding="utf8") for path in sources]
    key = fingerprint(__version__, options.profile, model, data, *texts)
    progress = Progress(build, stages(sources, scripts=not options.only), key)
    print(f"{build / 'index.html'} fills while this runs", flush=True)
    with FamilyMemory(os.getpid) as memory:
        try:
            done = all(run_stage(stage, progress) for stage in progress.stages)
        except KeyboardInterrupt:
            print(
                "\ninterrupted; the same command goes on at the notebook it was in", file=sys.stderr
            )
            return 130
        if not done:
            return 1
    summary = progress.summary(options.profile, model, memory.peak)
    records.write_json(build / "summary.json", summary)
    progress.write_index(summary)
    progress.path.unlink()
    if options.publish:
        publish(build, summary, complete=not options.only)
    print(
        f"all done in {(time.perf_counter() - started) / 60:.1f} minutes; open {build / 'index.html'}"
    )
    return 0


def stages(sources: list[Path], *, scripts: bool) -> list[list[Path]]:
    """Return what is executed one stage after the other; what is in one stage side by side, two at a time.

    The `scripts` train what notebooks share. SemPA comes first and alone: its figures are on the index page at once.
    A GPU, or one core, has one at a time.
    """
    before = [HERE / f"{name}.py" for name in SCRIPTS if scripts]
    before = [script for script in before if script.is_file()]
    if (os.cpu_count() or 1) == 1 or torch.cuda.is_available():
        return [[one] for one in before + sources]
    places = {name: place for place, name in enumerate(SIDE_BY_SIDE)}

    def place(path: Path) -> int:
        return places.get(path.stem if path.stem in SCRIPTS else path.stem[:2], len(places))

    return [stage for stage in (before[:1], sorted(before[1:] + sources, key=place)) if stage]


def run_stage(stage: list[Path], progress: "Progress") -> bool:
    """Execute what is left of a stage; tell whether all of it is done. After an error nothing more is begun."""
    left = []
    for source in stage:
        if source.stem in progress.done:
            print(f"{source.stem}: done before the interruption", flush=True)
        else:
            left.append(source)
    with ThreadPoolExecutor(LANES) as lanes:
        alone = len(left) == 1
        try:
            return all(lanes.map(lambda source: progress.execute(source, alone=alone), left))
        except KeyboardInterrupt:  # which a kernel does not hear, and its lane would wait for it
            progress.stopped = True
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise


class Progress:
    """What of a run is done, in build/state.json, and the index page that shows it."""

    def __init__(self, build: Path, stages: list[list[Path]], key: str):
        self.build, self.stages, self.key = build, stages, key
        self.path, self.done, self.running = build / "state.json", {}, set()
        self.lock, self.began = threading.Lock(), time.perf_counter()
        self.stopped = False  # after an error or Ctrl-C, when nothing more is begun
        if self.path.is_file():
            state = json.loads(self.path.read_text(encoding="utf8"))
            if state["key"] == key:
                self.done = state["done"]
                self.began -= state.get("seconds", 0.0)
        for name in SCRIPTS.keys() & set(self.names) - self.done.keys():
            for left in (record_of(build, name), build / f"{name}.png"):
                left.unlink(missing_ok=True)  # what another run left is not this one's
        self.write_index()

    @property
    def names(self) -> list[str]:
        """All that is executed, in the order of the index page."""
        names = [source.stem for stage in self.stages for source in stage]
        return sorted(names, key=lambda name: (name not in SCRIPTS, name))

    @property
    def seconds(self) -> float:
        """How long the run has taken, what was done before an interruption included."""
        return round(time.perf_counter() - self.began, 1)

    def execute(self, source: Path, *, alone: bool) -> bool:
        """Execute one and keep what it took; the index page shows it before and after. False after an error."""
        with self.lock:
            if self.stopped:
                return False
            self.running.add(source.stem)
            self.write_index()
        run = execute if source.parent.name == "source" else execute_script
        cost = run(source, self.build, alone=alone)
        with self.lock:
            self.running.discard(source.stem)
            self.stopped |= cost is None
            if cost:
                self.done[source.stem] = cost
                state = {"key": self.key, "done": self.done, "seconds": self.seconds}
                with write_whole(self.path) as draft:
                    draft.write_text(json.dumps(state), encoding="utf8")
            self.write_index()
        return cost is not None

    def summary(self, profile: str, model: str, peak: int) -> records.RunRecord:
        """Return the record of the run: time, memory and headline of each part."""
        costs = {
            name: records.NotebookCost(**self.done[name], headline=headline_of(self.build, name))
            for name in self.names
        }
        notebooks = sum(name not in SCRIPTS for name in costs)
        return records.run_record(
            f"make_run_{profile}",
            costs,
            headline=f"{notebooks} notebooks in {self.seconds / 60:.1f} minutes, {peak / 2**30:.1f} GiB",
            origin=records.Origin({"name": model}),
        )

    def write_index(self, summary: records.RunRecord | None = None) -> None:
        """Write build/index.html as things stand; with the summary it is whole."""
        with write_whole(self.build / "index.html") as draft:
            draft.write_text(index_page(self, summary), encoding="utf8")


def execute_script(source: Path, build: Path, *, alone: bool) -> dict | None:
    """Run a script; return its cost, or None after an error. One that is not `alone` computes on one thread."""
    started = time.perf_counter()
    threads = {} if alone else dict.fromkeys(THREADS, "1")
    command = [sys.executable, str(source)]
    process = subprocess.Popen(command, cwd=HERE.parent, env=os.environ | threads)
    with FamilyMemory(lambda: process.pid) as memory:
        if process.wait():
            said = "what it said stands above. The same command goes on there."
            print(f"error: {source.stem}.py failed; {said}", file=sys.stderr)
            return None
    return {"seconds": round(time.perf_counter() - started, 1), "peak_memory_bytes": memory.peak}


def execute(source: Path, build: Path, *, alone: bool) -> dict | None:
    """Execute one notebook; write its copy and page; return its cost, or None after an error.

    One that is not `alone` computes on one thread.
    """
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    # Stable cell ids: the same source gives the same file.
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    done = 0

    def after_cell(cell, cell_index, execute_reply):
        nonlocal done
        done += 1
        if alone:
            print(
                f"\r{source.stem}: cell {done} of {total}, {time.perf_counter() - started:.0f} s ",
                end="",
                flush=True,
            )

    started = time.perf_counter()
    print(f"{source.stem}: starting", end="" if alone else "\n", flush=True)
    client = NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=600,  # a busy machine is slow, and not wrong
        kernel_name="python3",
        extra_arguments=[
            "--IPKernelApp.log_level=40"
        ],  # errors only; a warning about TCP is no news
        resources={"metadata": {"path": str(HERE)}},
        on_cell_executed=after_cell,
        coalesce_streams=True,  # else what is printed comes in as many pieces as the machine is slow
    )
    threads = {} if alone else dict.fromkeys(THREADS, "1")
    with FamilyMemory(lambda: client.km.provisioner.pid) as memory:
        try:
            client.execute(env=os.environ | threads)
        except (CellExecutionError, RuntimeError) as error:
            # At work, or before it had begun: each is an error of another library.
            died = "Kernel died" in str(error)
            if not died and not isinstance(error, CellExecutionError):
                raise
            nbformat.write(notebook, build / f"{source.stem}.ipynb")
            failed = f"{source.stem} failed after {time.perf_counter() - started:.0f} s"
            ended = "its kernel was ended, by Ctrl-C or by the system for want of memory"
            what = f"{ended}. The same command goes on there." if died else f"\n{error}"
            print(f"\nerror: {failed}: {what}", file=sys.stderr)
            return None
    cost = {"seconds": round(time.perf_counter() - started, 1), "peak_memory_bytes": memory.peak}
    tidy(notebook)
    with write_whole(build / f"{source.stem}.ipynb") as draft:
        nbformat.write(notebook, draft)
    with write_whole(build / f"{source.stem}.html") as draft:
        draft.write_text(page(notebook, source.stem), encoding="utf8")
    print(
        f"\r{source.stem}: {cost['seconds']:.0f} s, {memory.peak / 2**30:.1f} GiB" + " " * 24,
        flush=True,
    )
    return cost


class FamilyMemory:
    """Measure the highest memory that a process and its children hold inside a `with` block: `peak`, in bytes."""

    def __init__(self, number: Callable[[], int]):
        self.number, self.peak, self._done = number, 0, threading.Event()

    def _measure(self):
        while not self._done.wait(0.25):
            try:
                parent = psutil.Process(self.number())
                family = [parent, *parent.children(recursive=True)]
                self.peak = max(self.peak, sum(process.memory_info().rss for process in family))
            except (AttributeError, TypeError, psutil.Error):
                continue  # not yet started, or already gone

    def __enter__(self):
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def tidy(notebook) -> None:
    """Keep a progress bar's last state only, and drop execution times, so that a commit shows results."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = [
                    line.split("\r")[-1] for line in output.text.replace("\r\n", "\n").split("\n")
                ]
                output.text = "\n".join(lines)
                if output.name == "stderr" or not output.text.strip():
                    continue  # progress bars and library warnings; a failure is an error output
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                continue  # a widget's state is not kept, so a saved page could not show it
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    notebook.metadata.pop("widgets", None)


def page(notebook, title: str) -> str:
    """Return a notebook as a page that needs no network: its formulas become MathML."""
    notebook = nbformat.from_dict(notebook)
    copy = nbformat.reads(nbformat.writes(notebook), as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = with_mathml(output.data["text/markdown"])
    body, _ = exporter().from_notebook_node(copy, {"metadata": {"name": title}})
    # The template loads MathJax from an address; with MathML nothing is left for it to do.
    body = re.sub(
        r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", body, flags=re.DOTALL
    )
    # Its neighbours are pages too.
    body = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', body)
    return body.replace("</head>", f"<style>{STYLE}</style></head>", 1)


@functools.cache
def exporter() -> HTMLExporter:
    """Return what makes pages, once: each keeps the memory of its templates for good."""
    plain = {"mathjax_url": "", "require_js_url": "", "jquery_url": ""}  # nothing from the network
    return HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, **plain)


def with_mathml(text: str) -> str:
    """Replace $…$ and $$…$$ outside code by MathML, which every current browser shows by itself."""

    def formula(match):
        if match["code"]:
            return match["code"]
        display = match["display"] is not None
        # The converter does not know aligned; split looks the same.
        tex = (match["display"] or match["inline"]).strip().replace("{aligned}", "{split}")
        return to_mathml(tex, display="block" if display else "inline").replace("\n", " ")

    pattern = r"(?P<code>```.*?```|`[^`\n]*`)|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$"
    return re.sub(pattern, formula, text, flags=re.DOTALL)


STYLE = """
main, .jp-Notebook { max-width: 62rem; margin: 0 auto; }
.highlight pre { white-space: pre-wrap !important; }
.jp-RenderedHTMLCommon { font-family: Georgia, 'DejaVu Serif', serif; font-size: 17px; line-height: 1.55; }
.jp-RenderedHTMLCommon h1, .jp-RenderedHTMLCommon h2, .jp-RenderedHTMLCommon h3
  { font-family: system-ui, 'DejaVu Sans', sans-serif; }
.jp-RenderedHTMLCommon table { font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 14px; }
math { font-family: 'STIX Two Math', 'Cambria Math', 'Latin Modern Math', 'DejaVu Math TeX Gyre', 'STIX Math', math; }
math { font-size: 1.05em; } math[display=block] { margin: 0.8em 0; }
mtd[columnalign=left] { text-align: left; } mtd[columnalign=right] { text-align: right; }
"""


def index_page(progress: Progress, summary: records.RunRecord | None) -> str:
    """Return the page that links the notebooks' pages with a picture and a headline each, or says what they wait for.

    Until there is a summary the page loads itself anew.
    """
    environment = records.environment()
    machine, versions = environment["machine"], environment["versions"]
    where = machine["gpu"] or f"{machine['cores']} cores, {machine['memory_gigabytes']} GiB, no GPU"
    numbers = (
        '. Numbers are in <a href="summary.json">summary.json</a>'
        if summary
        else "; it is still running"
    )
    refresh = "" if summary else '<meta http-equiv="refresh" content="5">'
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>SemPA kit</title>{refresh}
<meta name="viewport" content="width=device-width"><style>
body {{ font: 16px/1.5 system-ui, 'DejaVu Sans', sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }}
.row {{ display: flex; gap: 1.5rem; align-items: center; padding: 1rem; margin: 1rem 0; border: 1px solid #ddd;
  border-radius: 8px; color: inherit; text-decoration: none; }}
.row:hover {{ border-color: #0072B2; }} .waits {{ opacity: .55; border-style: dashed; }}
.image {{ flex: 0 0 17rem; }} img {{ width: 100%; max-height: 9rem; object-fit: contain; }}
.first {{ display: block; border-color: #0072B2; }} .first img {{ max-height: 16rem; margin-top: .6rem; }}
h2 {{ font-size: 1.1rem; margin: 0; color: #0072B2; }} p {{ margin: .4rem 0; }} small {{ color: #666; }}
@media (max-width: 40rem) {{ .row {{ flex-direction: column; }} }}
</style><h1>SemPA kit: this run</h1>
<p>{html.escape(os.environ["SEMPA_COMMAND"])}, model {html.escape(os.environ["SEMPA_MODEL"])}; {html.escape(where)};
torch {versions["torch"]}, transformers {versions["transformers"]}, trl {versions["trl"]}{numbers}.</p>
{"".join(index_row(progress, name) for name in progress.names)}</html>
"""


def index_row(progress: Progress, name: str) -> str:
    """Return what the index page says of one part of the run."""
    build, cost = progress.build, progress.done.get(name)
    state = "running" if name in progress.running else "waits"
    took = (
        f"{cost['seconds'] / 60:.1f} min · {cost['peak_memory_bytes'] / 2**30:.1f} GiB"
        if cost
        else state
    )
    headline = html.escape(headline_of(build, name)) if cost else ""
    if name in SCRIPTS:
        picture = _image((build / f"{name}.png").read_bytes()) if cost else ""
        told = f"<h2>{SCRIPTS[name]}</h2><p><b>{headline}</b></p>{picture}<small>{took}</small>"
        return f'<div class="row first">{told}</div>'
    if not cost:
        title = html.escape(_title(jupytext.read(HERE / "source" / f"{name}.py")))
        return f'<div class="row waits"><h2>{title}</h2><small>{took}</small></div>'
    notebook = nbformat.read(build / f"{name}.ipynb", as_version=4)
    picture = _first_picture(notebook)
    return (
        f'<a class="row" href="{name}.html"><div class="image">{_image(picture) if picture else ""}</div><div>'
        f"<h2>{html.escape(_title(notebook))}</h2><p>{headline}</p><small>{took}</small></div></a>"
    )


def _image(picture: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def publish(build: Path, summary: records.RunRecord, complete: bool) -> None:
    """Copy the executed notebooks beside their sources and the records into results/.

    The summary of a run goes with them only if the run was of all notebooks: they then show its costs, not
    those of the run before.
    """
    names = [name for name in summary.figures if name not in SCRIPTS]
    for record in (record_of(build, name) for name in summary.figures):
        shutil.copyfile(record, records.committed_folder() / record.name)
    for name in names:
        shutil.copyfile(build / f"{name}.ipynb", HERE / f"{name}.ipynb")
    if complete:
        shown = {name: records.costs(name) for name in names}
        shutil.copyfile(build / "summary.json", records.committed_folder() / f"{summary.name}.json")
        for name, before in shown.items():
            replace_output(HERE / f"{name}.ipynb", before, records.costs(name))


def replace_output(path: Path, before: str, after: str) -> None:
    """Put `after` in the place of the Markdown output `before` of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).get("text/markdown") == before:
                output["data"]["text/markdown"] = after
    with write_whole(path) as draft:
        nbformat.write(notebook, draft)


def record_of(build: Path, name: str) -> Path:
    """Return where a part of the run leaves its record."""
    return build / "records" / f"{'effect' if name in SCRIPTS else 'notebook'}_{name}.json"


def headline_of(build: Path, name: str) -> str:
    """Return the headline of a part's record, or nothing where it has left none."""
    path = record_of(build, name)
    return records.load_run(path).headline if path.is_file() else ""


def _title(notebook) -> str:
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def _first_picture(notebook) -> bytes | None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


if __name__ == "__main__":
    sys.exit(main())
