"""Fit and predict times, one more row, and memory of PFNClassifier, CatBoost and the peers' own code, on CPU threads.

Speed does not depend on what the weights are, so the peers get random ones, in checkpoints of their own format, which their
scikit-learn estimators load at every `fit`. Estimators are at their defaults. Sizes of the networks:

- TabPFN 9.2, default version v3.5: 219.0 million parameters, the defaults of `TabPFNV3p5Config` ("the v3.5 pre-release
  checkpoint's config", it says) with 160 classes. The released checkpoint also carries its preprocessing, which the package
  does not tell: here it is v2.5's, the newest in the package. `tabpfn-v3` is 53.1 million (`TabPFNV3Config`), `tabpfn-v2`
  7.2 million (`TabPFNV2Config`, preprocessing of v2). All: 8 members.
- TabICL 2.2, TabICLv2: 27.6 million, the defaults of its class `TabICL`; LightPFN's README says 28. 8 members.
- LightPFN 1.1: 4,603,088, as its README says; that is recipe "B4" in the docstring of its `Config`. 4 members.

"-cached" are TabPFN with `fit_mode="fit_with_cache"` and TabICL with `kv_cache=True`, which are not defaults: `fit` reads
the context then, and predicting does not read it again. TabPFN refuses more than 5000 context rows on CPUs (v2: 1000); it is
then measured with TABPFN_ALLOW_CPU_LARGE_DATASET=1, and the table says so.

As many rows are predicted as are fitted. Each measurement is a process of its own: imports, a first fit and predict, five
predictions of one row, two more fits and predictions if they are fast. The processes take turns, `--repeats` times; of what
is slower than `--slow` seconds there is one. Seconds are medians without the first calls, in which kernels are planned,
where there are others. "share" is one row's time over that of fit and predict of all rows.

    pip install tabicl==2.2.0 tabpfn==9.2.0 lightpfn==1.1.0 catboost     # or some of them, or elsewhere:
    python benchmarks/speed_peers.py --python tabpfn=~/peers/bin/python --python lightpfn=~/peers/bin/python
    python benchmarks/speed_peers.py --models pfnkit tabicl --shapes 500x10
    python benchmarks/speed_peers.py --models                            # prints the table of what is there

Writes results/speed-peers.json, where other models and shapes stay.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = {                                                             # what to install, by the name's beginning
    "pfnkit": "pfnkit", "catboost": "catboost==1.2.10", "tabicl": "tabicl==2.2.0", "tabpfn": "tabpfn==9.2.0",
    "lightpfn": "lightpfn==1.1.0",
}
MODELS = ("pfnkit", "catboost", "tabicl", "tabicl-cached", "tabpfn", "tabpfn-cached", "tabpfn-v3", "tabpfn-v2", "lightpfn")
SHAPES = ("100x5", "500x10", "1000x50", "3000x30", "10000x20")
LIFT = {"TABPFN_ALLOW_CPU_LARGE_DATASET": "1"}
Record = dict[str, Any]


def tabicl_checkpoint(folder: Path) -> Path:
    import torch
    from tabicl._model.tabicl import TabICL

    path = folder / "tabicl.ckpt"
    if not path.exists():
        config = {"max_classes": 10}
        torch.save({"config": config, "state_dict": TabICL(**config).state_dict()}, path)
    return path


def tabpfn_checkpoint(folder: Path, version: str) -> Path:
    """TabPFN reads the version off the name of the file."""
    from dataclasses import asdict

    from tabpfn import architectures, checkpoint
    from tabpfn.inference_config import InferenceConfig
    from tabpfn.preprocessing import v2_5_classifier_preprocessor_configs, v2_classifier_preprocessor_configs

    path = folder / f"tabpfn-{version}-random.safetensors"
    if not path.exists():
        module, name = {"v3.5": ("tabpfn_v3_5", "TabPFNV3p5Config"), "v3": ("tabpfn_v3", "TabPFNV3Config"),
                        "v2": ("tabpfn_v2", "TabPFNV2Config")}[version]
        architecture = architectures.ARCHITECTURES[module]
        config = getattr(architecture, name)(max_num_classes=10 if version == "v2" else 160, num_buckets=5000)
        transforms = v2_classifier_preprocessor_configs() if version == "v2" else v2_5_classifier_preprocessor_configs()
        inference = InferenceConfig(PREPROCESS_TRANSFORMS=transforms, MAX_NUMBER_OF_SAMPLES=1_000_000)
        checkpoint.save_as_safetensors(
            {"state_dict": architecture.get_architecture(config).state_dict(), "config": asdict(config),
             "architecture_name": module, "inference_config": asdict(inference)}, path,
        )
    return path


def lightpfn_checkpoint(folder: Path) -> Path:
    from lightpfn import Config, LightPFN, save_model

    path = folder / "lightpfn"
    if not path.exists():
        save_model(LightPFN(Config(row_refine=True, row_mode="summary", icl_drop_blocks=1)), path)
    return path


def maker(model: str, threads: int, folder: Path) -> Callable[[], Any]:
    """Constructor of an unfitted estimator."""
    if model == "pfnkit":
        from estimators import PFNClassifier

        return lambda: PFNClassifier(random_state=0)
    if model == "catboost":
        from catboost import CatBoostClassifier

        return lambda: CatBoostClassifier(verbose=False, allow_writing_files=False, random_seed=0, thread_count=threads)
    if model.startswith("tabicl"):
        from tabicl import TabICLClassifier

        path = tabicl_checkpoint(folder)
        return lambda: TabICLClassifier(model_path=path, allow_auto_download=False, kv_cache=model.endswith("cached"))
    if model.startswith("tabpfn"):
        from tabpfn import TabPFNClassifier

        path = tabpfn_checkpoint(folder, {"tabpfn-v3": "v3", "tabpfn-v2": "v2"}.get(model, "v3.5"))
        mode = "fit_with_cache" if model.endswith("cached") else "fit_preprocessors"
        return lambda: TabPFNClassifier(model_path=path, fit_mode=mode)
    from lightpfn import LightPFNClassifier

    path = lightpfn_checkpoint(folder)
    return lambda: LightPFNClassifier(checkpoint=path)


def work(model: str, shape: str, threads: int, slow: float, folder: Path, out: Path) -> None:
    """Measure in this process; `out` is rewritten after every step, so that it tells how far a killed process came."""
    import resource
    import warnings

    import numpy as np
    import torch

    def tell(**facts: Any) -> None:
        record.update(facts, peak_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        out.with_suffix(".part").write_text(json.dumps(record))
        out.with_suffix(".part").replace(out)

    def call() -> tuple[Any, dict[str, float]]:
        estimator, begun, cpu = make(), time.perf_counter(), time.process_time()
        estimator.fit(X, y)
        fitted = time.perf_counter()
        estimator.predict_proba(X_test)
        done = time.perf_counter()
        parts = {"fit": fitted - begun, "predict": done - fitted, "seconds": done - begun, "cpu": time.process_time() - cpu}
        return estimator, {name: round(value, 4) for name, value in parts.items()}

    record: Record = {}
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    n_rows, n_features = map(int, shape.split("x"))
    rng = np.random.default_rng(0)                                       # the tables of speed.py
    X, X_test = rng.normal(size=(2, n_rows, n_features))
    y = (X[:, 0] + X[:, 1] * X[:, -1] + 0.3 * rng.normal(size=n_rows) > 0).astype(int)
    make = maker(model, threads, folder)
    tell(torch=torch.__version__, ready=time.time())
    try:
        fitted, first = call()
    except (RuntimeError, ValueError, MemoryError) as error:
        tell(refusal=" ".join(str(error).split())[:200])
        return
    tell(first=first)
    rows: list[float] = []
    while len(rows) < 5 and sum(rows) < slow:
        begun = time.perf_counter()
        fitted.predict_proba(X_test[:1])
        rows.append(round(time.perf_counter() - begun, 5))
        tell(one_row=rows)
    calls: list[dict[str, float]] = []
    while len(calls) < 2 and first["seconds"] < slow:
        calls.append(call()[1])
        tell(calls=calls)


def measure(python: str, model: str, shape: str, args: argparse.Namespace, folder: Path, lifted: bool = False) -> Record:
    """One process; it has `args.cap` seconds for the first fit and predict, and as many again for the rest."""
    threads = str(args.threads)
    environment = os.environ | {
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": "",
        "LIGHTPFN_DEVICE": "cpu", "HF_HUB_OFFLINE": "1",
    } | (LIFT if lifted else {})
    out = folder / "record.json"
    out.unlink(missing_ok=True)
    command = [python, __file__, "--worker", model, shape, threads, str(args.slow), str(folder), str(out)]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            time.sleep(0.2)
            seen = json.loads(out.read_text()) if out.exists() else {}
            if "ready" in seen and time.time() - seen["ready"] > args.cap * (2 if "first" in seen else 1):
                process.kill()
                process.wait()
        record: Record = json.loads(out.read_text()) if out.exists() else {}
        log.seek(0)
        if "first" not in record and "refusal" not in record:
            over = "ready" in record and time.time() - record["ready"] > args.cap
            last = (log.read().strip().splitlines() or ["no output"])[-1]
            record["failure"] = f"> {args.cap:g} s" if over else f"exit status {process.returncode}: {last[:200]}"
    if model.startswith("tabpfn") and "CPU" in record.get("refusal", "") and not lifted:
        return measure(python, model, shape, args, folder, lifted=True) | {"refused_by_default": record["refusal"]}
    return record


def summarise(records: list[Record]) -> Record:
    """Medians over processes; `raw` keeps them."""
    done = [record for record in records if "first" in record]
    kept = ("refusal", "refused_by_default", "failure")
    result: Record = {key: record[key] for record in records for key in kept if key in record}
    result |= {"date": str(datetime.date.today()), "torch": records[0].get("torch"), "raw": records}
    result["peak_mb"] = max(record.get("peak_mb", 0) for record in records)
    if not done:
        return result
    calls = [call for record in done for call in record.get("calls", [])] or [record["first"] for record in done]
    result |= {part: statistics.median(call[part] for call in calls) for part in ("fit", "predict", "seconds", "cpu")}
    result["first_seconds"] = statistics.median(record["first"]["seconds"] for record in done)
    rows = [value for record in done for value in record.get("one_row", [])]
    if rows:
        result["one_row"] = statistics.median(rows)
        result["one_row_share"] = round(result["one_row"] / result["seconds"], 4)
    return result


def run(args: argparse.Namespace, pythons: dict[str, str]) -> Record:
    path = Path(args.out)
    results: Record = json.loads(path.read_text()) if path.exists() else {"versions": {}, "results": {}}
    results["versions"] |= {package: installed(pythons[package], package) for package in pythons}
    results |= {"machine": f"{os.cpu_count()} cores, {platform.machine()}, {processor()}", "threads": args.threads}
    records: dict[tuple[str, str], list[Record]] = {}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(args.repeats):
            for shape in args.shapes:
                for model in args.models:
                    before = records.setdefault((shape, model), [])
                    if turn and before[0].get("first", {"seconds": args.slow})["seconds"] >= args.slow:
                        continue
                    before.append(measure(pythons[model.split("-")[0]], model, shape, args, Path(name)))
                    summary = summarise(before) | {"threads": args.threads}
                    results["results"].setdefault(shape, {})[model] = summary
                    path.write_text(json.dumps(results, indent=1) + "\n")
                    told = f"{summary['seconds']:.3g} s" if "seconds" in summary else "no result"
                    print(f"{turn + 1}/{args.repeats} {shape} {model}: {told}", file=sys.stderr)
    return results


def installed(python: str, package: str) -> str:
    """Version of a package in another interpreter, or a helpful end."""
    command = [python, "-c", f"from importlib.metadata import version; print(version({package!r}))"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"{package} is not installed for {python}. Install it (pip install {PACKAGES[package]}), name an interpreter "
            f"that has it (--python {package}=PATH), or leave it out (--models …)."
        ) from None


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(results: Record) -> str:
    lines = ["| rows × features | model | fit, s | predict, s | fit + predict, s | × pfnkit | CPU, s | first call, s "
             "| one more row, ms | share | peak memory, MB | |", "|" + "---|" * 12]
    for shape in sorted(results["results"], key=lambda shape: int(shape.split("x")[0])):
        row = results["results"][shape]
        own = row.get("pfnkit", {}).get("seconds")
        for model in sorted(row, key=MODELS.index):
            entry = row[model]
            lifted = "refuses by default; limit lifted" if "refused_by_default" in entry else None
            note = "; ".join(filter(None, (lifted, entry.get("refusal"), entry.get("failure"))))
            cells = ["–"] * 8
            if "seconds" in entry:
                cells[:3] = [f"{entry[key]:.3g}" for key in ("fit", "predict", "seconds")]
                cells[3] = f"{entry['seconds'] / own:.2f}" if own else "–"
                cells[4:6] = [f"{entry[key]:.3g}" for key in ("cpu", "first_seconds")]
            if "one_row" in entry:
                cells[6:] = [f"{1000 * entry['one_row']:.3g}", f"{entry['one_row_share']:.2%}"]
            lines.append(f"| {shape.replace('x', ' × ')} | {model} | {' | '.join(cells)} | {entry['peak_mb']} | {note} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        model, shape, threads, slow, folder, out = sys.argv[2:]
        work(model, shape, int(threads), float(slow), Path(folder), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="ROWSxFEATURES")
    parser.add_argument("--python", action="append", default=[], metavar="PACKAGE=PATH", help="interpreter to use for it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slow", type=float, default=30, help="seconds of fit and predict from which there is no repeat")
    parser.add_argument("--cap", type=float, default=600, help="seconds after which a first fit and predict is given up")
    parser.add_argument("--out", default=str(Path(__file__).resolve().parent / "results" / "speed-peers.json"))
    args = parser.parse_args()
    named = dict(pair.split("=", 1) for pair in args.python)
    if unknown := set(named) - set(PACKAGES):
        parser.error(f"--python: no package {min(unknown)!r}; there are {', '.join(PACKAGES)}")
    packages = dict.fromkeys(model.split("-")[0] for model in args.models)
    pythons = {package: os.path.expanduser(named.get(package, sys.executable)) for package in packages}
    print(table(run(args, pythons)))


if __name__ == "__main__":
    main()
