"""Write RESULTS.md: the prose of RESULTS.in.md, with every table made from the files in results/.

    python benchmarks/report.py                                     # writes benchmarks/RESULTS.md
    python benchmarks/report.py --check                             # exit code 1 if RESULTS.md is not what the results give
    python benchmarks/report.py --results DIR --bare --out FILE     # the tables that DIR has, without prose

`{{name}}` in RESULTS.in.md is a table: a function of that name in a `report_*.py`. `{{when FILE}}` says when and on what
machine results/FILE.json was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import report_bayes
import report_cost
import report_quality
import report_search
import report_summary
from report_table import TABLES, Record, when

MODULES = (report_summary, report_quality, report_bayes, report_search, report_cost)     # importing them fills TABLES
HERE = Path(__file__).resolve().parent
PLACEHOLDER = re.compile(r"\{\{(?:when )?([\w-]+)\}\}")


def read(results: Path, name: str) -> Record | None:
    """What results/NAME.json holds; None if it is not there."""
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def make(name: str, results: Path) -> str | None:
    """The table of a placeholder; None if a file that it needs is missing, or all that it could use."""
    table = TABLES[name]
    needed, optional = ([read(results, file) for file in files] for files in (table.files, table.optional))
    if None in needed or not any((*needed, *optional)):
        return None
    return table.make(*needed, *optional)


def placeholders(template: str) -> list[str]:
    """Names of the tables, in the order of the page."""
    return [match[1] for match in PLACEHOLDER.finditer(template) if not match[0].startswith("{{when ")]


def page(template: str, results: Path) -> str:
    """The template with its placeholders filled.

    Raises
    ------
    ValueError
        If a placeholder has no table, or a file of results is missing.
    """
    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if match[0].startswith("{{when "):
            record = read(results, name)
            text = None if record is None else when(record)
        elif name in TABLES:
            text = make(name, results)
        else:
            raise ValueError(f"{match[0]}: no such table; there are {', '.join(sorted(TABLES))}.")
        if text is None:
            raise ValueError(f"{match[0]}: a file is missing in {results}; run its script, or `benchmarks/run_all.py`.")
        return text

    return PLACEHOLDER.sub(fill, template)


def bare_page(template: str, results: Path, heading: str) -> str:
    """The template's tables whose files are there, each under its title."""
    made = {TABLES[name].title: make(name, results) for name in placeholders(template)}
    return "\n\n".join([heading, *(f"## {title}\n\n{text}" for title, text in made.items() if text is not None)]) + "\n"


def used(template: str) -> set[str]:
    """Names of the files of results, without their ending, that the template's tables read."""
    return {file for name in placeholders(template) for file in (*TABLES[name].files, *TABLES[name].optional)}


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--template", type=Path, default=HERE / "RESULTS.in.md")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    parser.add_argument("--bare", action="store_true", help="tables alone; those whose results are missing are left out")
    parser.add_argument("--heading", default="# Results", help="of the bare page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page would change")
    args = parser.parse_args(None if arguments is None else list(arguments))
    template = args.template.read_text()
    text = bare_page(template, args.results, args.heading) if args.bare else page(template, args.results)
    if args.check:
        if args.out.exists() and args.out.read_text() == text:
            return 0
        print(f"{args.out} is not what {args.results} gives; run `python benchmarks/report.py`.", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
