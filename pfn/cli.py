"""The `pfn` command: pretrain a recipe, describe a checkpoint, look at a prior; `estimators.commands` adds to it."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import torch

from pfn.certificate import Case, cases_of, certify, differences, record, table
from pfn.checkpoint import (
    bundled_weights,
    checkpoint_path,
    load_pretrained,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from pfn.cpu import tune_for_training
from pfn.parallel import leads
from pfn.recipes import RECIPES
from pfn.training import pretrain
from priors.catalogue import PRIORS, Entry
from priors.gallery import plot_gallery
from priors.summary import summarise
from priors.version import __version__

_SEVERAL = """\
several GPUs, or processes:
  torchrun --nproc-per-node 4 -m pfn pretrain RECIPE --batches-per-step 8
several machines, the same command on each, HOST being one of them:
  torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
    -m pfn pretrain RECIPE --batches-per-step 16
"""


def _pretrain(args: argparse.Namespace) -> None:
    tune_for_training()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    config = RECIPES[args.recipe]()
    names = ("n_steps", "decay_steps", "batches_per_step", "seed")
    config = replace(config, **{name: getattr(args, name) for name in names if getattr(args, name) is not None})
    device = args.device if args.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    out = Path(args.out if args.out is not None else f"runs/{args.recipe}.safetensors")
    if args.resume is None and out.exists():
        raise ValueError(f"{str(out)!r} exists; continue it with --resume {out}, or give another --out.")
    model = pretrain(config, device=device, time_limit=args.time_limit, resume=args.resume, out=out,
                     prefetch=args.prefetch, tensorboard=args.tensorboard)
    assert model.card is not None
    if not leads():
        return
    training = model.card.training
    print(f"{out}: step {training['step']} of {config.n_steps}, {training['tasks']:,} tasks, "
          f"{training['seconds'] / 60:.1f} min, validation loss {training['validation_loss']}")
    if training["step"] < config.n_steps:
        print(f"unfinished; go on with: pfn pretrain {args.recipe} --resume {out} --out {out}")


def _info(args: argparse.Namespace) -> None:
    model = load_pretrained(args.checkpoint)
    card = model.card
    assert card is not None
    if args.json:
        print(card.to_json())
        return
    config, training = card.config.to_dict(), card.training
    print(f"{args.checkpoint}: {config.pop('task')}, {model.n_parameters:,} parameters")
    if "tasks" in training:
        loss = training.get("validation_loss")
        print(f"saw: {training['tasks']:,} tasks; the last stage had {training['step']:,} of {training['n_steps']:,} steps, "
              f"validation loss {loss if loss is None else round(loss, 4)}")
        print(f"cost: {training['seconds'] / 60:.0f} minutes on {training.get('device', 'cpu')}, torch {training['torch']}")
    if training.get("start_from"):
        print(f"started from: {training['start_from']}")
    for stage in training.get("earlier", []):
        print(f"earlier stage: up to {stage['tasks']:,} tasks, {stage['seconds'] / 60:.0f} minutes, sizes {stage['sizes']}, "
              f"prior {stage['prior']}")
    print("validated up to: " + ", ".join(
        f"{value:,} {name.removeprefix('max_')}" for name, value in vars(card.envelope).items() if value is not None))
    for name, scores in card.scores.items():
        print(f"{name}: " + ", ".join(f"{metric} {value}" for metric, value in scores.items()))
    if card.certificate:
        gaps = [one["gap"] for one in card.certificate["found"] if one["gap"] is not None]
        known = f", gap to the exact posterior {min(gaps):.3f} to {max(gaps):.3f} nats" if gaps else ""
        print(f"certificate of {card.certificate['date']}: {len(card.certificate['found'])} cases{known}")
    print("network: " + ", ".join(f"{name} {value}" for name, value in config.items()))
    print(f"prior: {card.prior}")


def _certify(args: argparse.Namespace) -> None:
    if args.record and args.prior is not None:
        raise ValueError("--record keeps the cases of a recipe; leave out --prior.")
    tune_for_training()
    model = load_pretrained(args.checkpoint)
    card = model.card
    assert card is not None
    recorded = card.certificate
    if args.prior is None:
        cases = cases_of(card)
        if not cases:
            raise ValueError(f"no cases are known for {args.checkpoint!r}; name a --prior, one of {sorted(PRIORS)}.")
    else:
        cases = [Case(PRIORS[args.prior].make(), args.features, tuple(args.context))]
        recorded = {}                                               # of other cases
    given = {"n_tasks": args.tasks, "n_queries": args.queries, "seed": args.seed}
    defaults = {"n_tasks": 1000, "n_queries": 20, "seed": 0}
    how = {name: recorded.get(name, defaults[name]) if value is None else value for name, value in given.items()}
    found = certify(model, cases, **how, progress=sys.stderr.isatty())
    print(table(found))
    if args.record:
        path = checkpoint_path(args.checkpoint)
        tensors, _ = read_tensors(path)
        today = str(datetime.date.today())
        write_tensors(path, tensors, replace(card, certificate=record(found, **how, date=today)))
        print(f"recorded in {path}")
    elif recorded and all(recorded[name] == value for name, value in how.items()):
        changed = differences(found, recorded)
        if changed:
            raise RuntimeError(f"{args.checkpoint} does not reproduce its certificate.\n" + "\n".join(changed))
        print(f"reproduces the certificate of {recorded['date']} in the file's header")
    else:
        print("the header holds no certificate of these tasks to compare with")


def _sample(args: argparse.Namespace) -> None:
    if args.prior in PRIORS:
        entry = PRIORS[args.prior]
    else:
        config = RECIPES[args.prior]()
        low, high = config.sizes.features
        features = low if low == high else min(8, high)
        entry = Entry(lambda: config.prior, rows=200, features=features, context=100)
    prior = entry.make()

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(args.seed)

    if args.out is not None and not args.plot:
        raise ValueError(f"--out {args.out} is where a plot goes; add --plot.")
    if args.plot:
        tasks = 12 if args.tasks is None else args.tasks
        figure = plot_gallery(prior, entry.shape(tasks, args.rows, args.features), generator=generator())
        out = args.out if args.out is not None else f"{args.prior}.png"
        figure.savefig(out, dpi=120)
        print(f"{out}: {tasks} tasks of {args.prior}")
    if args.summary or not args.plot:
        tasks = 100 if args.tasks is None else args.tasks
        print(summarise(prior, entry.shape(tasks, args.rows, args.features), generator=generator()))


def _export(args: argparse.Namespace) -> None:
    if args.trunk:
        tensors, card = read_tensors(args.checkpoint)
        # Counters stay exact: bfloat16 has eight bits.
        write_tensors(args.out, {k: v if v.numel() == 1 else v.to(torch.bfloat16) for k, v in tensors.items()}, card)
    else:
        model = load_pretrained(args.checkpoint)
        assert model.card is not None
        save_checkpoint(model, args.out, model.card)
    print(f"{args.out}: {Path(args.out).stat().st_size / 2**20:.1f} MiB")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pfn", description="Pretrain and inspect prior-data fitted networks.")
    parser.add_argument("--version", action="version", version=f"pfnkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("pretrain", help="pretrain a network from a recipe, or continue a run",
                                  epilog=_SEVERAL, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("recipe", choices=sorted(RECIPES), metavar="RECIPE", help=f"one of {sorted(RECIPES)}")
    command.add_argument("--resume", metavar="CKPT", help="checkpoint to continue from")
    command.add_argument("--out", metavar="FILE", help="checkpoint to write; default runs/RECIPE.safetensors")
    command.add_argument("--time-limit", type=float, metavar="MIN", help="stop after so many minutes, resumable")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    command.add_argument("--n-steps", type=int, help="length of the run; raise it to prolong one that is resumed")
    command.add_argument("--decay-steps", type=int, help="length of the final decay of the learning rate")
    command.add_argument("--batches-per-step", type=int,
                         help="batches whose gradients are accumulated into a step, a multiple of the processes")
    command.add_argument("--seed", type=int)
    command.add_argument("--tensorboard", metavar="DIR", help="write curves for TensorBoard there")
    command.add_argument("--prefetch", action=argparse.BooleanOptionalAction,
                         help="draw the next tasks while the current ones train; default: on a GPU")
    command.add_argument("--threads", type=int, help="CPU threads; one, if the machine is busy otherwise")
    command.set_defaults(run=_pretrain)

    command = commands.add_parser("info", help="say what a checkpoint is: architecture, prior, training, envelope")
    command.add_argument("checkpoint", metavar="CKPT", help=f"a path, or one of {bundled_weights()}")
    command.add_argument("--json", action="store_true", help="print the header as it is")
    command.set_defaults(run=_info)

    command = commands.add_parser("certify", help="how far posteriors are from exact ones; compare with the file's header")
    command.add_argument("checkpoint", metavar="CKPT", help="a path, or the name of bundled weights")
    command.add_argument("--tasks", type=int, help="for each number of context rows; default: as recorded, else 1000")
    command.add_argument("--queries", type=int, help="of each task; default: as recorded, else 20")
    command.add_argument("--seed", type=int, help="of the tasks; default: as recorded, else 0")
    command.add_argument("--prior", choices=sorted(PRIORS), metavar="PRIOR",
                         help="draw tasks from this prior instead of those of the network's recipe")
    command.add_argument("--features", type=int, default=1, help="with --prior; default 1")
    command.add_argument("--context", type=int, nargs="+", default=[10, 50], metavar="N", help="with --prior; default 10 50")
    command.add_argument("--record", action="store_true", help="write what was found into the file's header")
    command.set_defaults(run=_certify)

    names = sorted(PRIORS.keys() | RECIPES.keys())
    command = commands.add_parser("sample", help="draw tasks from a prior: a table that sums them up, or a picture")
    command.add_argument("prior", choices=names, metavar="PRIOR", help=f"one of {names}; a recipe stands for its prior")
    command.add_argument("--plot", action="store_true", help="plot a gallery of tasks")
    command.add_argument("--out", metavar="FILE", help="picture to write, .png, .pdf or .svg; default PRIOR.png")
    command.add_argument("--summary", action="store_true", help="print the table, which is the default without --plot")
    command.add_argument("--tasks", type=int, help="default 12 for a plot, 100 for the table")
    command.add_argument("--rows", type=int)
    command.add_argument("--features", type=int)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_sample)

    command = commands.add_parser("export", help="keep the averaged weights of a run only, as they are shipped")
    command.add_argument("checkpoint", metavar="CKPT")
    command.add_argument("--trunk", action="store_true",
                         help="keep everything that a later run needs to go on, in bfloat16")
    command.add_argument("--out", required=True, metavar="FILE")
    command.set_defaults(run=_export)

    # Commands of packages that stand above this one. Importing them takes a second: only when it is none of the above.
    if not argv or argv[0] not in commands.choices:
        for entry in entry_points(group="pfnkit.commands"):
            entry.load()(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 1 for an error that is explained, 2 for wrong usage, 130 and 141 for signals."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser(argv).parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:                                         # `pfn … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # else Python complains when it flushes
        return 128 + 13
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"pfn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pfn: interrupted; files that were written before stand", file=sys.stderr)
        return 130
    return 0
