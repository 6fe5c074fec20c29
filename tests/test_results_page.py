"""benchmarks/RESULTS.md is what the files of results give, shows all of them, and links to nothing that is not there."""

import importlib
import json
import re
from pathlib import Path

import pytest

from pfn.recipes import RECIPES

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TEMPLATE = (BENCHMARKS / "RESULTS.in.md").read_text()
RESULTS = BENCHMARKS / "results"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def report(load):
    return load("report")


@pytest.fixture
def run_all(load):
    return load("run_all")


def links(text):
    return re.findall(r"\]\(([^)]+)\)", text)


def test_page_is_what_the_results_give(report):
    assert report.main(["--check"]) == 0, "run `python benchmarks/report.py`"


def test_check_notices_a_changed_number(report, tmp_path, capsys):
    page = tmp_path / "RESULTS.md"
    page.write_text((BENCHMARKS / "RESULTS.md").read_text().replace("0.9122", "0.9123"))
    assert report.main(["--check", "--out", str(page)]) == 1
    assert "report.py" in capsys.readouterr().err
    assert report.main(["--check", "--out", str(tmp_path / "absent.md")]) == 1


def test_every_table_has_its_place_and_every_place_a_table(report):
    assert sorted(report.placeholders(TEMPLATE)) == sorted(report.TABLES)
    assert "{{" not in (BENCHMARKS / "RESULTS.md").read_text()


def test_every_file_of_results_is_in_a_table_or_linked(report):
    read = {f"results/{name}.json" for name in report.used(TEMPLATE)}
    files = {f"results/{path.name}" for path in RESULTS.iterdir()}
    assert files - read - set(links(TEMPLATE)) == set()


def test_links_lead_somewhere():
    text = (BENCHMARKS / "RESULTS.md").read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for link in links(text):
        assert link in anchors if link.startswith("#") else (BENCHMARKS / link).exists(), link


def test_placeholders_that_cannot_be_filled_are_named(report, tmp_path):
    with pytest.raises(ValueError, match=r"\{\{nothing\}\}: no such table; there are bakeoff, "):
        report.page("{{nothing}}", RESULTS)
    for text in ("{{memory}}", "{{when memory}}"):
        with pytest.raises(ValueError, match=re.escape(f"{text}: a file is missing")):
            report.page(text, tmp_path)


def test_a_bare_page_has_the_tables_whose_files_are_there(report, tmp_path):
    record = {"table": "9 × 2", "queries": 3, "results": {"regressor": {
        "fit_seconds": 1.5, "predict_seconds": 2.5, "peak_gib": 0.25, "score": 0.75}}}
    (tmp_path / "memory.json").write_text(json.dumps(record))
    text = report.bare_page(TEMPLATE, tmp_path, "# A heading")
    assert re.findall(r"^#.*", text, re.MULTILINE) == ["# A heading", "## Memory"]
    assert text.endswith("| PFNRegressor | 1.5 | 2.5 | 0.25 | 0.75 |\n")


def test_the_best_of_a_column_is_bold(load):
    tables = load("report_table")
    text = "title\n\n" + tables.markdown(("model", "loss", "score"), [
        ("a", "−0.5 (−1.0 … 0.1)", "2"), ("b", "0.25", "–"), ("c", "−0.1", "10"), ("d", "–", "10")])
    assert tables.bold_best(text, {"loss": min, "score": max}).split("\n")[2:] == [
        "| model | loss | score |", "|---|---|---|", "| a | **−0.5** (−1.0 … 0.1) | 2 |", "| b | 0.25 | – |",
        "| c | −0.1 | **10** |", "| d | – | **10** |"]
    alone = tables.markdown(("model", "loss"), [("a", "1")])
    assert tables.bold_best(alone, {"loss": min}) == alone


def test_numbers_and_dates_are_written_as_they_are_meant(load):
    tables = load("report_table")
    assert [tables.seconds(value) for value in (0.00409, 0.5, 3.04, 12.4, 1234.0)] == ["0.0041", "0.5", "3", "12", "1234"]
    assert tables.interval([-0.125, -0.5, 1.0], 2) == "−0.12 (−0.50 … 1.00)"
    assert tables.when({"computed": {"a": "today", "b": "today", "c": "before"}}) == "before; today"
    assert tables.when({"date": "2026-01-02", "parts": {"x": {"date": "2026-01-01", "machine": "m"}}}) == (
        "2026-01-01 to 2026-01-02, m")


def test_summary_compares_with_the_best_peer(load):
    out = load("report_summary").Summary()
    out.add("x", "loss", {"ours": 0.5, "near": 0.4, "far": 0.9}, "ours", min, 1, "A part, b", {"near": "Near"})
    out.add("y", "score", {"ours": 7.0, "near": 7.0, "far": 3.0}, "ours", max, 0, "B")
    assert out.rows == [("x", "loss", "0.5", "Near", "**0.4**", "[A part, b](#a-part-b)"),
                        ("y", "score", "7", "near", "7", "[B](#b)")]


