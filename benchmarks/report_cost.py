"""Tables of RESULTS.md about time, memory, training, and what does not fail."""

from __future__ import annotations

from collections.abc import Iterator

import bakeoff as bakeoff_script
import learnability as learnability_script
import prior_speed as prior_speed_script
import speed as speed_script
import speed_peers as speed_peers_script
import training_curve as training_curve_script
import training_speed as training_speed_script
from report_table import Record, markdown, table


@table("Fit and predict", "speed")
def speed(record: Record) -> str:
    return speed_script.tables(record)


@table("The peers' own code", "speed-peers")
def speed_peers(record: Record) -> str:
    return speed_peers_script.table(record)


@table("Memory", "memory")
def memory(record: Record) -> str:
    names = {"classifier": "PFNClassifier", "regressor": "PFNRegressor", "catboost": "CatBoost", "lightgbm": "LightGBM",
             "forest": "random forest"}
    rows = [(names[kind], row["fit_seconds"], row["predict_seconds"], row["peak_gib"], row["score"])
            for kind, row in record["results"].items()]
    title = f"{record['table']} rows × columns, {record['queries']:,} predictions\n\n"
    return title + markdown(("", "fit, CPU s", "predict, CPU s", "peak memory of the process, GiB", "accuracy or R²"), rows)


@table("Tasks a second of priors", "prior-speed")
def prior_speed(record: Record) -> str:
    return prior_speed_script.table(record["priors"])


@table("What can be learned from a task", "learnability")
def learnability(record: Record) -> str:
    return learnability_script.table(record["gain"])


@table("Training", "training-speed")
def training_speed(record: Record) -> str:
    return training_speed_script.table(record["networks"])


@table("Quality by tasks seen", "training-curve")
def training_curve(record: Record) -> str:
    return training_curve_script.tables(record)


@table("What the network was chosen for", "bakeoff")
def bakeoff(record: Record) -> str:
    lines = bakeoff_script.table(record).split("\n")
    end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    return "\n".join([*lines[:end], "", *(f"- {line}" for line in lines[end:])])


@table("Robustness", optional=("soak", "killed-runs"))
def robustness(soak: Record | None, killed: Record | None) -> str:
    """Every number of the two files, whatever they count; of a list the first and the last."""
    rows = [(name, key, value) for name, record in (("soak", soak), ("killed runs", killed))
            for key, value in _numbers(record or {}) if key != "seed"]
    return markdown(("what", "measured", "value"), rows)


@table("Versions", "versions")
def versions(record: Record) -> str:
    packages = list(record["versions"][0])
    rows = [[name, *(one[package] for package in packages)]
            for name, one in zip(("oldest", "newest"), record["versions"], strict=True)]
    found = [(name, f"{value:.1e}") for name, value in record["largest_difference"].items()]
    return markdown(["", *packages], rows) + "\n\n" + markdown(("prediction", "largest difference"), found)


@table("Release", "release")
def release(record: Record) -> str:
    rows = [(f"`import {name}`", f"{one['wall']} s", f"{one['cpu']} s") for name, one in record["import_seconds"].items()]
    sizes = [("wheel", f"{record['wheel_mib']} MiB", ""), ("sdist", f"{record['sdist_mib']} MiB", "")]
    return markdown(("", "size, or wall time", "CPU time"), sizes + rows)


def _numbers(record: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}, ")
        elif not isinstance(value, str):
            ends = [value[0], value[-1]] if isinstance(value, list) else [value]
            shown = " → ".join(f"{one:,}" if isinstance(one, int) else f"{one:g}" for one in ends)
            yield f"{prefix}{key}".replace("_", " "), shown
