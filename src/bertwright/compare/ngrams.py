"""A linear classifier on the mean of learned vectors of words and hashed n-grams.

Hashes depend on the texts alone: Python's own are salted, and differ from run to run.

Shapes: N texts, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bertwright.card import MethodCard
from bertwright.compare.bag_of_words import are_unspaced
from bertwright.compare.contender import Contender, LabelledTexts, ReportProgress
from bertwright.compare.huffman import HierarchicalSoftmax
from bertwright.config import require
from bertwright.data.words import split_words

__all__ = ["NgramClassifier", "NgramIndex", "NgramsContender", "hash_text"]

_FNV_BASIS, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
_MASK = 0xFFFFFFFFFFFFFFFF
_NGRAM_FACTOR = np.uint64(116049371)
_IS_WORD = np.uint64(1 << 63)
_SHORTEST_PART = 3
_MANY_CLASSES = 1000
_BATCH_ROWS = 32
_CHUNK_ROWS = 8192

Bags = tuple[Tensor, Tensor]
"""The rows of all texts in one tensor, and where each text begins."""


def hash_text(text: str) -> int:
    """Return the 64-bit FNV-1a hash of the text's UTF-8 bytes."""
    value = _FNV_BASIS
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & _MASK
    return value


class NgramIndex:
    """The rows of what was seen in the training texts; anything else has none.

    A word is itself (63 bits of its hash); an n-gram is one of `buckets`, which others may share.
    Only buckets that were seen have a row.
    """

    def __init__(
        self, texts: Sequence[str], *, words: int, characters: int = 0, buckets: int
    ) -> None:
        """Take the rows from these texts.

        Args:
            texts: the training texts.
            words: the longest n-gram of words; 1: words alone.
            characters: the longest part of a word, of three characters at least, its beginning and
                end marked; 0: no parts.
            buckets: that the hashes of n-grams and parts fall into.
        """
        self.words = words
        self.characters = characters
        self.buckets = buckets
        self._hashes: dict[str, int] = {}
        self._parts: dict[str, list[int]] = {}
        keys, _ = self._keys(texts)
        self.keys = np.unique(keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Bytes of the hashes that have a row."""
        return self.keys.nbytes

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all texts in one array, and where each text begins: both int64."""
        keys, owners = self._keys(texts)
        if len(self.keys) == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(len(texts), dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[rows] == keys
        rows, owners = rows[known], owners[known]
        order = np.argsort(owners, kind="stable")
        return rows[order], np.searchsorted(owners[order], np.arange(len(texts)))

    def _keys(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of all texts, and the text of each."""
        words = [[text[a:b] for a, b in split_words(text)] for text in map(str.lower, texts)]
        counts = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        flat = [word for line in words for word in line]
        owners = np.repeat(np.arange(len(words)), counts)
        hashes = np.fromiter(map(self._hash, flat), dtype=np.uint64, count=len(flat))
        keys, places = [hashes | _IS_WORD], [owners]
        ngrams = hashes
        for more in range(1, self.words):
            ngrams = ngrams[:-1] * _NGRAM_FACTOR + hashes[more:]
            inside = owners[more:] == owners[: len(ngrams)]
            keys.append(ngrams[inside] % np.uint64(self.buckets))
            places.append(owners[more:][inside])
        if self.characters:
            parts = [self._parts_of(word) for word in flat]
            sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
            keys.append(np.array([key for each in parts for key in each], dtype=np.uint64))
            places.append(np.repeat(owners, sizes))
        return np.concatenate(keys), np.concatenate(places)

    def _hash(self, word: str) -> int:
        value = self._hashes.get(word)
        if value is None:
            value = self._hashes[word] = hash_text(word)
        return value

    def _parts_of(self, word: str) -> list[int]:
        """Return the buckets of the parts of a word."""
        found = self._parts.get(word)
        if found is None:
            marked = f"<{word}>"
            found = self._parts[word] = [
                hash_text(marked[start : start + size]) % self.buckets
                for size in range(_SHORTEST_PART, self.characters + 1)
                for start in range(len(marked) - size + 1)
            ]
        return found


class _NgramNetwork(nn.Module):
    """Mean of vectors, then a full or a hierarchical softmax."""

    def __init__(self, num_rows: int, counts: np.ndarray, width: int, *, tree: bool) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(max(1, num_rows), width, mode="mean", sparse=True)
        nn.init.uniform_(self.vectors.weight, -1 / width, 1 / width)
        self.tree = HierarchicalSoftmax(counts, width) if tree else None
        self.output = None if tree else nn.Linear(width, len(counts), bias=False)
        if self.output is not None:
            nn.init.zeros_(self.output.weight)

    def forward(self, bags: Bags) -> Tensor:
        """Return [N, C]."""
        h = self.vectors(*bags)
        softmax = self.tree or self.output
        assert softmax is not None
        return softmax(h)

    def loss(self, bags: Bags, labels: Tensor) -> Tensor:
        """Return the summed loss: a row moves the weights as far as it would alone."""
        if self.tree is None:
            return cross_entropy(self(bags), labels, reduction="sum")
        return self.tree.loss(self.vectors(*bags), labels).sum()


class NgramClassifier:
    """What `NgramsContender` has learned."""

    def __init__(self, index: NgramIndex, network: _NgramNetwork) -> None:
        self.index = index
        self.network = network.eval()

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, C]; a text without a known word has the vector 0."""
        parts = [
            self.network(_bags(self.index, texts[start : start + _CHUNK_ROWS])).numpy()
            for start in range(0, len(texts), _CHUNK_ROWS)
        ]
        return np.concatenate(parts)

    @property
    def num_bytes(self) -> int:
        """Bytes of vectors, weights and hashes."""
        weights = sum(parameter.nbytes for parameter in self.network.parameters())
        return weights + self.index.num_bytes


def _bags(index: NgramIndex, texts: Sequence[str]) -> Bags:
    rows, starts = index.encode(texts)
    return torch.from_numpy(rows), torch.from_numpy(starts)


@dataclass(frozen=True, kw_only=True)
class NgramsContender(Contender):
    """fastText's classifier."""

    card: ClassVar[MethodCard] = MethodCard(
        name="ngrams",
        kind="compare",
        summary="fastText's idea: a linear classifier on the mean of vectors of words and n-grams.",
        paper="Bag of Tricks for Efficient Text Classification",
        year=2016,
        citation="Joulin, Grave, Bojanowski, Mikolov 2016, arXiv:1607.01759",
        equation="h = mean over words and n-grams of their vectors\n"
        "P(c|h) = softmax(W h)_c, or product over the path of c of sigma(s_j theta_j · h)\n"
        "minimising the sum of -ln P by SGD, the rate falling linearly to 0",
        needs="Labelled texts; dev rows for the best epoch.",
        cost="Seconds on a CPU. D numbers a word and a bucket that was met.",
        expected_effect="Near tfidf; much faster than it with many classes and millions of rows.",
        expected_source="Joulin et al. 2016, tables 1, 2 and 5.",
        when_to_use="Many rows, many classes, little time.",
        when_not_to_use="With few rows: the vectors begin as noise.",
        siblings="tfidf has C weights a word in place of a short vector.",
        departures="Steps of 32 rows with summed gradients in place of one row on each thread. "
        "n-grams that were not met in training are left out, where the paper adds their random "
        "vectors; characters are words where over 30% are Han or kana, then up to three in a row.",
    )
    width: int = 100
    """D."""
    words: int | None = None
    """The longest n-gram of words; none: 2, or 3 where characters are words."""
    characters: int = 0
    """The longest part of a word (from 3 characters); 0: no parts."""
    buckets: int = 2_000_000
    """That n-grams are hashed into."""
    epochs: int = 20
    """The best on dev is kept."""
    lr: float = 0.5
    """At the first step; falls linearly to 0."""
    softmax: Literal["auto", "full", "hierarchical"] = "auto"
    """auto: hierarchical where there are over 1000 classes."""

    def __post_init__(self) -> None:
        for name in ("width", "buckets", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.words is None or self.words >= 1, "words", self.words, "at least 1")
        require(
            self.characters == 0 or self.characters >= 3, "characters", self.characters, "0, 3+"
        )
        require(self.lr > 0, "lr", self.lr, "above 0")

    def fit(
        self,
        train: LabelledTexts,
        dev: LabelledTexts,
        *,
        num_classes: int,
        seed: int,
        progress: ReportProgress | None = None,
    ) -> NgramClassifier:
        """Train, and keep the epoch of the best accuracy on dev."""
        longest = self.words or (3 if are_unspaced(train.texts) else 2)
        index = NgramIndex(
            train.texts, words=longest, characters=self.characters, buckets=self.buckets
        )
        counts = np.bincount(train.labels, minlength=num_classes)
        tree = self.softmax == "hierarchical"
        tree = tree or (self.softmax == "auto" and num_classes > _MANY_CLASSES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _NgramNetwork(len(index), counts, self.width, tree=tree)
            self._train(network, index, train, dev, progress)
        return NgramClassifier(index, network)

    def _train(
        self,
        network: _NgramNetwork,
        index: NgramIndex,
        train: LabelledTexts,
        dev: LabelledTexts,
        progress: ReportProgress | None,
    ) -> None:
        rows, starts = index.encode(train.texts)
        take = _taker(rows, starts)
        labels, dev_bags = torch.from_numpy(train.labels), _bags(index, dev.texts)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr)
        best, best_right = deepcopy(network.state_dict()), -1
        num_steps = self.epochs * -(-len(train) // _BATCH_ROWS)
        step = 0
        for epoch in range(self.epochs):
            for batch in torch.randperm(len(train)).split(_BATCH_ROWS):
                optimizer.param_groups[0]["lr"] = self.lr * (1 - step / num_steps)
                optimizer.zero_grad()
                network.loss(take(batch.numpy()), labels[batch]).backward()
                optimizer.step()
                step += 1
            with torch.no_grad():
                right = int((network(dev_bags).argmax(dim=1).numpy() == dev.labels).sum())
            if right > best_right:
                best, best_right = deepcopy(network.state_dict()), right
            if progress is not None:
                progress("n-grams", (epoch + 1) / self.epochs)
        network.load_state_dict(best)


def _taker(rows: np.ndarray, starts: np.ndarray) -> Callable[[np.ndarray], Bags]:
    """Return a function from positions of texts to their bags."""
    texts = np.split(rows, starts[1:])

    def take(positions: np.ndarray) -> Bags:
        chosen = [texts[position] for position in positions]
        ends = np.cumsum([len(text) for text in chosen])
        begins = np.concatenate([[0], ends[:-1]])
        return torch.from_numpy(np.concatenate(chosen)), torch.from_numpy(begins)

    return take
