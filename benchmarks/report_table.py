"""What the tables of RESULTS.md are made with: a register of them, Markdown, and when something was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Best = Mapping[str, Callable[..., float]]                              # by the head of a column: max or min
NUMBER = re.compile(r"[-+−]?\d*\.?\d+")


@dataclass(frozen=True)
class Table:
    """A placeholder of the page; `make` gets what results/FILE.json holds of each file, None for an absent optional one."""

    title: str
    files: tuple[str, ...]
    optional: tuple[str, ...]
    make: Callable[..., str]


TABLES: dict[str, Table] = {}                                    # by placeholder


def table(title: str, *files: str, optional: tuple[str, ...] = ()) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a function under its own name, with - for _, as the table of that placeholder."""

    def register(make: Callable[..., str]) -> Callable[..., str]:
        TABLES[make.__name__.replace("_", "-")] = Table(title, files, optional, make)
        return make

    return register


def markdown(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; cells are shown as they are."""
    lines = [f"| {' | '.join(map(str, line))} |" for line in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def bold_best(text: str, best: Best) -> str:
    """The same text with the best first number of a column in bold, in every table that has a head of `best`."""
    lines = text.split("\n")
    for start in (i for i in range(len(lines) - 1) if lines[i].startswith("|") and lines[i + 1].startswith("|---")):
        heads, end = _cells(lines[start]), start + 2
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        rows = [_cells(line) for line in lines[start + 2:end]]
        for column in (j for j, head in enumerate(heads) if head in best):
            found = {i: _number(row[column]) for i, row in enumerate(rows)}
            known = {i: value for i, value in found.items() if value is not None}
            for i in known:
                if len(known) > 1 and known[i] == best[heads[column]](list(known.values())):
                    rows[i][column] = NUMBER.sub(lambda match: f"**{match[0]}**", rows[i][column], count=1)
        lines[start + 2:end] = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _number(cell: str) -> float | None:
    match = NUMBER.match(cell)
    return float(match[0].replace("−", "-")) if match else None


def models_of(rows: dict[str, Any], order: Iterable[str]) -> list[str]:
    """Those of `order` that a file has, where rows are "…/model"."""
    present = {key.rsplit("/", 1)[-1] for key in rows}
    return [model for model in order if model in present]


def interval(values: Sequence[float], digits: int = 3) -> str:
    """A mean with its 95 % interval."""
    mean, low, high = (f"{value:.{digits}f}".replace("-", "−") for value in values)
    return f"{mean} ({low} … {high})"


def seconds(value: float) -> str:
    """Two significant digits: "0.0041", "12"."""
    return f"{value:.0f}" if value >= 10 else f"{float(f'{value:.2g}'):f}".rstrip("0").rstrip(".")


def when(record: Record) -> str:
    """Dates and machine of a file of results, for the line above its table."""
    computed = record.get("computed")
    if computed:
        return "; ".join(sorted(set(computed.values() if isinstance(computed, dict) else [computed])))
    dates = sorted(set(_values(record, "date")))
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return ", ".join([span, *list(dict.fromkeys(_values(record, "machine")))[:1]])


def _values(record: Any, key: str) -> Iterator[str]:
    """Strings under this key, wherever they are."""
    if isinstance(record, dict):
        if isinstance(record.get(key), str):
            yield record[key]
        for value in record.values():
            yield from _values(value, key)
