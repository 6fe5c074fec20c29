"""Turn the scripts beside this file into executed notebooks: `python notebooks/build.py [NAME …]`.

A script is divided by lines `# %%` (code) and `# %% [markdown]` (text, commented out); magics are commented out, too.
Needs pip install pfnkit[notebooks].
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image  # matplotlib needs it

HERE = Path(__file__).resolve().parent
LARGEST = 300_000                                                   # bytes that a notebook may add to the repository


def read(script: Path) -> nbformat.NotebookNode:
    """The cells of a script, without outputs."""
    cells = []
    for number, part in enumerate(re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]):
        kind, _, body = part.partition("\n")
        if "markdown" in kind:
            cell = nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            cell = nbformat.v4.new_code_cell(re.sub(r"^# (%\w)", r"\1", body.strip(), flags=re.MULTILINE))
        cell["id"] = f"cell-{number}"                               # otherwise random, and every build a difference
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def shrink(notebook: nbformat.NotebookNode, n_colours: int = 32) -> None:
    """Reduce pictures to a palette, which plots do not suffer from: a quarter of the bytes."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB")
                file = io.BytesIO()
                picture.quantize(n_colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()


def build(script: Path) -> None:
    notebook = read(script)
    NotebookClient(notebook, timeout=3600, record_timing=False, resources={"metadata": {"path": str(HERE.parent)}}).execute()
    shrink(notebook)
    target = script.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    size = target.stat().st_size
    print(f"{target}: {size / 1e3:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{target} is larger than {LARGEST / 1e3:.0f} kB; draw fewer panels or lower the resolution.")


if __name__ == "__main__":
    scripts = [HERE / f"{name}.py" for name in sys.argv[1:]] or sorted(set(HERE.glob("*.py")) - {Path(__file__).resolve()})
    for script in scripts:
        build(script)
