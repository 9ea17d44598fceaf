"""Build, execute and publish the notebooks; `make run` calls this.

From each percent script in notebooks/source/ comes, in build/, an executed notebook and an HTML page;
build/index.html links them with their headline figures and build/summary.json holds time and memory.
An interrupted run goes on at the notebook it was in.
"""

import argparse
import base64
import html
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import jupytext
import nbformat
import psutil
from latex2mathml.converter import convert as to_mathml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from sempa_utils import __version__, models, profiles, records
from sempa_utils.checks import InputError, fingerprint, write_whole

HERE = Path(__file__).parent


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
    state_path = build / "state.json"
    texts = [path.read_text(encoding="utf8") for path in sources]
    data = os.environ.get("SEMPA_DATA_DIR")
    state = _read_state(state_path, fingerprint(__version__, options.profile, model, data, *texts))
    for source in sources:
        if source.stem in state["done"]:
            print(f"{source.stem}: done before the interruption", flush=True)
            continue
        cost = execute(source, build)
        if cost is None:
            return 1
        state["done"][source.stem] = cost
        with write_whole(state_path) as draft:
            draft.write_text(json.dumps(state), encoding="utf8")

    costs = {
        name: records.NotebookCost(**cost, headline=_headline(build, name))
        for name, cost in state["done"].items()
    }
    minutes = sum(cost.seconds for cost in costs.values()) / 60
    summary = records.run_record(
        f"make_run_{options.profile}",
        costs,
        headline=f"{len(sources)} notebooks in {minutes:.1f} minutes",
        origin=records.Origin({"name": model}),
    )
    records.write_json(build / "summary.json", summary)
    with write_whole(build / "index.html") as draft:
        draft.write_text(index_page(summary, build), encoding="utf8")
    state_path.unlink()
    if options.publish:
        publish(build, summary, complete=not options.only)
    print(
        f"all done in {(time.perf_counter() - started) / 60:.1f} minutes; open {build / 'index.html'}"
    )
    return 0


def execute(source: Path, build: Path) -> dict | None:
    """Execute one notebook; write its copy and page; return its cost, or None after an error."""
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
        print(
            f"\r{source.stem}: cell {done} of {total}, {time.perf_counter() - started:.0f} s ",
            end="",
            flush=True,
        )

    started = time.perf_counter()
    print(f"{source.stem}: starting", end="", flush=True)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=[
            "--IPKernelApp.log_level=40"
        ],  # errors only; a warning about TCP is no news
        resources={"metadata": {"path": str(HERE)}},
        on_cell_executed=after_cell,
    )
    with KernelMemory(client) as memory:
        try:
            client.execute()
        except CellExecutionError as error:
            nbformat.write(notebook, build / f"{source.stem}.ipynb")
            print(
                f"\n{source.stem}: FAILED after {time.perf_counter() - started:.0f} s\n{error}",
                file=sys.stderr,
            )
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


class KernelMemory:
    """Measure the highest memory that a client's kernel holds inside a `with` block: `peak`, in bytes."""

    def __init__(self, client: NotebookClient):
        self.client, self.peak, self._done = client, 0, threading.Event()

    def _measure(self):
        while not self._done.wait(0.25):
            try:
                kernel = psutil.Process(self.client.km.provisioner.pid)
                family = [kernel, *kernel.children(recursive=True)]
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
    plain = {"mathjax_url": "", "require_js_url": "", "jquery_url": ""}  # nothing from the network
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, **plain)
    body, _ = exporter.from_notebook_node(copy, {"metadata": {"name": title}})
    # The template loads MathJax from an address; with MathML nothing is left for it to do.
    body = re.sub(
        r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", "", body, flags=re.DOTALL
    )
    return body.replace("</head>", f"<style>{STYLE}</style></head>", 1)


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


def index_page(summary: records.RunRecord, build: Path) -> str:
    """Return the page that links the notebooks' pages with a picture and a headline each."""
    rows = []
    for name, cost in summary.figures.items():
        picture = _first_picture(build / f"{name}.ipynb")
        image = f'<img alt="" src="data:image/png;base64,{picture}">' if picture else ""
        rows.append(
            f'<a class="row" href="{name}.html"><div class="image">{image}</div><div>'
            f"<h2>{html.escape(_title(build / f'{name}.ipynb'))}</h2><p>{html.escape(cost.headline)}</p>"
            f"<small>{cost.seconds / 60:.1f} min · {cost.peak_memory_bytes / 2**30:.1f} GiB</small></div></a>"
        )
    machine, versions = summary.machine, summary.versions
    where = machine["gpu"] or f"{machine['cores']} cores, {machine['memory_gigabytes']} GiB, no GPU"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>SemPA kit</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font: 16px/1.5 system-ui, 'DejaVu Sans', sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }}
.row {{ display: flex; gap: 1.5rem; align-items: center; padding: 1rem; margin: 1rem 0; border: 1px solid #ddd;
  border-radius: 8px; color: inherit; text-decoration: none; }}
.row:hover {{ border-color: #0072B2; }}
.image {{ flex: 0 0 17rem; }} img {{ width: 100%; max-height: 9rem; object-fit: contain; }}
h2 {{ font-size: 1.1rem; margin: 0; color: #0072B2; }} p {{ margin: .4rem 0; }} small {{ color: #666; }}
@media (max-width: 40rem) {{ .row {{ flex-direction: column; }} }}
</style><h1>SemPA kit: this run</h1>
<p>{html.escape(summary.command)}, model {html.escape(summary.model["name"])}; {html.escape(where)};
torch {versions["torch"]}, transformers {versions["transformers"]},
trl {versions["trl"]}. Numbers are in <a href="summary.json">summary.json</a>.</p>
{"".join(rows)}</html>
"""


def publish(build: Path, summary: records.RunRecord, complete: bool) -> None:
    """Copy the executed notebooks beside their sources and the records into results/.

    The summary of a run goes with them only if the run was of all notebooks: they then show its costs, not
    those of the run before.
    """
    for name in summary.figures:
        shutil.copyfile(build / f"{name}.ipynb", HERE / f"{name}.ipynb")
        record = build / "records" / f"notebook_{name}.json"
        shutil.copyfile(record, records.committed_folder() / record.name)
    if complete:
        shown = {name: records.costs(name) for name in summary.figures}
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


def _read_state(path: Path, key: str) -> dict:
    if path.is_file():
        state = json.loads(path.read_text(encoding="utf8"))
        if state["key"] == key:
            return state
    return {"key": key, "done": {}}


def _headline(build: Path, name: str) -> str:
    path = build / "records" / f"notebook_{name}.json"
    return records.load_run(path).headline if path.is_file() else ""


def _title(path: Path) -> str:
    first = nbformat.read(path, as_version=4).cells[0].source
    return first.splitlines()[0].lstrip("# ")


def _first_picture(path: Path) -> str | None:
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture = output.data["image/png"].replace("\n", "")
                base64.b64decode(picture, validate=True)
                return picture
    return None


if __name__ == "__main__":
    sys.exit(main())
