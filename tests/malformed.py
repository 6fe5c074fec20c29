"""What the tests of files that nobody vouches for share."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

STATM = Path("/proc/self/statm")


@contextmanager
def little_memory(mebibytes=400):
    """So much more than now; who wants more gets a MemoryError or torch's RuntimeError. No limit where /proc is missing."""
    if not STATM.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(STATM.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + mebibytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def brief(value):
    return repr(value)[:50]


def refused(load, path, match=".", kind=ValueError):
    """`load` raises an error that names the file, is no novel, and does not come from a lack of memory."""
    with pytest.raises(kind, match=match) as caught:
        load(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1500
    error = caught.value
    while error is not None:
        assert not isinstance(error, MemoryError)
        assert "allocate" not in str(error)
        error = error.__cause__
