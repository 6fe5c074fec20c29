"""Files that are replaced in one step, and JSON from files that nobody vouches for."""

from __future__ import annotations

import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**26                                              # parsed, it takes up to thirty times its size
STALE_SECONDS = 600.0                                               # nobody writes a file without touching it for so long
_ENDING = ".pfnkit-tmp"
# What building objects from the content of a file may raise if the content is wrong.
CONTENT_ERRORS = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a file to write, in a folder beside `path`; the file takes the place of `path` when the block ends.

    Readers see the old file or the whole new one, also if the process is killed or the power fails. A killed process leaves
    its folder behind; the next one that replaces the same `path`, ten minutes later or more, removes it.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full; `path` is as it was.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder, as libraries that write the file may put temporary files of their own beside it.
    folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_ENDING}")
    folder.mkdir()
    try:
        _remove_stale(target, folder.stat().st_mtime)
        made = folder / target.name
        yield made
        made.chmod(folder.stat().st_mode & 0o666)                   # as the user's umask says
        with open(made, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(made, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror} (what was there before, if anything, stands)", str(target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(target: Path, now: float) -> None:
    """Remove what killed processes left beside `target`; `now` is by the clock of the file system."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*{_ENDING}"):
        try:
            touched = max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
        except OSError:
            continue                                                # another process was quicker
        if now - touched > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file in one step; ValueError if it is too large for `read_json`."""
    text = json.dumps(value, indent=1) + "\n"
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{os.fspath(path)!r} would have {len(text):,} bytes, the limit is {MAX_JSON_BYTES:,}.")
    with replacing(path) as made:
        made.write_text(text, encoding="ascii")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Inverse of `write_json`; FileNotFoundError if there is no such file, else ValueError."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {str(source)!r}.")
    if source.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"it has {source.stat().st_size:,} bytes, the limit is {MAX_JSON_BYTES:,}")
    return parse_json(source.read_text(encoding="utf-8"))


def checked_counts(counts: dict[str, int], most: int = 10**6) -> None:
    """ValueError if a number from a file is negative or would make whoever uses it fill the memory."""
    for name, value in counts.items():
        if not 0 <= value <= most:
            raise ValueError(f"{name}={value} is not between 0 and {most:,}")


def parse_json(text: str) -> Any:
    """Parse JSON; ValueError if it is none, is nested too deeply, or has a name twice in one object."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it has {twice[:80]!r} twice")
    return values