def test_summary_averages_seeds_before_sets_and_counts_ties(load):
    summary = load("report_summary")
    rows = {"a/20/0/m": {"f1": 1.0}, "a/20/1/m": {"f1": 0.0}, "b/20/0/m": {"f1": 0.8}, "a/20/0/k": {"f1": 0.1}}
    assert summary.averages(rows, "f1") == pytest.approx({"m": 0.65, "k": 0.1})
    models = ("tabr", "catboost", "lightgbm", "xgboost")
    rows = {f"a/0/{model}": {"accuracy": value} for model, value in zip(models, (0.9, 0.9, 0.8, 0.7), strict=True)}
    rows |= {f"b/0/{model}": {"rmse": value} for model, value in zip(models, (0.9, 0.7, 0.8, 0.7), strict=True)}
    rows |= {f"c/0/{model}": {"accuracy": 1.0} for model in models[1:]}                    # TabR has not run there
    assert summary.wins(rows) == {"tabr": 1, "catboost": 2, "lightgbm": 0, "xgboost": 1}


def test_commands_name_scripts_options_files_and_studies_that_exist(run_all):
    made = set()
    for step in run_all.STEPS.values():
        assert set(step.studies) <= set(RECIPES)
        for line in (*step.full, *step.quick):
            script, *words = line.split()
            source = (BENCHMARKS / script).read_text()
            shared = [f"{name}.py" for name in re.findall(r"^from (reference_\w+|real_data) import", source, re.MULTILINE)]
            source += "".join((BENCHMARKS / name).read_text() for name in shared)
            for word in words:
                assert not word.startswith("--") or f'"{word}"' in source, (script, word)
                made |= {word.removeprefix("{out}/")} if word.endswith(".json") and word.startswith("{out}/") else set()
                assert not word.startswith("benchmarks/data") or (BENCHMARKS.parent / word).exists(), word
    made |= {f"bayesopt-{suite}.json" for suite in ("engineering", "tuning", "synthetic")} | {"freeze-thaw.json"}
    files = {path.name for path in RESULTS.glob("*.json")}
    assert files - made == {name for name in run_all.BY_HAND if name.endswith(".json")}


def test_a_failure_stops_nothing_and_is_named(run_all, monkeypatch, tmp_path):
    steps = {"bad": run_all.Step(("nothing.py", "run_all.py --list"), ("nothing.py",)),
             "poor": run_all.Step(("run_all.py --list",), packages=("no_such_package",)),
             "good": run_all.Step(("run_all.py --list",))}
    monkeypatch.setattr(run_all, "STEPS", steps)
    bad, poor, good = run_all.run_steps(list(steps), tmp_path, quick=False)
    assert bad.reason == f"exit code 2, see {tmp_path / 'logs' / 'bad.log'}"
    assert (tmp_path / "logs" / "bad.log").read_text().startswith("$ nothing.py\n")
    assert poor.reason == "left out: needs no_such_package"
    assert good.reason == ""
    assert good.cpu_seconds > 0.01
    assert "classification.py --out" in (tmp_path / "logs" / "good.log").read_text()


def test_studies_are_trained_if_they_are_absent(run_all, monkeypatch, tmp_path):
    lines = []

    def run(name, todo, threads, out):
        lines.extend(todo)
        if name == "train-layers":
            (tmp_path / "runs" / "layers.partial.safetensors").touch()
        return run_all.Outcome(name, "killed" if name == "train-layers" and len(lines) == 1 else "")

    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    monkeypatch.setattr(run_all, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run_all, "run", run)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "loops.safetensors").touch()
    partial = "runs/layers.partial.safetensors"
    first, _ = run_all.run_steps(["looped"], tmp_path, quick=False)
    assert first == run_all.Outcome("train-layers", "killed")
    assert not (tmp_path / "runs" / "layers.safetensors").exists()
    run_all.run_steps(["looped"], tmp_path, quick=False)
    assert lines == [f"pfn pretrain layers --out {partial}", *run_all.STEPS["looped"].full,
                     f"pfn pretrain layers --resume {partial} --out {partial}", *run_all.STEPS["looped"].full]
    assert (tmp_path / "runs" / "layers.safetensors").exists()
    run_all.run_steps(["looped"], tmp_path, quick=False)
    assert lines[-2:] == [lines[-1]] * 2                            # no training
    assert run_all.command(lines[0], tmp_path)[3:] == ["-m", "pfn", "pretrain", "layers", "--out", partial]


def test_caches_are_beside_other_results(run_all, tmp_path):
    line = "freeze_thaw.py --cache {cache}/a --results {out}"
    assert run_all.filled(line, tmp_path) == f"freeze_thaw.py --cache {tmp_path}/cache/a --results {tmp_path}"
    committed = run_all.filled(line, run_all.RESULTS)
    assert committed == f"freeze_thaw.py --cache {run_all.RUNS}/bench/a --results {RESULTS}"


def rows_of_summary(text):
    """(capability, measure, ours, peer, the peer's) of a table whose empty first cells repeat the one above."""
    rows, capability = set(), ""
    lines = text[text.index("| capability | measure |"):].splitlines()
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        capability = cells[0] or capability
        rows.add((capability, *cells[1:5]))
    return rows


def test_the_readme_shows_rows_of_the_summary():
    shown = rows_of_summary((BENCHMARKS.parent / "README.md").read_text(encoding="utf-8"))
    assert len(shown) > 10
    assert shown <= rows_of_summary((BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8"))
