"""Which layer of the teacher each layer of the student follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bertwright.errors import ConfigError

__all__ = ["layer_map"]


def layer_map(
    rule: Literal["uniform", "last"] | Sequence[int], num_layers_s: int, num_layers_t: int
) -> tuple[int, ...]:
    """Return, for each student layer from the lowest, the teacher layer (from 1) that it follows.

    uniform: g(m) = m K_t / K_s, rounded half up (12 for 4: 3 6 9 12); last: K_t - K_s + m;
    explicit: as given, 0 for a student layer that follows none.

    Raises:
        ConfigError: the student is deeper than the teacher, or an explicit map does not fit.
    """
    if rule in ("uniform", "last"):
        if num_layers_s > num_layers_t:
            raise ConfigError(
                f"--layers {rule}: the student has {num_layers_s} layers, the teacher only "
                f"{num_layers_t}",
                hint="give the map itself: the teacher layer of each student layer",
            )
        if rule == "last":
            return tuple(range(num_layers_t - num_layers_s + 1, num_layers_t + 1))
        return tuple(
            (2 * m * num_layers_t + num_layers_s) // (2 * num_layers_s)
            for m in range(1, num_layers_s + 1)
        )
    if isinstance(rule, str):
        raise ConfigError(f"--layers {rule}: not a rule", hint="uniform, last, or 2+4+6")
    given = tuple(int(layer) for layer in rule)
    in_range = all(0 <= layer <= num_layers_t for layer in given)
    if len(given) != num_layers_s or not in_range or not any(given):
        raise ConfigError(
            f"--layers {'+'.join(map(str, given))}: must be {num_layers_s} numbers, one for each "
            f"student layer: a teacher layer from 1 to {num_layers_t}, or 0 for none"
        )
    return given
