"""The table at the top of RESULTS.md: each capability beside the peer that is best at it, by the measure of the row."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from classification import NAMES as CLASSIFIERS
from engineering import NAMES as ENGINEERING
from large_tables import NAMES as LARGE
from regression import NAMES as REGRESSORS
from report_search import METHODS, STOPPING
from report_table import Record, markdown, models_of, table
from small_data import NAMES as SMALL

from estimators.evaluation import dataset_means

Values = dict[str, float]                                           # of one measure, by model
OTHERS = {
    "iterative": "IterativeImputer", "knn": "KNNImputer", "MAP": "maximum a posteriori", "NUTS 256": "NUTS, 256 samples",
    "lightpfn": "LightPFN",
}
FILES = (
    "classification", "regression", "small_data", "large-tables", "tabr", "engineering", "imputation",
    "bayesopt-engineering", "bayesopt-tuning", "learning-curves-prior", "learning-curves-real", "early-stopping",
    "freeze-thaw", "gp_certificate", "speed-peers", "training-speed", "memory",
)


class Summary:
    """Rows of the table, as they are added."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, what: str, measure: str, values: Values, ours: str, best: Callable[..., str], digits: int, where: str,
            names: dict[str, str] = OTHERS) -> None:
        """`values` hold ours and the peers'; `where` is the heading of a section."""
        peer = best((name for name in values if name != ours), key=values.__getitem__)
        shown = {name: f"{values[name]:,.{digits}f}".replace("-", "−") for name in (ours, peer)}
        if values[ours] != values[peer]:
            winner = best((ours, peer), key=values.__getitem__)
            shown[winner] = f"**{shown[winner]}**"
        anchor = where.lower().replace(" ", "-").replace(",", "").replace("'", "")
        self.rows.append((what, measure, shown[ours], names.get(peer, peer), shown[peer], f"[{where}](#{anchor})"))


@table("Summary", *FILES)
def summary(*records: Record) -> str:
    """Lines of one capability follow each other; only the first one names it."""
    of = dict(zip(FILES, records, strict=True))
    out = Summary()
    tables(out, of)
    search(out, of)
    cost(out, of)
    return markdown(("capability", "measure", "ours", "best peer", "the peer's", "section"), out.rows)


def tables(out: Summary, of: dict[str, Record]) -> None:
    rows = of["classification"]["rows"]
    classes = means(rows, "classification", CLASSIFIERS)
    what = f"classes, {n_sets(rows)} tables of up to 1000 rows"
    out.add(what, "log loss ↓", classes["log_loss"], "pfn", min, 3, "Classification", CLASSIFIERS)
    out.add("", "ROC AUC ↑", classes["auc"], "pfn", max, 4, "Classification", CLASSIFIERS)
    rows = of["regression"]["rows"]
    numbers = means(rows, "regression", REGRESSORS)
    what = f"numbers, {n_sets(rows)} tables of up to 1000 rows"
    out.add(what, "NLL ↓", numbers["nll"], "pfn", min, 3, "Regression", REGRESSORS)
    out.add("", "RMSE/std ↓", numbers["rmse"], "pfn", min, 4, "Regression", REGRESSORS)
    rows = of["small_data"]["rows"]
    out.add(f"thirty labelled rows, {n_sets(rows)} tables", "ROC AUC ↑", averages(rows, "mean_auc"), "pfn", max, 3,
            "Thirty rows", SMALL)
    rows = of["large-tables"]["rows"]
    what = f"classes, {n_sets(rows['classification'])} tables, up to 10,000 rows"
    out.add(what, "log loss ↓", means(rows["classification"], "classification", LARGE)["log_loss"], "pfn", min, 3,
            "Long tables", LARGE)
    numbers = means(rows["regression"], "regression", LARGE)
    what = f"numbers, {n_sets(rows['regression'])} tables, up to 10,000 rows"
    out.add(what, "NLL ↓", numbers["nll"], "pfn", min, 3, "Long tables", LARGE)
    out.add("", "RMSE/std ↓", numbers["rmse"], "pfn", min, 3, "Long tables", LARGE)
    won = wins(of["tabr"]["rows"])
    what = f"TabR, {sum(key.endswith('/0/tabr') for key in of['tabr']['rows'])} tables of 4,177 – 53,940 rows"
    out.add(what, "tables on which it is first ↑", won, "tabr", max, 0, "TabR beside boosted trees", CLASSIFIERS)
    rows = of["engineering"]["rows"]
    what = f"feasible designs, {n_sets(rows)} sets, 20 – 500 rows"
    out.add(what, "log loss ↓", averages(rows, "log_loss"), "pfn", min, 3, "Engineering designs", ENGINEERING)
    out.add("", "F1 ↑", averages(rows, "f1"), "pfn", max, 3, "Engineering designs", ENGINEERING)
    rows = {key: row for key, row in of["imputation"]["rows"].items() if key.split("/")[1] == "mcar"}
    out.add(f"gaps at random, {n_sets(rows)} tables", "error, std ↓", averages(rows, "rmse"), "pfn", min, 3, "Gaps")


