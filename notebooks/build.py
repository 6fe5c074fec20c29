"""Turn the scripts beside this file into executed notebooks: `python notebooks/build.py [NAME …]`.

A script is divided by lines `# %%` (code) and `# %% [markdown]` (text, commented out); magics are commented out, too.
Needs pip install pfnkit[notebooks].
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import nbformat

HERE = Path(__file__).resolve().parent
LARGEST = 300_000                                                   # bytes that a notebook may add to the repository


def scripts() -> list[Path]:
    """Of all notebooks."""
    return sorted(set(HERE.glob("*.py")) - {Path(__file__).resolve()})


def cells_of(script: Path) -> list[tuple[str, str]]:
    """Kind ("markdown" or "code") and text of each cell."""
    cells = []
    for part in re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        kind = "markdown" if "markdown" in heading else "code"
        comment, replacement = (r"^# ?", "") if kind == "markdown" else (r"^# (%\w)", r"\1")
        cells.append((kind, re.sub(comment, replacement, body.strip(), flags=re.MULTILINE)))
    return cells


def read(script: Path) -> nbformat.NotebookNode:
    """A notebook of the script's cells, without outputs."""
    import nbformat

    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make[kind](text) for kind, text in cells_of(script)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"                               # otherwise random, and every build a difference
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def shrink(notebook: nbformat.NotebookNode, n_colours: int = 32) -> None:
    """Reduce pictures to a palette, which plots do not suffer from: a quarter of the bytes."""
    from PIL import Image  # matplotlib needs it

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
                file = io.BytesIO()
                picture.quantize(n_colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()


def build(script: Path) -> None:
    """Execute a script's notebook and write it beside the script."""
    import nbformat
    from nbclient import NotebookClient

    notebook = read(script)
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"      # tqdm misses widgets that no committed page can show
    where = {"metadata": {"path": str(HERE.parent)}}
    NotebookClient(notebook, timeout=3600, record_timing=False, coalesce_streams=True, resources=where).execute()
    shrink(notebook)
    target = script.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    size = target.stat().st_size
    print(f"{target}: {size / 1e3:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{target} is larger than {LARGEST / 1e3:.0f} kB; draw fewer panels or lower the resolution.")


if __name__ == "__main__":
    for script in [HERE / f"{name}.py" for name in sys.argv[1:]] or scripts():
        build(script)
