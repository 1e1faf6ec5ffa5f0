"""Vectors to a file, chunk by chunk: npy, parquet or safetensors, whole or not at all.

Shapes: N rows, n rows of a chunk, W width of a vector.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertwright.errors import ConfigError
from bertwright.files import atomic_file

__all__ = ["WRITERS", "Write", "check_vectors_file", "open_vectors"]

Write = Callable[[np.ndarray, Mapping[str, np.ndarray]], None]
"""Takes the row numbers [n] and the vectors by name [n, W] of the next chunk."""
Writer = Callable[[IO[bytes], Mapping[str, int], int], contextlib.AbstractContextManager[Write]]

_ALIGNMENT = 8


@contextlib.contextmanager
def _write_npy(file: IO[bytes], widths: Mapping[str, int], num_rows: int) -> Iterator[Write]:
    """One matrix [N, W]."""
    (width,) = widths.values()
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, width)}
    np.lib.format.write_array_header_1_0(file, header)

    def write(rows: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
        (matrix,) = vectors.values()
        file.write(np.ascontiguousarray(matrix, dtype="<f4").tobytes())

    yield write


@contextlib.contextmanager
def _write_safetensors(
    file: IO[bytes], widths: Mapping[str, int], num_rows: int
) -> Iterator[Write]:
    """A tensor [N, W] a name, and the row numbers as `row`."""
    tensors = {"row": ("I64", [num_rows], 8 * num_rows)}
    tensors |= {n: ("F32", [num_rows, width], 4 * num_rows * width) for n, width in widths.items()}
    header, begin, places = {}, 0, {}
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        places[name] = begin
        begin += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    base = file.tell()
    places = {name: base + place for name, place in places.items()}

    def write(rows: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
        arrays = {"row": np.ascontiguousarray(rows, dtype="<i8")}
        arrays |= {n: np.ascontiguousarray(v, dtype="<f4") for n, v in vectors.items()}
        for name, array in arrays.items():
            file.seek(places[name])
            file.write(array.tobytes())
            places[name] = file.tell()

    yield write


@contextlib.contextmanager
def _write_parquet(file: IO[bytes], widths: Mapping[str, int], num_rows: int) -> Iterator[Write]:
    """A column of lists a name, and the row numbers as `row`."""
    kinds = {name: pa.list_(pa.float32(), width) for name, width in widths.items()}
    schema = pa.schema({"row": pa.int64(), **kinds})
    with pq.ParquetWriter(file, schema) as writer:

        def write(rows: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
            columns = [pa.array(rows, pa.int64())]
            for name, width in widths.items():
                flat = pa.array(vectors[name].astype(np.float32).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))

        yield write


WRITERS: dict[str, Writer] = {
    ".npy": _write_npy,
    ".parquet": _write_parquet,
    ".safetensors": _write_safetensors,
}
"""By the ending of the file's name."""


def check_vectors_file(path: str | Path, names: Collection[str]) -> None:
    """Say before any work is done whether these vectors can go into such a file.

    Raises:
        ConfigError: another ending, or several vectors for a .npy file.
    """
    ending = Path(path).suffix
    if ending not in WRITERS:
        raise ConfigError(
            f"--output {path}: vectors are written to {', '.join(WRITERS)}",
            hint=f"--output {Path(path).with_suffix('.npy')}",
        )
    if ending == ".npy" and len(names) > 1:
        raise ConfigError(
            f"a .npy file holds one matrix, and {len(names)} are asked for: {', '.join(names)}",
            hint="write to .parquet or .safetensors",
        )


@contextlib.contextmanager
def open_vectors(path: str | Path, widths: Mapping[str, int], num_rows: int) -> Iterator[Write]:
    """Yield what takes the chunks in order; the file is there when all went well.

    Args:
        path: its ending says the format.
        widths: of the vectors, by name.
        num_rows: N, of all chunks together.

    Errors are those of `check_vectors_file`.
    """
    check_vectors_file(path, widths)
    writer = WRITERS[Path(path).suffix]
    with atomic_file(path) as file, writer(file, widths, num_rows) as write:
        yield write
