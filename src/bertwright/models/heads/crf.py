"""A linear-chain CRF: tags of a sequence are scored together, so neighbours decide together.

Shapes: B batch, L length, T tags, N the most unmasked steps of any row of the batch.

A path's score is start[y_1] + Σ emissions[i, y_i] + Σ transitions[y_{i-1}, y_i] + end[y_n], over
the unmasked steps alone. A mask may have holes: each row is compacted first, its unmasked steps
moved to the front in their order, so that a step follows the unmasked one before it.

Source: Lafferty, McCallum, Pereira 2001.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bertwright.errors import UsageError

__all__ = [
    "LinearChainCRF",
    "allowed_transitions",
    "crf_log_likelihood",
    "marginals",
    "viterbi_decode",
    "viterbi_numpy",
]

_INIT_RANGE = 0.1
_FORBIDDEN = -1e9


class _Chain(NamedTuple):
    """The unmasked steps of each row, first; what follows them in a shorter row is not real."""

    emissions: Tensor
    """[B, N, T]; 0 where not real."""
    real: Tensor
    """Bool [B, N]."""
    places: Tensor
    """int64 [B, N]: which step of the row it was."""


def _compact(emissions: Tensor, mask: Tensor) -> _Chain:
    mask = mask.bool()
    most = max(int(mask.sum(dim=1).max()), 1)
    places = torch.argsort(~mask, dim=1, stable=True)[:, :most]
    kept = emissions.masked_fill(~mask[..., None], 0.0)
    index = places[..., None].expand(-1, -1, emissions.shape[2])
    return _Chain(kept.gather(1, index), mask.gather(1, places), places)


def _fp32_or_finer(*tensors: Tensor) -> list[Tensor]:
    """Return all in one type: float32, or float64 where one has it."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return [t.to(dtype) for t in tensors]


def _prefix_scores(chain: _Chain, start: Tensor, transitions: Tensor) -> list[Tensor]:
    """Return, for each step, the log sum over all paths up to it by their last tag, [B, T].

    Past a row's last real step its value stays.
    """
    emissions, real = chain.emissions.unbind(1), chain.real.unbind(1)
    alpha = start + emissions[0]
    alphas = [alpha]
    for emission, is_real in zip(emissions[1:], real[1:], strict=True):
        ahead = emission + torch.logsumexp(alpha[:, :, None] + transitions, dim=1)
        alpha = torch.where(is_real[:, None], ahead, alpha)
        alphas.append(alpha)
    return alphas


def _suffix_scores(chain: _Chain, transitions: Tensor, end: Tensor) -> list[Tensor]:
    """Return, for each step, the log sum over all paths after it by its own tag, [B, T]."""
    emissions, real = chain.emissions.unbind(1), chain.real.unbind(1)
    beta = end.expand_as(emissions[0])
    betas = [beta]
    for emission, is_real in zip(reversed(emissions[1:]), reversed(real[1:]), strict=True):
        back = torch.logsumexp(transitions + (emission + beta)[:, None, :], dim=2)
        beta = torch.where(is_real[:, None], back, end)
        betas.append(beta)
    return betas[::-1]