def search(out: Summary, of: dict[str, Record]) -> None:
    for suite, what in (("engineering", "constrained designs"), ("tuning", "model tunings")):
        record = of[f"bayesopt-{suite}"]
        regrets = {name: row["regret"][0] for name, row in record["summary"].items()}
        out.add(f"optimisation of {len(record['problems'])} {what}", f"regret after {record['evaluations']} ↓", regrets,
                "pfnkit", min, 3, "Bayesian optimisation", METHODS)
    methods = of["learning-curves-prior"]["methods"]["20 %"]
    scores = {name: methods[name]["log_prob"][0] for name in ("network", "MCMC")}
    out.add("learning curves of the published prior, 20 % seen", "log-likelihood ↑", scores, "network", max, 3,
            "Curves of the published prior")
    rows = of["learning-curves-real"]["averages"]["held out"]["20%"]
    ranks = {name: row["ranks_beside_mcmc: log_prob"][0] for name, row in rows.items()}
    out.add("learning curves of real runs, 20 % seen", "mean rank ↓", ranks, "network", min, 2, "Curves of real runs")
    speedups = {name: row["published"] for name, row in of["early-stopping"]["selection"]["held out"].items()
                if name in STOPPING and name not in ("perfect foresight", "delta 0.1")}
    out.add("stopping early, held-out runs", "speed-up ↑", speedups, "delta 0.05", max, 2, "Stopping early", STOPPING)
    for budget in ("5", "20"):
        regrets = {name: row["regret"][budget][0] for name, row in of["freeze-thaw"]["optimisation"].items()
                   if name != "early stopping"}                     # by our own rule
        out.add("" if budget == "20" else "freeze-thaw optimisation", f"regret after {budget} complete runs ↓", regrets,
                "freeze-thaw", min, 3, "Many configurations")
    exact = {name: row for name, row in of["gp_certificate"]["hyper"]["contexts"]["10"]["methods"].items()
             if row.get("seconds") is not None and name not in ("reference", "NUTS long")}
    gaps = {name: row["gap"][0] for name, row in exact.items()}
    closest = min((name for name in gaps if name != "PFN"), key=gaps.__getitem__)
    section = "Gaussian process, unknown hyper-parameters"
    out.add("Gaussian process, ten rows", "gap to Bayes, nats ↓", gaps, "PFN", min, 4, section)
    out.add("", "seconds a task ↓", {name: exact[name]["seconds"] for name in ("PFN", closest)}, "PFN", min, 4, section)


def cost(out: Summary, of: dict[str, Record]) -> None:
    shapes = {shape: {name: row for name, row in rows.items() if name != "catboost" and "seconds" in row}
              for shape, rows in of["speed-peers"]["results"].items()}
    what = "fit and predict, networks with random weights"
    for shape, rows in shapes.items():
        times = {name: row["seconds"] for name, row in rows.items()}
        out.add(what, f"{shape.replace('x', ' × ')}, seconds ↓", times, "pfnkit", min, 2, "The peers' own code")
        what = ""
    bench = of["training-speed"]["networks"]["1.9 M"][1]
    speeds = {name.replace(", bfloat16 autocast", " with bfloat16"): row["tasks_per_second"]
              for name, row in bench["systems"].items() if name != "pfnkit, tasks drawn in the step"}
    what = f"training, 1.9 M parameters, {bench['rows']} × {bench['features']}"
    out.add(what, "tasks a second ↑", speeds, "pfnkit", max, 1, "Speed of training")
    memory = of["memory"]
    peaks = {name: row["peak_gib"] for name, row in memory["results"].items() if name != "regressor"}
    out.add(f"memory, {memory['table']}", "peak, GiB ↓", peaks, "classifier", min, 2, "Memory", CLASSIFIERS)
    peaks = {name: row["peak_mb"] / 1024 for name, row in shapes["3000x30"].items()}
    out.add("memory, networks, 3000 × 30", "peak, GiB ↓", peaks, "pfnkit", min, 2, "The peers' own code")


def n_sets(rows: Record) -> int:
    return len({key.split("/")[0] for key in rows})


def means(rows: Record, task: str, names: dict[str, str]) -> dict[str, Values]:
    """By metric, over the datasets that all models have."""
    models = [name for name in models_of(rows, names) if not name.startswith("pfn-")]
    frames = dataset_means(rows, task, models)
    return {metric: {model: float(frame[model].mean()) for model in frame} for metric, frame in frames.items()}


def averages(rows: Record, metric: str) -> Values:
    """Seeds of "set/…/seed/model" are averaged first."""
    groups: dict[str, dict[str, list[float]]] = {}
    for key, row in rows.items():
        *where, model = key.split("/")
        groups.setdefault(model, {}).setdefault("/".join(where[:-1] or where), []).append(row[metric])
    return {model: statistics.fmean(map(statistics.fmean, by_set.values())) for model, by_set in groups.items()}


def wins(rows: Record) -> Values:
    """Sets with TabR on whose first split no other model is better; ties count for all."""
    won = dict.fromkeys(("tabr", "catboost", "lightgbm", "xgboost"), 0.0)
    for name in sorted({key.split("/")[0] for key in rows if key.endswith("/0/tabr")}):
        found = {model: rows[f"{name}/0/{model}"] for model in won}
        score = {model: row["accuracy"] if "accuracy" in row else -row["rmse"] for model, row in found.items()}
        for model in won:
            won[model] += score[model] == max(score.values())
    return won
