"""Scores of labels: one label a row, or any set of labels a row.

Legend: N rows, C classes.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "class_metrics",
    "class_statistics",
    "multilabel_metrics",
    "multilabel_statistics",
]


def class_statistics(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the predicted and the true class of each row, [N, 2] float64.

    Args:
        predicted: [N] ints, 0 or more.
        gold: [N] ints, 0 or more.

    Raises:
        ValueError: not one id a row, ids that are no ints or below 0, or different lengths.
    """
    predicted, gold = _ids(predicted, "predicted"), _ids(gold, "gold")
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} labels")
    return np.stack([predicted, gold], axis=1).astype(np.float64)


def class_metrics(statistics: np.ndarray) -> dict[str, float]:
    """Return `accuracy`, `macro_f1` and `mcc` of single-label rows.

    `macro_f1` is the mean over the classes that occur among these rows, as label or as
    prediction. `mcc` is the Matthews correlation for C classes, and 0.0 where it is not defined
    (all predictions or all labels alike).

    Args:
        statistics: [N, 2] from `class_statistics`.

    Raises:
        ValueError: there are no rows.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
    coefficient" (`mcc`); both agree with scikit-learn's `f1_score` and `matthews_corrcoef`.
    """
    if not len(statistics):
        raise ValueError("there are no rows to score")
    predicted, gold = statistics.T.astype(np.int64)
    num_classes = int(max(predicted.max(), gold.max())) + 1
    right = np.bincount(gold[predicted == gold], minlength=num_classes)
    of_predicted = np.bincount(predicted, minlength=num_classes)
    of_gold = np.bincount(gold, minlength=num_classes)
    occurs = of_predicted + of_gold > 0
    f1 = _f1(right[occurs], of_predicted[occurs], of_gold[occurs])
    return {
        "accuracy": float(right.sum() / len(statistics)),
        "macro_f1": float(f1.mean()),
        "mcc": _matthews(int(right.sum()), of_predicted, of_gold),
    }


def multilabel_statistics(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return the predicted and then the true indicators of each row, [N, 2C] float64.

    Args:
        predicted: [N, C] bool or 0/1.
        gold: [N, C] bool or 0/1.

    Raises:
        ValueError: different shapes, not two axes, no class, or values other than 0 and 1.
    """
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    if predicted.shape != gold.shape or gold.ndim != 2 or not gold.shape[1]:
        raise ValueError(f"want [N, C] twice, got {predicted.shape} and {gold.shape}")
    statistics = np.concatenate([predicted, gold], axis=1).astype(np.float64)
    if not np.isin(statistics, (0, 1)).all():
        raise ValueError("indicators are 0 or 1")
    return statistics


def multilabel_metrics(statistics: np.ndarray) -> dict[str, float]:
    """Return `micro_f1`, `macro_f1` and `subset_accuracy` of rows with any number of labels.

    `macro_f1` is the mean over all C classes; a class that is nowhere true and nowhere predicted
    counts 0, as in scikit-learn with `zero_division=0`. `subset_accuracy` is the share of rows
    whose C indicators are all right.

    Args:
        statistics: [N, 2C] from `multilabel_statistics`.

    Raises:
        ValueError: there are no rows.
    """
    if not len(statistics):
        raise ValueError("there are no rows to score")
    num_classes = statistics.shape[1] // 2
    predicted, gold = statistics[:, :num_classes], statistics[:, num_classes:]
    right = np.einsum("nc,nc->c", predicted, gold)
    of_predicted, of_gold = np.split(statistics.sum(axis=0), 2)
    return {
        "micro_f1": float(_f1(right.sum(), of_predicted.sum(), of_gold.sum())),
        "macro_f1": float(_f1(right, of_predicted, of_gold).mean()),
        "subset_accuracy": float((predicted == gold).all(axis=1).mean()),
    }


def _ids(values: np.ndarray, what: str) -> np.ndarray:
    ids = np.asarray(values)
    if ids.ndim != 1:
        raise ValueError(f"{what}: want one id a row, got an array of shape {ids.shape}")
    if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0):
        raise ValueError(f"{what}: class ids are ints from 0")
    return ids


def _f1(right: np.ndarray, of_predicted: np.ndarray, of_gold: np.ndarray) -> np.ndarray:
    return 2 * right / np.maximum(of_predicted + of_gold, 1)


def _matthews(num_right: int, of_predicted: np.ndarray, of_gold: np.ndarray) -> float:
    num_rows = int(of_gold.sum())
    by_chance = int(of_predicted @ of_gold)
    spread_predicted = num_rows**2 - int(of_predicted @ of_predicted)
    spread_gold = num_rows**2 - int(of_gold @ of_gold)
    if not spread_predicted or not spread_gold:
        return 0.0
    return (num_right * num_rows - by_chance) / math.sqrt(spread_predicted * spread_gold)
