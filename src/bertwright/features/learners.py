"""Classic models of scikit-learn on frozen vectors, each made into a head of the same outputs.

A head that a model of torch holds is saved in safetensors, exported, served and compressed like
any other; scikit-learn fits it, and is not needed after that.

Shapes: N rows, D width of the vectors, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.card import MethodCard
from bertwright.models.heads import ClassificationHead, HeadConfig, NeighbourHead, TreesHead
from bertwright.models.heads.fitted import TREE_LEVELS
from bertwright.models.outputs import Outputs
from bertwright.registry import Choices

__all__ = ["BEST", "LEARNERS", "Learner", "fit_softmax", "learners_named"]

_FAMILY = {
    "paper": "Scikit-learn: Machine Learning in Python",
    "year": 2011,
    "citation": "Pedregosa et al. 2011, JMLR 12",
    "expected_effect": (
        "MiniLM on sst2: 4 to 9 points below tuning. On clinc150 19 above with 300 rows, 11 above "
        "with 1,000, half a point below with 15,100."
    ),
    "expected_source": "Measured here: docs/frozen.md.",
}


_DEAD = 1e-6
"""A coordinate whose deviation is this share of the usual one, or less, says nothing."""
_MOST_STEPS = 300
_SMALL_GRADIENT = 1e-5


class Learner(ABC):
    """One classic model: its settings, and how it is fitted."""

    card: ClassVar[MethodCard]
    head: ClassVar[str]
    """The head that it becomes, as in `HeadConfig.head`."""
    grid: ClassVar[Sequence[Mapping[str, Any]]]
    """The settings to choose from."""
    most_work: ClassVar[float] = 2e9
    """Rows times width times outputs up to which it is tried."""

    def affordable(self, rows: int, width: int, outputs: Outputs) -> bool:
        """Return whether its fits are a matter of minutes."""
        return rows * width * max(outputs.count, 2) <= self.most_work

    @abstractmethod
    def fit(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> nn.Module:
        """Return a head [B, D] -> [B, C] fitted to vectors x [N, D].

        Args:
            x: fp32.
            y: [N], ids of classes, or numbers of mean 0 and deviation 1.
            outputs: of classes or numbers.
            setting: one of `grid`.
            seed: where anything is drawn.
        """


class _Linear(Learner):
    """Models whose outputs are W x + b, fitted on coordinates of mean 0 and deviation 1."""

    head = "linear"

    @abstractmethod
    def solve(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return W [c, D] and b [c] for the classes that occur in y, or the numbers."""

    def fit(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> nn.Module:
        centre, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        alive = spread > _DEAD * np.median(spread)
        spread = np.where(alive, spread, 1.0)
        scaled = ((x - centre) / spread).astype(np.float32)
        if outputs.kind == "classes" and len(np.unique(y)) == 1:
            return _constant_head(x.shape[1], outputs, int(y[0]))
        weight, bias = self.solve(scaled, y, outputs, setting, seed)
        if outputs.kind == "classes":
            weight, bias = _all_classes(weight, bias, np.unique(y), outputs.count)
        weight = weight / spread
        return _linear_head(weight, bias - weight @ centre)


def _all_classes(
    weight: np.ndarray, bias: np.ndarray, known: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a row for each of `count` classes; those without training rows are never chosen."""
    if len(known) == 2 and len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    every = np.zeros((count, weight.shape[1]))
    least = np.full(count, float(bias.min()) - 1e4)
    every[known], least[known] = weight, bias
    return every, least


def _linear_head(weight: np.ndarray, bias: np.ndarray) -> ClassificationHead:
    head = ClassificationHead(weight.shape[1], len(weight), HeadConfig(head="linear"))
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    head.out.load_state_dict({name: value.float() for name, value in tensors.items()})
    return head.eval()


def _constant_head(width: int, outputs: Outputs, known: int) -> ClassificationHead:
    bias = np.full(outputs.count, -1e4)
    bias[known] = 0.0
    return _linear_head(np.zeros((outputs.count, width)), bias)


def _coefficients(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    return weight.astype(np.float64), bias.astype(np.float64)


class Logistic(_Linear):
    """Logistic regression; of numbers, least squares with an L2 penalty is `ridge`."""

    card = MethodCard(
        name="logistic",
        kind="frozen",
        summary="Logistic regression on frozen vectors; the penalty is chosen.",
        equation="min 1/2 |W|^2 + C sum_i -log softmax(W x_i + b)[y_i], x standardised",
        needs="Labels of classes; a frozen encoder.",
        cost="Seconds to minutes: rows times width times classes, some hundred times.",
        when_to_use="First, on frozen vectors: it is hard to beat and its probabilities are fair.",
        when_not_to_use="With many rows and time: fine-tuning is above it.",
        siblings="svm has another loss; ridge is quicker with very many classes.",
        departures="Solved by torch's L-BFGS: with many classes it is quicker by far than scipy's.",
        **_FAMILY,
    )
    grid = tuple({"C": value} for value in (0.003, 0.03, 0.3, 3.0))

    def affordable(self, rows: int, width: int, outputs: Outputs) -> bool:
        return outputs.kind == "classes" and super().affordable(rows, width, outputs)

    def solve(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        known, places = np.unique(y, return_inverse=True)
        # Two classes have one vector in scikit-learn: two opposite halves have half its penalty.
        c = setting["C"] / 2 if len(known) == 2 else setting["C"]
        return fit_softmax(x, places, len(known), c)


def fit_softmax(
    x: np.ndarray, y: np.ndarray, count: int, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return W [C, D] and b [C] of logistic regression: the least |W|^2 / 2 + c sum_i loss_i.

    Args:
        x: [N, D], fp32, coordinates of deviation 1.
        y: ids of classes, [N].
        count: C.
        c: what the losses count against the penalty.
    """
    inputs, right = torch.from_numpy(x), torch.from_numpy(np.array(y))
    weight = torch.zeros(count, x.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MOST_STEPS,
        tolerance_grad=_SMALL_GRADIENT,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = nn.functional.cross_entropy(inputs @ weight.T + bias, right)
        loss = loss + weight.square().sum() / (2 * c * len(x))
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach().double().numpy(), bias.detach().double().numpy()


class Svm(_Linear):
    """A linear support vector machine, one class against the rest; of numbers, its regression."""

    card = MethodCard(
        name="svm",
        kind="frozen",
        summary="A linear support vector machine on frozen vectors; the penalty is chosen.",
        equation="min 1/2 |w|^2 + C sum_i max(0, 1 - s_i (w.x_i + b))^2, s_i = 1 or -1",
        needs="Labels or numbers; a frozen encoder.",
        cost="A fit a class; not tried where rows times width times classes are many.",
        when_to_use="With few rows and a clear margin.",
        when_not_to_use="With many classes: one fit each.",
        siblings="logistic has the loss whose minimum is a probability.",
        departures="Linear alone: a kernel needs all training vectors at every answer.",
        **_FAMILY,
    )
    grid = tuple({"C": value} for value in (0.0003, 0.003, 0.03))
    most_work = 3e7

    def solve(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.svm import LinearSVC, LinearSVR

        options: dict[str, Any] = {"C": setting["C"], "dual": False, "random_state": seed}
        if outputs.kind == "numbers":
            return _coefficients(LinearSVR(loss="squared_epsilon_insensitive", **options).fit(x, y))
        return _coefficients(LinearSVC(**options).fit(x, y))


class Ridge(_Linear):
    """Least squares with an L2 penalty; of classes, on targets of 1 and -1."""

    card = MethodCard(
        name="ridge",
        kind="frozen",
        summary="Ridge regression on frozen vectors, of numbers or classes; the penalty is chosen.",
        equation="min |W x + b - y|^2 + a |W|^2; of classes y is 1, and -1 elsewhere",
        needs="Labels or numbers; a frozen encoder.",
        cost="One linear system, whatever the number of classes.",
        when_to_use="For numbers, and where there are very many classes.",
        when_not_to_use="Where classes are unequal and probabilities count.",
        siblings="logistic.",
        departures="None.",
        **_FAMILY,
    )
    grid = tuple({"alpha": value} for value in (10.0, 100.0, 1000.0, 10000.0))
    most_work = 1e12

    def solve(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import Ridge as RidgeNumbers
        from sklearn.linear_model import RidgeClassifier

        kind = RidgeNumbers if outputs.kind == "numbers" else RidgeClassifier
        return _coefficients(kind(alpha=setting["alpha"], random_state=seed).fit(x, y))


class Nearest(Learner):
    """The k nearest training vectors by cosine; nothing is fitted but k."""

    card = MethodCard(
        name="nearest",
        kind="frozen",
        summary="The nearest training texts by cosine vote; their number is chosen.",
        equation="p(c) = (votes for c among the k nearest + 1/C) / (k + 1); numbers: their mean",
        needs="Labels or numbers; a frozen encoder. The training vectors are kept in the model.",
        cost="D + C numbers a training row in the model; N D products an answer.",
        when_to_use="To add rows without training, and to see which rows an answer rests on.",
        when_not_to_use="With many rows: the model grows with them.",
        siblings="logistic forgets the rows.",
        departures="Votes are smoothed by one row spread over all classes.",
        **_FAMILY,
    )
    head = "nearest"
    grid = tuple({"k": value} for value in (1, 5, 15, 50))
    most_work = 1e12

    def fit(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> nn.Module:
        vectors = nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(x)), dim=-1)
        answers = torch.from_numpy(np.array(y))
        targets = (
            answers.float()[:, None]
            if outputs.kind == "numbers"
            else nn.functional.one_hot(answers, outputs.count).float()
        )
        head = NeighbourHead(x.shape[1], outputs)
        head.set(vectors=vectors, targets=targets, votes=torch.ones(min(setting["k"], len(x))))
        return head.eval()


class Boosting(Learner):
    """Gradient boosting of small trees, each on half of the rows and some of the coordinates."""

    card = MethodCard(
        name="boosting",
        kind="frozen",
        summary="Gradient-boosted trees of three levels on frozen vectors; their number is chosen.",
        equation="F_m = F_{m-1} + 0.1 tree_m(x), tree_m fitted to the gradient of the log-loss",
        needs="Labels or numbers; a frozen encoder.",
        cost="A tree a class and round; not tried where rows times width times classes are many.",
        when_to_use="Where single coordinates decide, which is rare for states of an encoder.",
        when_not_to_use="With many classes.",
        siblings="logistic is nearly always above it on these vectors.",
        departures="Stochastic: half of the rows, the root of the number of coordinates a split.",
        **_FAMILY,
    )
    head = "trees"
    grid = tuple({"rounds": value} for value in (100, 300))
    most_work = 2e7
    most_outputs = 20

    def affordable(self, rows: int, width: int, outputs: Outputs) -> bool:
        few = outputs.count <= self.most_outputs
        return few and super().affordable(rows, width, outputs)

    def fit(
        self, x: np.ndarray, y: np.ndarray, outputs: Outputs, setting: Mapping[str, Any], seed: int
    ) -> nn.Module:
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

        numbers = outputs.kind == "numbers"
        if not numbers and len(np.unique(y)) == 1:
            return _constant_head(x.shape[1], outputs, int(y[0]))
        kind = GradientBoostingRegressor if numbers else GradientBoostingClassifier
        fitted: Any = kind(
            n_estimators=setting["rounds"],
            max_depth=TREE_LEVELS,
            subsample=0.5,
            max_features="sqrt",
            random_state=seed,
        ).fit(x, y)
        columns = [0] if numbers else [int(place) for place in fitted.classes_]
        binary = not numbers and len(columns) == 2
        if binary:
            columns = columns[1:]
        head = TreesHead(outputs)
        head.set(
            start=_start(fitted, x, columns, outputs, binary=binary),
            **_tree_arrays(fitted.estimators_, columns, fitted.learning_rate),
        )
        return head.eval()


def _start(
    fitted: Any, x: np.ndarray, columns: Sequence[int], outputs: Outputs, *, binary: bool
) -> Tensor:
    """Return what the sums begin with: what all trees together leave of the model's outputs."""
    first = x[:1]
    raw = fitted.predict(first) if outputs.kind == "numbers" else fitted.decision_function(first)
    trees = [sum(tree.predict(first)[0] for tree in column) for column in fitted.estimators_.T]
    begin = np.atleast_1d(np.squeeze(raw)) - fitted.learning_rate * np.asarray(trees)
    least = 0.0 if outputs.kind == "numbers" else float(min(begin.min(), 0.0)) - 1e4
    start = np.full(outputs.count, least)
    start[columns] = begin
    if binary:
        start[[int(place) for place in fitted.classes_ if int(place) not in columns]] = 0.0
    return torch.from_numpy(start).float()


def _tree_arrays(estimators: np.ndarray, columns: Sequence[int], rate: float) -> dict[str, Tensor]:
    """Return the trees [rounds, columns] as arrays of a `TreesHead`."""
    trees = [
        (tree.tree_, column)
        for row in estimators
        for tree, column in zip(row, columns, strict=True)
    ]
    nodes = max(tree.node_count for tree, _ in trees)
    size = (len(trees), nodes)
    feature, left = np.zeros(size, np.int64), np.tile(np.arange(nodes), (len(trees), 1))
    right, threshold, value = left.copy(), np.zeros(size), np.zeros(size)
    for place, (tree, _) in enumerate(trees):
        inner = np.flatnonzero(tree.children_left >= 0)
        feature[place, inner] = tree.feature[inner]
        threshold[place, inner] = tree.threshold[inner]
        left[place, inner] = tree.children_left[inner]
        right[place, inner] = tree.children_right[inner]
        value[place, : tree.node_count] = rate * tree.value[:, 0, 0]
    return {
        "feature": torch.from_numpy(feature),
        "threshold": torch.from_numpy(_rounded_down(threshold)),
        "left": torch.from_numpy(left),
        "right": torch.from_numpy(right),
        "value": torch.from_numpy(value),
        "adds_to": torch.tensor([column for _, column in trees]),
    }


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """Return fp32 values not above these: x <= value holds for the same fp32 x."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


_KINDS: tuple[type[Learner], ...] = (Logistic, Svm, Ridge, Nearest, Boosting)
LEARNERS: Choices[type[Learner]] = Choices("learner", {kind.card.name: kind for kind in _KINDS})
BEST = "best"
"""All of them are tried."""


def learners_named(name: str) -> tuple[str, ...]:
    """Return the learners that a name asks for: itself, or all of them for `best`.

    Raises:
        UnknownChoiceError: there is no such learner.
    """
    return tuple(LEARNERS) if name == BEST else (LEARNERS[name].card.name,)
