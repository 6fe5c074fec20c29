"""Tables of RESULTS.md about real tables: classes, numbers, few rows and many, designs, gaps."""

from __future__ import annotations

import classification as classification_script
import context_curve as context_curve_script
import engineering as engineering_script
import imputation as imputation_script
import large_tables as large_tables_script
import linear_tasks as linear_tasks_script
import regression as regression_script
import small_data as small_data_script
import tabr as tabr_script
from report_table import Best, Record, bold_best, interval, markdown, models_of, table, when

from estimators.evaluation import summary

BEST = {
    "AUC": max, "log loss": min, "accuracy": max, "ECE": min, "rank AUC": min, "rank log loss": min,
    "RMSE/std": min, "NLL": min, "pinball": min, "rank RMSE/std": min, "rank NLL": min, "rank pinball": min,
}
FIRST_SEED = "0"


def compared(record: Record, task: str, order: dict[str, str]) -> str:
    models = models_of(record["rows"], order)
    return bold_best(summary(record["rows"], task, models, order), BEST)


@table("Classification", "classification")
def classification(record: Record) -> str:
    return compared(record, "classification", classification_script.NAMES)


@table("Regression", "regression")
def regression(record: Record) -> str:
    return compared(record, "regression", regression_script.NAMES)


@table("More context", "context-curve")
def context_curve(record: Record) -> str:
    tasks = [task for task in ("classification", "regression") if task in record]
    return "\n\n".join(context_curve_script.table(task, record[task]["rows"]) for task in tasks)


@table("Linear functions", "linear-tasks")
def linear_tasks(record: Record) -> str:
    return linear_tasks_script.table(record)


@table("Thirty rows", "small_data")
def small_data(record: Record) -> str:
    """The script's first table; the AUC of each set is left to it."""
    best = {"rank pooled AUC": min, "rank mean AUC": min, "pooled AUC": max, "mean AUC": max, "log loss": min,
            "rank log loss": min, "ECE all sets, 100 bins": min, "10 bins": min, "mean of sets, 100 bins": min}
    return bold_best(small_data_script.report(record["rows"]).split("\n\n| pooled AUC")[0], best)


@table("Long tables", "large-tables")
def large_tables(record: Record) -> str:
    tasks = [task for task, rows in record["rows"].items() if rows]
    parts = [large_tables_script.table(record, task, models_of(record["rows"][task], large_tables_script.MODELS))
             for task in tasks]
    return bold_best("\n\n".join(parts).replace("### ", "#### "), BEST)


@table("TabR beside boosted trees", "tabr")
def tabr(record: Record) -> str:
    """One split, the only one that TabR has; then its two networks alone, and the boosters on the sets without TabR."""
    rows = {key: row for key, row in record["rows"].items() if key.split("/")[1] == FIRST_SEED}
    have_tabr = {key.split("/")[0] for key in rows if key.endswith("/tabr")}
    boosters = models_of(rows, ("catboost", "lightgbm", "xgboost"))
    first = {key: row for key, row in rows.items() if key.split("/")[0] in have_tabr}
    parts = [tabr_script.table(first, ["tabr", *boosters])]
    members = models_of(first, ("tabr", "tabr-periodic", "tabr-s"))
    if len(members) > 1:
        parts += ["Both networks of `tabr`, and each alone:", tabr_script.table(first, members)]
    others = {key: row for key, row in record["rows"].items() if key.split("/")[0] not in have_tabr}
    if others:
        lacking = sorted({key.split("/")[0] for key in others if f"{key.rsplit('/', 1)[0]}/catboost" not in others})
        note = f"; {', '.join(lacking)} without CatBoost" if lacking else ""
        parts += [f"Sets on which TabR has not run (means of the splits there are{note}):",
                  tabr_script.table(others, boosters)]
    return "\n\n".join(parts)


@table("TabR: speed of training", "tabr-speed")
def tabr_speed(record: Record) -> str:
    heads = ("embeddings of numbers", "plain code, s an epoch", "ours", "ours, frozen contexts", "times faster",
             "frozen", "largest difference of outputs")
    rows = [(f"periodic, {row['n_frequencies']} frequencies" if row["n_frequencies"] else "none",
             *(f"{min(row['seconds'][key]):.1f}" for key in ("plain", "searching", "frozen")),
             f"{row['times_faster_searching']:.1f}", f"{row['times_faster_frozen']:.1f}",
             f"{row['largest_difference_of_outputs']:.0e}") for row in record["results"]]
    first = record["results"][0]
    return f"{first['rows']:,} rows × {first['features']}\n\n" + markdown(heads, rows)


@table("Engineering designs", "engineering")
def engineering(record: Record) -> str:
    sizes = [str(size) for size in engineering_script.SIZES]
    means = {"F1": max, "rank F1": min, "log loss": min, "rank log loss": min}
    return bold_parts(engineering_script.report(record["rows"]),
                      [means, dict.fromkeys(sizes, max), dict.fromkeys(sizes, min)])


@table("Gaps", "imputation")
def imputation(record: Record) -> str:
    text = imputation_script.summary(record["rows"])
    names = {"pfn": "PFNImputer", "iterative": "IterativeImputer", "knn": "KNNImputer", "mean": "mean, most frequent"}
    for short, name in names.items():
        text = text.replace(f"\n| {short} |", f"\n| {name} |")
    text = text.replace("mcar, ", "MCAR, ").replace("mnar, ", "MNAR, ")
    titles = text.split("\n\n")[::2]
    return bold_parts(text, [{"mean": min if ", rmse," in title else max, "mean rank": min} for title in titles])


def bold_parts(text: str, best: list[Best]) -> str:
    """`bold_best` of titles and tables that take turns, with other columns in each table."""
    parts = text.split("\n\n")
    parts[1::2] = [bold_best(part, columns) for part, columns in zip(parts[1::2], best, strict=True)]
    return "\n\n".join(parts)


@table("A prior against another", "prior-comparison")
def prior_comparison(record: Record) -> str:
    return paired(record, "layered networks", "causal graphs")


@table("Comparisons of the training day", "training-day")
def training_day(record: Record) -> str:
    return "\n\n".join(f"**{title}**\n\n{paired(one, 'A', 'B')}" for title, one in record.items())


def paired(record: Record, first: str, second: str) -> str:
    """What `compare.py` wrote: its note, when it was measured, a line for each metric."""
    heads = ("metric", first, second, "gain (95 %)", "better / worse")
    rows = [(metric, f"{row['A']:.4f}", f"{row['B']:.4f}", interval([row["gain"], *row["interval"]], 4),
             f"{row['better']} / {row['worse']} of {row['datasets']}") for metric, row in record["comparison"].items()]
    measured = " and ".join(sorted({when(record["A"]), when(record["B"])}))
    return f"{record['note']}\n\nMeasured {measured}.\n\n" + markdown(heads, rows)
