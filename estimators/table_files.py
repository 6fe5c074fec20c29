"""Tables in files, by their endings: CSV and TSV, plain or gzipped, and Parquet; what is written appears in one step."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from pfn.files import replacing

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_ENDINGS = ".csv, .csv.gz, .tsv, .tsv.gz or .parquet"
_DATE = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?"


def table_format(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The ending without ".gz", and the compression.

    Raises
    ------
    ValueError
        If it is none of those that are known.
    """
    name = Path(path).name.lower()
    ending = Path(name.removesuffix(".gz")).suffix
    if ending in _SEPARATORS:
        return ending, "gzip" if name.endswith(".gz") else None
    if name.endswith(".parquet"):
        return ".parquet", None
    raise ValueError(f"{os.fspath(path)!r} is no table that is known by its ending; use {_ENDINGS}.")


def read_table(path: str | os.PathLike[str], text: Collection[str] = ()) -> pd.DataFrame:
    """The table of a file; columns of a CSV that hold nothing but ISO 8601 dates become dates.

    Parameters
    ----------
    path : str or path-like
        Of this machine; addresses are not followed.
    text : collection of str
        Columns of a CSV that stay as they are written: category "1" beside gaps would be read as 1.0.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If its ending is unknown or its content is no such table.
    ImportError
        If it is Parquet and pyarrow is not installed.
    """
    ending, compression = table_format(path)
    try:
        with open(path, "rb") as file:                              # pandas would follow addresses
            if ending == ".parquet":
                frame = pd.read_parquet(file).reset_index(drop=True)
            else:
                frame = pd.read_csv(file, sep=_SEPARATORS[ending], compression=compression, encoding="utf-8-sig",
                                    dtype=dict.fromkeys(text, str), low_memory=False)
        if not isinstance(frame.index, pd.RangeIndex):              # pandas took the first cells for names of the rows
            raise ValueError("its rows have more cells than its header")
    except ImportError as error:
        raise _no_pyarrow(path) from error
    except (ValueError, EOFError, zlib.error) as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be read as {ending[1:]}: {str(error).strip()}") from error
    frame.columns = frame.columns.map(str)
    return frame if ending == ".parquet" else _with_dates(frame, text)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str] | None) -> None:
    """Write a table to a file, which is replaced in one step; None prints it as CSV."""
    if path is None:
        frame.to_csv(sys.stdout, index=False)
        return
    ending, compression = table_format(path)
    try:
        with replacing(path) as made:
            if ending == ".parquet":
                frame.to_parquet(made, index=False)
            else:
                options: dict[str, Any] = {"sep": _SEPARATORS[ending], "compression": compression}
                frame.to_csv(made, index=False, **options)
    except ImportError as error:
        raise _no_pyarrow(path) from error


def _no_pyarrow(path: str | os.PathLike[str]) -> ImportError:
    return ImportError(f"{os.fspath(path)!r} is Parquet, which needs pyarrow: pip install pyarrow, or use .csv.")


def _with_dates(frame: pd.DataFrame, text: Collection[str]) -> pd.DataFrame:
    for name in frame.columns:
        present = frame[name].dropna()
        if name in text or pd.api.types.is_numeric_dtype(present.dtype) or present.empty:
            continue
        if present.map(lambda value: isinstance(value, str)).all() and present.str.fullmatch(_DATE).all():
            dates = pd.to_datetime(frame[name], format="ISO8601", utc=True, errors="coerce")
            if dates.notna().sum() == len(present):
                frame[name] = dates
    return frame
