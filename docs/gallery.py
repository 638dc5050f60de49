"""Render the executed notebooks of a run as Markdown with figures into docs/gallery: `make
gallery`.

The gallery is committed, so that somebody who only browses the repository sees what the notebooks
show. Usage: python docs/gallery.py [reports/<run>]; the run that ended last by default.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from lib.files import read_json, write_bytes, write_text

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
MAX_MB = 3.0  # of all of it: what is committed is cloned by everybody
N_COLOURS = 64  # of a figure's palette; a third of the bytes of full colour


def main(run_dir: str = "") -> None:
    """Write one page for each executed notebook of the run, and an index."""
    run = Path(run_dir) if run_dir else (ROOT / "reports" / "latest").resolve()
    notebooks = sorted((run / "notebooks").glob("*.ipynb"))
    if not notebooks:
        sys.exit(f"{run} holds no executed notebooks; run `make pipeline` first.")
    shutil.rmtree(GALLERY, ignore_errors=True)
    titles = {path.stem: rendered(path, notebooks) for path in notebooks}
    metrics = read_json(run / "metrics.json", {})
    write_text(GALLERY / "README.md", index(titles, metrics))
    size_mb = sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file()) / 1e6
    if size_mb > MAX_MB:
        sys.exit(f"docs/gallery has {size_mb:.1f} MB, more than {MAX_MB:g}: draw smaller figures.")
    print(f"docs/gallery: {len(titles)} pages, {size_mb:.1f} MB")


def rendered(path: Path, notebooks: list[Path]) -> str:
    """Write one notebook's page and its figures; return its title."""
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = without_paths(cell.source)
        for output in cell.get("outputs", []):
            keep_what_markdown_shows(output)
    body, resources = MarkdownExporter().from_notebook_node(book)
    for name, content in resources.get("outputs", {}).items():
        figure = f"{path.stem}-{name.removeprefix('output_')}"
        body = body.replace(f"]({name})", f"]({figure})")
        write_bytes(GALLERY / figure, slim(content))
    body = re.sub(r"\n{3,}", "\n\n", body)
    write_text(GALLERY / f"{path.stem}.md", f"{links(path, notebooks)}\n\n{body.strip()}\n")
    return next(cell.source for cell in book.cells).partition("\n")[0].removeprefix("# ")


def without_paths(parameters: str) -> str:
    """Return the parameters that the runner has set, less the folders of one machine."""
    return "\n".join(line for line in parameters.splitlines() if not re.search(r"= [\"']/", line))


def keep_what_markdown_shows(output: dict) -> None:
    """Drop style sheets of tables and drawings that stand beside a PNG: GitHub shows neither."""
    data = output.get("data", {})
    if "text/html" in data:
        data["text/html"] = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.S).strip()
    if "image/png" in data:
        data.pop("image/svg+xml", None)


def slim(png: bytes) -> bytes:
    """Return a PNG with a palette instead of full colour."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(N_COLOURS)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def links(path: Path, notebooks: list[Path]) -> str:
    """Return the line above a page: the page before, all pages, the source, the page after."""
    at = notebooks.index(path)
    before = [f"[← {p.stem}]({p.stem}.md)" for p in notebooks[max(at - 1, 0) : at]]
    after = [f"[{p.stem} →]({p.stem}.md)" for p in notebooks[at + 1 : at + 2]]
    name = path.stem.partition("@")[0]
    source = f"[source](../../notebooks/{name}.ipynb)"
    return " · ".join([*before, "[all notebooks](README.md)", source, *after])


def index(titles: dict[str, str], metrics: dict) -> str:
    """Return the page that lists the others."""
    lines = [f"- [{title}]({stem}.md)" for stem, title in titles.items()]
    source = metrics.get("source", "unknown")
    data = f"{metrics.get('dataset')} ({source})"
    about = f"Notebooks of one run as they look when they have run. Data: {data}."
    return "\n".join(["# Gallery", "", about, "", *lines, ""])


if __name__ == "__main__":
    main(*sys.argv[1:])
