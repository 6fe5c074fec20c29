"""Tables of RESULTS.md about exact posteriors: how close networks come to Bayes' rule, and what that takes."""

from __future__ import annotations

import few_shot as few_shot_script
import function_classes as function_classes_script
import localisation as localisation_script
import looped as looped_script
from report_table import Record, bold_best, interval, markdown, seconds, table


@table("Gaussian process, known kernel", "gp_certificate")
def gp_fixed(record: Record) -> str:
    found = {f"d = {d}": record[f"fixed{d}"]["contexts"] for d in (1, 5) if f"fixed{d}" in record}
    if not found:
        return "Not measured: needs checkpoints of `gp-1d` and `gp-5d`."
    sizes = sorted({n for rows in found.values() for n in rows}, key=int)
    heads = ["gap in nats, by context rows", *sizes]
    lines = [[name, *(f"{rows[n]['gap'][0]:.3f}" if n in rows else "–" for n in sizes)] for name, rows in found.items()]
    for name, rows in found.items():
        shares = (f"{rows[n]['coverage']['0.95'][0]:.3f}" if n in rows else "–" for n in sizes)
        lines.append([f"{name}, in the 95 % interval", *shares])
    return markdown(heads, lines)


@table("Gaussian process, unknown hyper-parameters", "gp_certificate")
def gp_unknown(record: Record) -> str:
    part = record["hyper"]
    heads = ["method"]
    rows: dict[str, list[str]] = {}
    for n, found in part["contexts"].items():
        heads += [f"gap, {n} context rows", "tasks", "seconds a task"]
        in_batch = found["pfn_seconds"]["PFN in a batch"]
        for name, row in found["methods"].items():
            took = seconds(row["seconds"]) if row.get("seconds") is not None else "–"
            if name == "PFN":
                took += f" ({seconds(in_batch)} in a batch)"
            rows.setdefault(name, []).extend([interval(row["gap"]), str(row["tasks"]), took])
    names = {"PFN": "network", "reference": "importance sampling", "reference again": "importance sampling, other seed",
             "MAP": "maximum a posteriori", "MLE-II": "maximum likelihood (MLE-II)"}
    complete = {name: cells for name, cells in rows.items() if len(cells) == len(heads) - 1 and name != "reference"}
    return (f"d = {part['features']}, {part['queries']} queries a task\n\n"
            + markdown(heads, [[names.get(name, name), *cells] for name, cells in complete.items()]))


@table("Bayesian neural network", "bnn_certificate")
def bnn(record: Record) -> str:
    alone, batch = record["pfn"]["seconds"]["alone"], record["pfn"]["seconds"]["in a batch"]
    rows = [("network", interval(record["pfn"]["nll"]), "–", f"{seconds(alone)} ({seconds(batch)} in a batch)", "1")]
    for name, row in record["methods"].items():
        rows.append((name, interval(row["nll"]), interval(row["pfn_minus"]), seconds(row["seconds"]),
                     seconds(row["seconds"] / alone)))
    title = (f"{record['features']} features, {record['context']} context and {record['queries']} query rows, "
             f"{record['tasks']} tasks; the number is that of samples (NUTS) or steps (SVI)\n\n")
    heads = ("method", "NLL", "network's minus this, same tasks", "seconds a task", "times the network's")
    return title + markdown(heads, rows)


@table("Function classes", "function_classes")
def function_classes(record: Record) -> str:
    """Ratios of squared errors; errors, baselines and NLLs are in the script's own tables."""
    sizes = list(next(iter(record["classes"].values())))
    parts = []
    for title, key in (("network / Bayes' rule over all five classes", "ratio_to_all_classes"),
                       ("network / predictor that knows the class", "ratio_to_own"),
                       ("Bayes' rule over all five / predictor that knows the class", "ratio_of_all_classes_to_own")):
        rows = [[name, *(f"{found[n][key][0]:.2f}" for n in sizes)] for name, found in record["classes"].items()]
        parts.append(f"{title}\n\n{markdown(['ratio of squared errors, n =', *sizes], rows)}")
    text = function_classes_script.tables(record)
    return "\n\n".join([*parts, text[text.index("Linear tasks, n ="):].replace("\nAs good", "\n\nAs good")])


@table("One layer, 14 times", "looped")
def looped(record: Record) -> str:
    verdict = "\n".join(f"- {line}" for line in looped_script.verdict(record).split("\n"))
    return looped_script.tables(record) + "\n\n" + verdict


@table("Beyond the rows of pretraining", "localisation")
def localisation(record: Record) -> str:
    verdict = "\n".join(f"- {line}" for line in localisation_script.verdict(record["methods"]).split("\n"))
    return localisation_script.tables(record["methods"]) + "\n\n" + verdict


@table("Few shots", "few_shot")
def few_shot(record: Record) -> str:
    heads = dict.fromkeys((f"{name}, {found['episodes']} episodes" for name, found in record["sets"].items()), max)
    return bold_best(few_shot_script.tables(record["sets"]), heads)


@table("A normal base", "normal_base")
def normal_base(record: Record) -> str:
    networks = record["networks"]
    sizes = list(networks["with"]["gap"])
    rows = [[f"{name} a normal base", *(f"{row['gap'][n]:.3f}" for n in sizes), f"{row['seconds']:.0f}"]
            for name, row in networks.items()]
    return markdown([f"gap in nats after {record['steps']:,} steps, context rows", *sizes, "seconds of training"], rows)


@table("What these networks cost", "study-training")
def study_training(record: Record) -> str:
    rows = [(f"`{name}`", f"{row['parameters']:,}", f"{row['step']:,}", f"{row['tasks']:,}", f"{row['minutes']:.0f}",
             row["seed"], f"{sum(one['seconds'] for one in row['earlier']) / 60:.0f}" if row["earlier"] else "–")
            for name, row in record["networks"].items()]
    return markdown(("recipe", "parameters", "steps", "tasks", "minutes", "seed", "minutes of earlier stages"), rows)
