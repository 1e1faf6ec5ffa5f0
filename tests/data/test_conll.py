from __future__ import annotations

import gzip

import pytest

from bertwright.data.conll import read_conll
from bertwright.data.readers import file_part
from bertwright.data.records import BadLine
from bertwright.errors import FileFormatError

TEXT = """-DOCSTART- -X- O

# a comment
EU\tNNP\tB-ORG
rejects VBZ O

Peter B-PER
\t
中 O
文\tO
"""


def test_sentences_have_the_first_and_the_last_column_and_the_line_where_they_begin(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text(TEXT, encoding="utf-8")
    assert list(read_conll(path)) == [
        (4, {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        (7, {"tokens": ["Peter"], "tags": ["B-PER"]}),
        (9, {"tokens": ["中", "文"], "tags": ["O", "O"]}),
    ]
    packed = tmp_path / "x.bio.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()))
    assert list(file_part(packed).read(())) == list(read_conll(path))


def test_without_tags_there_are_only_tokens(tmp_path):
    path = tmp_path / "x.iob2"
    path.write_text("a\nb\n\nc")
    assert list(read_conll(path)) == [(1, {"tokens": ["a", "b"]}), (4, {"tokens": ["c"]})]


def test_a_token_without_its_tag_is_a_bad_line_with_its_sentence(tmp_path):
    path = tmp_path / "x.conll"
    path.write_text("a O\nb\n\nc O\n")
    (line, bad), good = read_conll(path)
    assert line == 1 and isinstance(bad, BadLine) and "'b' has no tag" in bad.reason
    assert bad.raw == "a\tO\nb" and good == (4, {"tokens": ["c"], "tags": ["O"]})


def test_bytes_that_are_no_text_and_damage(tmp_path):
    path = tmp_path / "x.conll"
    path.write_bytes(b"a O\n\xff\xfea O\n")
    assert any(isinstance(value, BadLine) for _, value in read_conll(path))
    broken = tmp_path / "x.conll.gz"
    broken.write_bytes(gzip.compress(b"a O\n" * 1000)[:-9])
    with pytest.raises(FileFormatError, match="damaged"):
        list(read_conll(broken))
