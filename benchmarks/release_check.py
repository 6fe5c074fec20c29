"""Build wheel and sdist, look into both, install the wheel with no checkout on the path, and run the sdist's tests there.

    make dist                                                        # or: python benchmarks/release_check.py
    python benchmarks/release_check.py --tests tests/pfn tests/test_house.py     # some of the tests; none: build and look
    python benchmarks/release_check.py --keep /tmp/release           # keep the environment; a second run uses it again

Needs `build` and `twine`. The tests run in the unpacked sdist, from which the three packages are removed first, so that they
can only be imported from the wheel. Examples in docstrings are not run here, as they are found in the packages.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("priors", "pfn", "estimators")
MAX_WHEEL_MIB = 45
MAX_IMPORT_SECONDS = 2.5
NEEDED_BY_TESTS = (
    "pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "matplotlib>=3.8", "tensorboard>=2.20", "pyarrow>=14",
    "nbformat>=5.9",
)


def call(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(one) for one in command], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done.stdout


def clean_copy(folder: Path) -> None:
    """The files that git knows or would add, so that leftovers of earlier builds do not count."""
    for name in call("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def check_wheel(wheel: Path, copy: Path) -> list[str]:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    weights = [name for name in names if name.startswith("pfn/weights/")]
    wanted = sorted(f"pfn/weights/{path.name}" for path in (copy / "pfn" / "weights").glob("*.safetensors"))
    modules = {str(path.relative_to(copy)) for package in PACKAGES for path in (copy / package).glob("*.py")}
    problems = [f"the wheel has {sorted(other)} at its top"] if (
        other := {top for top in tops if top not in PACKAGES and not top.endswith(".dist-info")}) else []
    problems += [f"weights are {weights}, not {wanted}"] if sorted(weights) != wanted else []
    problems += [f"lacks {name}" for name in sorted(modules - set(names))]
    problems += [f"lacks {package}/py.typed" for package in PACKAGES if f"{package}/py.typed" not in names]
    problems += [] if any(name.endswith("LICENSE") for name in names) else ["lacks LICENSE"]
    size = wheel.stat().st_size / 2**20
    return problems + ([f"{size:.1f} MiB are more than {MAX_WHEEL_MIB}"] if size > MAX_WHEEL_MIB else [])


def check_sdist(sdist: Path, copy: Path) -> list[str]:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = (*PACKAGES, "tests", "benchmarks", "notebooks", "docs")
    wanted = [str(path.relative_to(copy)) for folder in folders for path in (copy / folder).rglob("*") if path.is_file()]
    wanted += ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml", "constraints.txt"]
    return [f"the sdist lacks {name}" for name in wanted if name not in names]


def import_seconds(python: Path, modules: str, times: int = 7) -> dict[str, float]:
    """Wall and CPU time of the import in fresh interpreters, medians."""
    code = (f"import time; wall, cpu = time.perf_counter(), time.process_time(); import {modules}; "
            "print(time.perf_counter() - wall, time.process_time() - cpu)")
    wall, cpu = zip(*(map(float, call(python, "-I", "-c", code, cwd=Path("/")).split()) for _ in range(times)), strict=True)
    return {"wall": round(statistics.median(wall), 2), "cpu": round(statistics.median(cpu), 2)}


def environment(folder: Path, wheel: Path) -> Path:
    python = folder / "bin" / "python"
    if not python.exists():
        call(sys.executable, "-m", "venv", folder)
    pip = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    call(*pip, "--upgrade", f"{wheel}[plot]", *NEEDED_BY_TESTS)
    call(*pip, "--force-reinstall", "--no-deps", wheel)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", nargs="*", default=["tests"], metavar="PATH", help="default: all but the slow ones")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where wheel and sdist go")
    parser.add_argument("--keep", type=Path, help="folder of the environment; default: a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "release.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clean_copy(folder / "copy")
        shutil.rmtree(args.dist, ignore_errors=True)
        call(sys.executable, "-m", "build", "--outdir", args.dist.resolve(), cwd=folder / "copy")
        (wheel,), (sdist,) = args.dist.glob("*.whl"), args.dist.glob("*.tar.gz")
        call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
        problems = check_wheel(wheel, folder / "copy") + check_sdist(sdist, folder / "copy")
        record: dict[str, object] = {
            "date": str(datetime.date.today()), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "wheel": wheel.name, "wheel_mib": round(wheel.stat().st_size / 2**20, 1),
            "sdist_mib": round(sdist.stat().st_size / 2**20, 1),
        }
        print(json.dumps(record, indent=1), *problems, sep="\n", flush=True)
        if problems:
            sys.exit(1)
        python = environment((args.keep or folder / "venv").resolve(), wheel.resolve())
        where = call(python, "-I", "-c", "import pfn; print(pfn.__file__)", cwd=Path("/")).strip()
        assert str(python.parents[1]) in where, where
        modules = ("torch", "torch, pandas, sklearn.base", *PACKAGES)
        record["import_seconds"] = {name: import_seconds(python, name) for name in modules}
        print(json.dumps(record, indent=1), flush=True)
        if args.tests:
            with tarfile.open(sdist) as archive:
                archive.extractall(folder, filter="data")
            unpacked = folder / sdist.name.removesuffix(".tar.gz")
            for package in PACKAGES:
                shutil.rmtree(unpacked / package)
            pytest = (python.parent / "pytest", "-q", "-n", "auto", "--dist", "loadfile", "-m", "not slow")
            done = subprocess.run([*pytest, *args.tests], cwd=unpacked)
            record["tests"] = {"of": args.tests, "passed": done.returncode == 0}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        seconds = record["import_seconds"]["estimators"]["wall"]  # type: ignore[index]
        if seconds > MAX_IMPORT_SECONDS:
            print(f"import estimators takes {seconds} s, more than {MAX_IMPORT_SECONDS}")
        sys.exit(seconds > MAX_IMPORT_SECONDS or bool(args.tests and done.returncode))


if __name__ == "__main__":
    main()
