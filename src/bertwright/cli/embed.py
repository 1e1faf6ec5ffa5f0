"""Say what `embed` wrote."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import format_speed, remark
from bertwright.verbs.embed import Embedded

__all__ = ["show"]

LOADS = {
    ".npy": 'numpy.load("{out}")',
    ".parquet": 'pyarrow.parquet.read_table("{out}")',
    ".safetensors": 'safetensors.numpy.load_file("{out}")',
}


def show(result: Embedded, *, as_json: bool = False) -> int:
    """Say on stderr how many vectors of which width there are, where, and how to load them."""
    out = escape(str(result.output))
    rate = format_speed(result.num_rows / max(result.seconds, 1e-9))
    widths = ", ".join(f"{name} ({width:,})" for name, width in result.widths.items())
    remark(f"{result.num_rows:,} texts, {rate} texts/s, in [cyan]{out}[/]: {escape(widths)}")
    if result.num_truncated:
        remark(f"{result.num_truncated:,} texts were cut: see --max-length")
    remark(f"load them: {LOADS[result.output.suffix].format(out=out)}")
    return 0
