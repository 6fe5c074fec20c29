"""Tables of RESULTS.md about optimisation and learning curves."""

from __future__ import annotations

import statistics

from report_table import Record, bold_best, interval, markdown, seconds, table

METHODS = {
    "pfnkit": "pfnkit", "gpsampler": "Optuna GPSampler", "botorch": "BoTorch, log constrained EI", "tpe": "Optuna TPE",
    "differential-evolution": "differential evolution", "random": "random",
}
SUITES = {"bayesopt-engineering": "constrained designs", "bayesopt-tuning": "tunings of models",
          "bayesopt-synthetic": "synthetic functions"}
STOPPING = {
    "delta 0.05": "pfnkit, δ = 0.05", "delta 0.1": "pfnkit, δ = 0.1",
    "patience 5": "patience of 5 epochs", "patience 20": "patience of 20 epochs", "median": "median rule",
    "successive halving": "successive halving", "perfect foresight": "perfect foresight",
}
PRUNERS = {"no pruning": "none", "learning curve": "LearningCurvePruner",
           "learning curve, 0.1": "LearningCurvePruner, δ = 0.1", "median": "MedianPruner", "hyperband": "HyperbandPruner"}
POOR = 0.8                          # coverage below which a set is named
FREEZE_THAW = {"freeze-thaw": "FreezeThawOptimizer",
               "early stopping": "early stopping of random runs (`CurveStopper`'s rule)"}


@table("Bayesian optimisation", optional=tuple(SUITES))
def bayesopt(*records: Record | None) -> str:
    """A table for each suite."""
    parts = []
    for title, record in zip(SUITES.values(), records, strict=True):
        if record is None:
            continue
        counts = sorted({len(problem["seeds"]) for problem in record["problems"].values()})
        rows = [(name, interval(found["regret"]), interval(found["area"]), f"{found['rank'][0]:.2f}",
                 f"{found['feasible']:.2f}", f"{found['seconds']:.3f}")
                for name, found in ((METHODS[m], record["summary"][m]) for m in METHODS if m in record["summary"])]
        heads = ("method", "regret", "area under the curve", "mean rank of regret", "feasible", "CPU s a suggestion")
        best = {"regret": min, "area under the curve": min, "mean rank of regret": min, "feasible": max}
        parts.append(f"{len(record['problems'])} {title}, {record['evaluations']} evaluations, "
                     f"{' or '.join(map(str, counts))} seeds\n\n{bold_best(markdown(heads, rows), best)}")
    return "\n\n".join(parts)


@table("Bayesian optimisation: each problem", *SUITES)
def bayesopt_problems(*records: Record) -> str:
    methods = [method for method in METHODS if all(method in record["summary"] for record in records)]
    rows = []
    for record in records:
        for name, problem in record["problems"].items():
            rows.append([name, *(f"{problem['methods'][m]['regret'][0]:.4f}" for m in methods)])
    return markdown(["mean regret", *(METHODS[method] for method in methods)], rows)


@table("Seconds a suggestion", "bayesopt-speed")
def bayesopt_speed(record: Record) -> str:
    heads = ("problem", "parameters", "constraints", "observations", "pfnkit, CPU s", "pfnkit, by the clock", "GPSampler ×",
             "BoTorch ×", "BoTorch, fitted anew ×")
    rows = [(row["problem"], row["parameters"], row["constraints"], row["observations"], seconds(row["seconds"]["pfnkit"]),
             seconds(row["seconds"]["pfnkit-wall"]),
             *(row["ratios"][f"{name} / pfnkit"] for name in ("gpsampler", "botorch", "botorch-fresh")))
            for row in record["rows"]]
    return markdown(heads, rows)


@table("Learning curves of the published prior", "learning-curves-prior")
def curves_prior(record: Record) -> str:
    cuts = list(record["methods"])
    first = record["methods"][cuts[0]]
    own = first["network"]
    rows = [[f"pfnkit, `prior=\"released\"`, {own['all_curves']:,} curves",
             *(f"{record['methods'][cut]['network']['log_prob_all'][0]:.3f}" for cut in cuts)]]
    for name in dict.fromkeys(name for cut in cuts for name in record["methods"][cut]):
        found = [record["methods"][cut].get(name) for cut in cuts]
        count = next(row["curves"] for row in found if row)
        title = {"network": "pfnkit", "network, either prior": "pfnkit, `prior=\"auto\"`"}.get(name, name)
        rows.append([f"{title}, {count:,} curves", *(f"{row['log_prob'][0]:.3f}" if row else "–" for row in found)])
        if name != "network":
            rows.append([f"… `released` minus this, on these {count:,}", *(interval(row["network_minus"]) if row else "–"
                                                                         for row in found)])
    for name, (values, _) in record["reported"].items():
        rows.append([f"{name}, reported", *(f"{value:.2f}" for value in values)])
    networks = [record["methods"][cut]["network"] for cut in cuts]
    covered = [[f"coverage of {level} intervals", *(f"{network['coverage'][level]:.1%}" for network in networks)]
               for level in own["coverage"]]
    times = [[name, *(seconds(record["seconds"][cut][name]) for cut in cuts)] for name in record["seconds"][cuts[0]]]
    return "\n\n".join([markdown(["log-likelihood, seen:", *cuts], rows), markdown(["pfnkit, seen:", *cuts], covered),
                        markdown(["CPU seconds a curve, seen:", *cuts], times)])


