"""Show what `export` wrote."""

from __future__ import annotations

from rich.markup import escape

from bertwright.cli.tables import remark
from bertwright.models.export import stock_class
from bertwright.verbs.export import ExportResult

__all__ = ["show"]


def show(result: ExportResult, *, as_json: bool = False) -> int:
    """Say on stderr what was written, how its numbers compare, and how to load it."""
    out = escape(str(result.out))
    remark(f"{result.format} {result.precision}, {result.size_mb:.1f} MB, in [cyan]{out}[/]")
    parity = result.parity
    if parity:
        remark(
            f"against torch on {parity['num_rows']:,} rows: logits differ by "
            f"{parity['mean_abs']:.2g} on average, {parity['max_abs']:.2g} at most; "
            f"{parity['label_agreement']:.1%} of the labels agree"
        )
    if "drop_low" in result.score:
        remark(_what_it_costs(result))
    if result.table_bits is not None:
        remark(f"word embeddings in {result.table_bits} bits a number")
    if result.format == "openvino" and result.weight_bits == 7:
        remark(
            "this processor has no VNNI: on such a one OpenVINO's int8 was slower than its fp32, "
            "and ONNX Runtime's faster (docs/int8.md); bertwright benchmark tells how it is here"
        )
    remark(f"load it: {_how_to_load(result, out)}")
    return 0


def _what_it_costs(result: ExportResult) -> str:
    score = result.score
    sentence = (
        f"{result.precision} against fp32 on {score['num_rows']:,} labelled rows: "
        f"{score['metric']} {-score['drop_points']:+.2f} points (95%: {-score['drop_high']:+.2f} "
        f"to {-score['drop_low']:+.2f})"
    )
    if score["drop_high"] <= score["allowed_points"]:
        return sentence
    return (
        f"{sentence}; these rows do not exclude a loss of more than "
        f"{score['allowed_points']:g}: more of them with --eval-data would tell"
    )


def _how_to_load(result: ExportResult, out: str) -> str:
    if result.format == "sentence-transformers":
        return f'SentenceTransformer("{out}")'
    if result.format == "transformers":
        return f'{stock_class(result.task).__name__}.from_pretrained("{out}")'
    return f"bertwright predict --model {out} --input FILE"
