"""Series out of a text table: one row a series, one column the label."""

import csv

import numpy as np

from tfmetaprune.data.arrays import SPLIT_NAMES, array_examples
from tfmetaprune.data.splits import Examples
from tfmetaprune.errors import DataError

_LABEL_NAMES = ("label", "class", "target", "y")


def table_examples(path) -> Examples:
    """Reads a .csv file (commas) or .tsv file (tabs) of series of one length, one a row.

    The first column is the label, unless the first row names another one "label", "class", "target" or "y". A column named
    "split" tells train, validation or test. All other columns are the values of the series, in order.

    Args:
      path: of the file.

    Returns:
      Its `Examples`, x being [length, 1]; splits that it does not have are cut from train.

    Raises:
      DataError: the file cannot be read, rows differ in length, or a value is no number.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [(reader.line_num, row) for reader in [csv.reader(file, delimiter=_delimiter(path))] for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"load: expected '{path}' to be a text table, got {type(error).__name__}: {error}.") from error
    if not rows:
        raise DataError(f"load: expected rows in '{path}', got an empty file. Write one row a series.")
    head = [cell.strip().lower() for cell in rows[0][1]]
    is_name = head[0] in _LABEL_NAMES and all(row[0].strip().lower() != head[0] for _, row in rows[1:])  # and no class of that name
    has_head = is_name or any(cell and not _is_number(cell) for cell in head[1:])  # a missing value is no name
    label = next((head.index(name) for name in _LABEL_NAMES if has_head and name in head), 0)
    split = head.index("split") if has_head and "split" in head else None
    values, labels, splits = [], [], []
    for line, row in rows[has_head:]:
        if len(row) != len(head):
            raise DataError(
                f"load: expected {len(head)} columns in every row of '{path}', got {len(row)} in line {line}. Make all series "
                f"of one length."
            )
        cells = [cell for column, cell in enumerate(row) if column not in (label, split)]
        wrong = next((cell for cell in cells if not _is_number(cell)), None)
        if wrong is not None:
            raise DataError(f"load: expected numbers in '{path}', got {wrong!r} in line {line}. Fill in missing values.")
        name = "train" if split is None else row[split].strip().lower()
        if name not in SPLIT_NAMES:
            raise DataError(f"load: expected train, validation or test as split in '{path}', got {name!r} in line {line}.")
        values.append(cells)
        labels.append(row[label].strip())
        splits.append(SPLIT_NAMES[name])
    if not values or not values[0] or "train" not in splits:
        raise DataError(f"load: expected series for training in '{path}', got none. Write one row a series, the label first.")
    x, y, splits = np.array(values, np.float64), np.array(labels), np.array(splits)
    if all(map(_is_number, labels)):
        y = y.astype(np.float64)
    return array_examples(str(path), {name: (x[splits == name], y[splits == name]) for name in sorted(set(splits.tolist()))})


def _delimiter(path):
    return "\t" if str(path).lower().endswith(".tsv") else ","


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