@table("Learning curves of real runs", "learning-curves-real")
def curves_real(record: Record) -> str:
    """Mean ranks by log-likelihood and by error, and coverage, beside MCMC if that has run."""
    parts = []
    for part, by_share in record["averages"].items():
        prefix = "ranks_beside_mcmc" if record["mcmc_curves"] else "ranks"
        heads = {f"{share} seen": min for share in by_share}
        for title, score in (("log-likelihood", "log_prob"), ("error of the median", "error")):
            rows = [[name if name != "network" else "pfnkit",
                     *(f"{by_share[share][name][f'{prefix}: {score}'][0]:.2f}" for share in by_share)]
                    for name in next(iter(by_share.values()))]
            parts.append(f"{part}: mean rank by {title}\n\n{bold_best(markdown([part, *heads], rows), heads)}")
        rows = [[name if name != "network" else "pfnkit", *(f"{by_share[share][name]['covered, pooled'][0]:.2f}"
                                                            for share in by_share)]
                for name in next(iter(by_share.values()))]
        parts.append(f"{part}: coverage of 90 % intervals, all values together\n\n{markdown([part, *heads], rows)}")
    covered = {name: methods["network"]["scores: covered"] for name, methods in record["sets"].items()}
    worst = sorted((name for name, values in covered.items() if min(values) < POOR), key=lambda name: min(covered[name]))
    if worst:
        rows = [[name, *(f"{value:.2f}" for value in covered[name])] for name in worst]
        parts.append(f"pfnkit: sets with less than {POOR:.0%} in 90 % intervals\n\n{markdown(['set', *heads], rows)}")
    return "\n\n".join(parts)


@table("Learning curves: seconds", "learning-curves-speed")
def curves_speed(record: Record) -> str:
    return markdown(("curves at once", f"fit and predict, s ({record['seconds_are']}, {record['threads']} threads)"),
                    [(name.split()[0], seconds(value)) for name, value in record["seconds"].items()])


@table("Stopping early", "early-stopping")
def early_stopping(record: Record) -> str:
    parts = []
    for part, found in record["selection"].items():
        rows = [(STOPPING[name], f"{row['published']:.2f}", f"{row['final']:+.1f}".replace("-", "−"), len(row["lost"]),
                 f"{row['same value, median']:.2f}") for name, row in found.items() if name in STOPPING]
        rows.sort(key=lambda row: list(STOPPING.values()).index(row[0]))
        heads = ("method", "speed-up", "final value, %", "sets more than 1 % worse", "epochs to the same value, median")
        parts.append(f"{part} sets\n\n{markdown(heads, rows)}")
    return "\n\n".join(parts)


@table("Pruning of Optuna studies", "early-stopping")
def pruning(record: Record) -> str:
    studies = record["studies"]
    if not studies:
        return "Not measured."
    rows = []
    for pruner in next(iter(studies.values())):
        cells = [f"{statistics.fmean(found[pruner]['best']):.4f} in {statistics.fmean(found[pruner]['steps']):.0f}"
                 for found in studies.values()]
        rows.append([PRUNERS[pruner], *cells])
    rows.sort(key=lambda row: list(PRUNERS.values()).index(row[0]))
    n_seeds = len(next(iter(next(iter(studies.values())).values()))["best"])
    return f"best value in epochs, means of {n_seeds} seeds\n\n" + markdown(["pruner", *studies], rows)


@table("Many configurations", "freeze-thaw")
def freeze_thaw(record: Record) -> str:
    methods = sorted(record["optimisation"].items(), key=lambda item: item[1]["area"][0])
    budgets = list(methods[0][1]["regret"])
    heads = dict.fromkeys((f"regret after {budget}" for budget in budgets), min)
    rows = [[FREEZE_THAW.get(name, name), *(f"{row['regret'][budget][0]:.3f}" for budget in budgets), interval(row["area"]),
             f"{row['cpu_seconds_per_run_of_all_epochs']:.1f}"] for name, row in methods]
    text = markdown(["method", *heads, "mean over all epochs", "CPU s for all decisions"], rows)
    return (f"{len(record['sets'])} tables, {record['seeds']} seeds; budgets are complete runs\n\n"
            + bold_best(text, heads | {"mean over all epochs": min}))


@table("Many configurations: predictions", "freeze-thaw")
def freeze_thaw_predictions(record: Record) -> str:
    """Log-likelihood, in nats, of where new configurations end."""
    found = {name: rows for name, rows in record["predictions"].items() if name != "last value"}
    if not found:
        return "Not measured."
    counts = list(next(iter(found.values())))
    rows = [[name, *(interval(by_count[n]["log_prob new"], 2) for n in counts)] for name, by_count in found.items()]
    return markdown(["log-likelihood of new configurations, observations:", *counts], rows)
