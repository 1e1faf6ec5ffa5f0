from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertwright import files
from bertwright.errors import DiskFullError, FileFormatError
from bertwright.files import (
    atomic_dir,
    atomic_file,
    atomic_write_bytes,
    atomic_write_text,
    cache_dir,
    folder_size_mb,
    read_json,
    reporting_full_disk,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    atomic_write_text(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "c.txt"
    atomic_write_text(path, "old")
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["c.txt"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "c.txt"
    atomic_write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"c\.txt"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["c.txt"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), reporting_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(DiskFullError), reporting_full_disk(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_folder_takes_its_place_only_when_the_block_succeeds(tmp_path):
    target = tmp_path / "model"
    with atomic_dir(target) as folder:
        (folder / "weights").write_text("one")
        assert not target.exists()
    assert (target / "weights").read_text() == "one"
    with pytest.raises(ZeroDivisionError), atomic_dir(target) as folder:
        (folder / "weights").write_text("two")
        raise ZeroDivisionError
    assert (target / "weights").read_text() == "one"
    with atomic_dir(target) as folder:
        (folder / "other").write_text("three")
    assert names(target) == ["other"]
    assert names(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with atomic_dir(target) as folder:
        (folder / "weights").write_text("old")
    replace, calls = os.replace, []

    def failing(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        replace(a, b)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="broken"), atomic_dir(target) as folder:
        (folder / "weights").write_text("new")
    assert (target / "weights").read_text() == "old"


@pytest.mark.parametrize("delay_s", [0.05, 0.2])
def test_a_killed_writer_leaves_the_old_or_the_new_file_never_a_part(tmp_path, delay_s):
    path = tmp_path / "big.bin"
    code = (
        "import sys\nfrom bertwright.files import atomic_write_bytes\n"
        "atomic_write_bytes(sys.argv[1], bytes(1_000_000))\nprint('ready', flush=True)\n"
        "n = 0\nwhile True:\n    n += 1\n"
        "    atomic_write_bytes(sys.argv[1], bytes([n % 256]) * 1_000_000)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    content = path.read_bytes()
    assert len(content) == 1_000_000
    assert len(set(content)) == 1


def test_json_goes_there_and_back(tmp_path):
    value = {"a": [1, 2.5, None, "ä"]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "ä" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_broken_json_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1,\n oops}')
    with pytest.raises(FileFormatError, match=rf"{path}:2: not valid JSON"):
        read_json(path)
    path.write_bytes(b"\xff")
    with pytest.raises(FileFormatError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(FileFormatError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_the_cache_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTWRIGHT_CACHE", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    assert cache_dir().is_dir()
    monkeypatch.delenv("BERTWRIGHT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "bertwright"


def test_size_counts_all_files_in_megabytes_of_a_million(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(bytes(1_500_000))
    (tmp_path / "sub" / "b").write_bytes(bytes(500_000))
    assert folder_size_mb(tmp_path) == pytest.approx(2.0)
    assert folder_size_mb(tmp_path / "a") == pytest.approx(1.5)