def _path_scores(
    chain: _Chain, tags: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return the scores [B] of the given paths."""
    tags = tags.gather(1, chain.places).masked_fill(~chain.real, 0)
    emitted = chain.emissions.gather(2, tags[..., None])[..., 0]
    passed = transitions[tags[:, :-1], tags[:, 1:]].masked_fill(~chain.real[:, 1:], 0.0)
    last = chain.real.sum(dim=1, keepdim=True).sub(1).clamp(min=0)
    begun = _score_of(start, tags[:, :1])
    return begun + emitted.sum(dim=1) + passed.sum(dim=1) + _score_of(end, tags.gather(1, last))


def _score_of(scores: Tensor, tags: Tensor) -> Tensor:
    """Return the score of one tag a row [B], from scores [T] or [B, T] and tags [B, 1]."""
    return scores.expand(len(tags), -1).gather(1, tags)[:, 0]


def crf_log_likelihood(
    emissions: Tensor, tags: Tensor, mask: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return the log probability of each row's tags, by the forward algorithm.

    Computed in float32 at least, under autocast too; float64 stays float64.

    Args:
        emissions: score of each tag at each step [B, L, T].
        tags: int64 [B, L]; any value, -100 too, at masked steps.
        mask: bool [B, L], true at the steps that have a tag; holes are allowed.
        start: score of each tag at a row's first unmasked step, [T], or [B, T] by row.
        transitions: score of going from a tag (row) to a tag (column) [T, T].
        end: score of each tag at a row's last unmasked step, [T], or [B, T] by row.

    Returns:
        Log likelihoods [B], in nats; 0 for a row without an unmasked step.

    Source: Lafferty et al. 2001, section 3.
    """
    emissions, start, transitions, end = _fp32_or_finer(emissions, start, transitions, end)
    chain = _compact(emissions, mask)
    alpha = _prefix_scores(chain, start, transitions)[-1]
    log_partition = torch.logsumexp(alpha + end, dim=1)
    log_likelihood = _path_scores(chain, tags, start, transitions, end) - log_partition
    return log_likelihood.masked_fill(~chain.real[:, 0], 0.0)


def marginals(
    emissions: Tensor, mask: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> Tensor:
    """Return the posterior probability of each tag at each step, by forward-backward.

    Args:
        emissions: [B, L, T].
        mask: bool [B, L]; holes are allowed.
        start: [T].
        transitions: [T, T], from row to column.
        end: [T].

    Returns:
        [B, L, T], which sums to 1 over the tags of an unmasked step and is 0 at masked ones.
    """
    emissions, start, transitions, end = _fp32_or_finer(emissions, start, transitions, end)
    chain = _compact(emissions, mask)
    alphas = torch.stack(_prefix_scores(chain, start, transitions), dim=1)
    betas = torch.stack(_suffix_scores(chain, transitions, end), dim=1)
    posterior = torch.softmax(alphas + betas, dim=2).masked_fill(~chain.real[..., None], 0.0)
    index = chain.places[..., None].expand_as(posterior)
    return torch.zeros_like(emissions).scatter(1, index, posterior)


@torch.no_grad()
def viterbi_decode(
    emissions: Tensor, mask: Tensor, start: Tensor, transitions: Tensor, end: Tensor
) -> list[list[int]]:
    """Return the best tags of each row, of its unmasked steps alone.

    Among equals the lowest tag wins, from the last step back.

    Args:
        emissions: [B, L, T].
        mask: bool [B, L]; holes are allowed.
        start: [T].
        transitions: [T, T], from row to column.
        end: [T].

    Source: Viterbi 1967.
    """
    emissions, start, transitions, end = _fp32_or_finer(emissions, start, transitions, end)
    chain = _compact(emissions, mask)
    stay = torch.arange(emissions.shape[2], device=emissions.device)
    best = start + chain.emissions[:, 0]
    origins = []
    for step in range(1, chain.real.shape[1]):
        is_real = chain.real[:, step, None]
        reached, origin = (best[:, :, None] + transitions).max(dim=1)
        best = torch.where(is_real, chain.emissions[:, step] + reached, best)
        origins.append(torch.where(is_real, origin, stay))
    path = [(best + end).argmax(dim=1, keepdim=True)]
    for origin in reversed(origins):
        path.append(origin.gather(1, path[-1]))
    tags = torch.cat(path[::-1], dim=1).tolist()
    counts = chain.real.sum(dim=1).tolist()
    return [row[:count] for row, count in zip(tags, counts, strict=True)]


def viterbi_numpy(
    emissions: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray,
    transitions: np.ndarray,
    end: np.ndarray,
) -> list[list[int]]:
    """Return what `viterbi_decode` returns, from arrays of the same shapes and without torch."""
    dtype = np.result_type(emissions, start, transitions, end, np.float32)
    mask = mask.astype(bool)
    counts = mask.sum(axis=1)
    places = np.argsort(~mask, axis=1, kind="stable")[:, : max(int(counts.max()), 1)]
    kept = np.where(mask[..., None], emissions, 0).astype(dtype)
    steps = np.take_along_axis(kept, places[..., None], axis=1)
    real = np.take_along_axis(mask, places, axis=1)
    stay = np.arange(emissions.shape[2])
    best = start + steps[:, 0]
    origins = []
    for step in range(1, steps.shape[1]):
        is_real = real[:, step, None]
        reached = best[:, :, None] + transitions
        best = np.where(is_real, steps[:, step] + reached.max(axis=1), best)
        origins.append(np.where(is_real, reached.argmax(axis=1), stay))
    path = [(best + end).argmax(axis=1)[:, None]]
    for origin in reversed(origins):
        path.append(np.take_along_axis(origin, path[-1], axis=1))
    tags = np.concatenate(path[::-1], axis=1).tolist()
    return [row[:count] for row, count in zip(tags, counts.tolist(), strict=True)]


def allowed_transitions(tag_names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what IOB2 allows: I-X only after B-X or I-X, and never first.

    Args:
        tag_names: O, B-X or I-X each, in the order of the tags.

    Returns:
        Bool tensors (start [T], transitions [T, T] from row to column, end [T]).

    Raises:
        UsageError: a name is of another form, or an I-X has no B-X to follow.
    """
    for name in tag_names:
        prefix, dash, kind = name.partition("-")
        if name != "O" and not (prefix in ("B", "I") and dash and kind):
            raise UsageError(f"tag {name!r} is not of IOB2", hint="its tags are O, B-X and I-X")
        if prefix == "I" and f"B-{kind}" not in tag_names:
            raise UsageError(
                f"tag {name!r} has nothing to follow", hint=f"in IOB2 it needs the tag 'B-{kind}'"
            )
    inside = [name.startswith("I-") for name in tag_names]
    follows = [
        [b[:2] != "I-" or (a[:2] in ("B-", "I-") and a[2:] == b[2:]) for b in tag_names]
        for a in tag_names
    ]
    start = ~torch.tensor(inside, dtype=torch.bool)
    return start, torch.tensor(follows, dtype=torch.bool), torch.ones_like(start)


class LinearChainCRF(nn.Module):
    """A CRF's own scores, learned: of starting, of passing from tag to tag, and of ending.

    With `tag_names` (IOB2) forbidden steps cost 1e9 each: no path with one is decoded, and the loss
    of a row whose tags have one is huge but finite, with the gradient of any other row. The costs
    are buffers, so they are saved with the weights.
    """

    start_cost: Tensor
    transition_cost: Tensor

    def __init__(self, num_tags: int, tag_names: Sequence[str] | None = None) -> None:
        """Draw the scores from U(-0.1, 0.1).

        Raises:
            UsageError: the names are not `num_tags` many, or not of IOB2.
        """
        super().__init__()
        self.start = nn.Parameter(torch.empty(num_tags))
        self.transitions = nn.Parameter(torch.empty(num_tags, num_tags))
        self.end = nn.Parameter(torch.empty(num_tags))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -_INIT_RANGE, _INIT_RANGE)
        start_cost, transition_cost = torch.zeros(num_tags), torch.zeros(num_tags, num_tags)
        if tag_names is not None:
            if len(tag_names) != num_tags:
                raise UsageError(f"{len(tag_names)} tag names for {num_tags} tags")
            start_allowed, allowed, _ = allowed_transitions(tag_names)
            start_cost.masked_fill_(~start_allowed, _FORBIDDEN)
            transition_cost.masked_fill_(~allowed, _FORBIDDEN)
        self.register_buffer("start_cost", start_cost)
        self.register_buffer("transition_cost", transition_cost)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (start [T], transitions [T, T], end [T]), with the costs of forbidden steps.

        They are what the functions of this module take, `viterbi_numpy` too (as arrays).
        """
        return self.start + self.start_cost, self.transitions + self.transition_cost, self.end

    def forward(
        self,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor,
        *,
        before: Tensor | None = None,
        goes_on: Tensor | None = None,
    ) -> Tensor:
        """Return each row's negative log likelihood [B]; see `crf_log_likelihood`.

        Rows may be parts of longer ones: of such it is the likelihood given the tag before them.

        Args:
            emissions: [B, L, T].
            tags: [B, L].
            mask: [B, L].
            before: the tag of the step before each row, below 0 where there is none, [B].
            goes_on: whether steps follow each row, bool [B].
        """
        start, transitions, end = self.scores()
        if before is not None:
            first = (before < 0)[:, None]
            start = torch.where(first, start, transitions[before.clamp(min=0)])
        if goes_on is not None:
            end = end.masked_fill(goes_on.bool()[:, None], 0.0)
        return -crf_log_likelihood(emissions, tags, mask, start, transitions, end)

    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """Return each row's best tags; see `viterbi_decode`."""
        return viterbi_decode(emissions, mask, *self.scores())
