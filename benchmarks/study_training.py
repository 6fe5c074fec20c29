"""What the networks of `pfn/studies.py` cost that the other benchmarks measure: read from the headers of their checkpoints.

Minutes are wall time, of one thread beside other work if it was trained so; the date is that of the file.

    python benchmarks/study_training.py runs/gp-1d.safetensors runs/gp-5d.safetensors …
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

from paired import write_json

from pfn import load_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "study-training.json")
    args = parser.parse_args()
    found = {}
    for path in args.checkpoints:
        model = load_pretrained(path)
        assert model.card is not None
        training = model.card.training
        names = ("step", "tasks", "seed", "device", "torch", "validation_loss", "earlier")
        date = datetime.date.fromtimestamp(path.stat().st_mtime)
        found[path.stem] = {
            "date": str(date), "parameters": model.n_parameters, "minutes": round(training["seconds"] / 60, 1),
        } | {name: training[name] for name in names}
        print(f"{path.stem}: {model.n_parameters:,} parameters, {training['tasks']:,} tasks, "
              f"{training['seconds'] / 60:.0f} min")
    write_json(args.out, {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "networks": found})


if __name__ == "__main__":
    main()
