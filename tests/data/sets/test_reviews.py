"""The vectorised quantisation against Python's csv module and a loop over characters."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from litfast.data.sets._reviews import ALPHABET, Block, Quantised, quantise
from litfast.data.sets.amazon import blocks

LENGTH = 12
IDS = {character: i for i, character in enumerate(ALPHABET) if character}


def by_loop(title: str, text: str, length: int = LENGTH) -> list[int]:
    """The definition: a title and a text to character ids."""
    joined = " ".join(part for part in (title, text) if part).replace("\\n", "\n")
    small = (c.lower() if c.isascii() else c for c in joined)
    ids = [IDS.get(c, 1) for c in small][:length]
    return ids + [0] * (length - len(ids))


def quantised(content: bytes, *, classes: int = 5) -> Quantised:
    return quantise(Block(content, 1), classes=classes, length=LENGTH, who="here")


def written(rows: Iterable[Iterable[str]], quoting: int = csv.QUOTE_ALL) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=quoting, lineterminator="\n").writerows(rows)
    return file.getvalue()


def test_the_table_has_the_69_symbols() -> None:
    assert len(ALPHABET) == 69
    characters = "".join(ALPHABET[2:])
    assert len(characters) == len(set(characters)) == 67
    assert characters[:36] == "abcdefghijklmnopqrstuvwxyz0123456789"
    assert set(characters[36:]) == set("-,;.!?:'\"/|_#$%^&*~`+=<>()[]{} ")


def test_characters_become_the_ids_of_the_table() -> None:
    found = quantised(b'"2","Ab ","z9~"\n')
    assert found.tokens.tolist() == [[2, 3, 68, 68, 27, 37, 56, 0, 0, 0, 0, 0]]
    assert found.labels.tolist() == [1]


words = st.text(st.sampled_from('ab Z9",\\n\n\r`é\u212a𝄞') | st.characters(codec="utf-8"), max_size=20)
rows = st.lists(st.tuples(st.sampled_from("12345"), words, words), min_size=1, max_size=6)


# deadlines would measure whoever else is on the machine
@settings(deadline=None)
@given(rows, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), st.integers(1, 40))
@example([("1", '"', '""')], csv.QUOTE_ALL, 3)
@example([("1", "\\", "n")], csv.QUOTE_ALL, 1)
@example([("1", "a\\nb", "\\\\n\\")], csv.QUOTE_ALL, 4)
@example([("5", "", ""), ("5", "", "a\nb\n\n")], csv.QUOTE_MINIMAL, 2)
def test_any_text_is_read_as_the_csv_module_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], quoting: int, size: int
) -> None:
    content = written(rows, quoting).replace("\r\n", "\n")
    # the module's own writer leaves a lone return bare, which its reader takes for the end of a row
    assume(quoting == csv.QUOTE_ALL or "\r" not in content)
    file = tmp_path_factory.getbasetemp() / "rows.csv"
    file.write_bytes(content.encode())
    read = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    parts = [
        quantise(block, classes=5, length=LENGTH, who="here") for block in blocks(file, size, who="here")
    ]
    tokens = [row for part in parts for row in part.tokens.tolist()]
    assert tokens == [by_loop(title, text) for _, title, text in read]
    assert [label for part in parts for label in part.labels] == [int(row[0]) - 1 for row in read]
    counts = [sum(column) for column in zip(*(part.counts for part in parts), strict=True)]
    sizes = [len(" ".join(filter(None, row[1:])).replace("\\n", "\n")) for row in read]
    assert counts == [
        len(read),
        sizes.count(0),
        sum(size > LENGTH for size in sizes),
        sum(min(size, LENGTH) for size in sizes),
        sum(row.count(1) for row in tokens),
    ]


fragments = [
    '"1"',
    "2",
    '""',
    '"a""b"',
    "a",
    '"a\nb"',
    '"a,b"',
    '"',
    ",",
    ",",
    ",",
    "\n",
    "\n",
    "é",
    "\\n",
    " ",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(fragments), min_size=1, max_size=24).map("".join))
@example('"1","a","b"\n2,,\n')
@example('"1","a "b","c"\n')
@example('"1",a"b"c,"d"\n')
def test_what_is_accepted_is_what_the_csv_module_reads(content: str) -> None:
    content += "\n"
    try:
        found = quantised(content.encode())
    except ValueError:
        return
    read = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    assert found.tokens.tolist() == [by_loop(title, text) for _, title, text in read]
    assert (found.labels + 1).tolist() == [int(row[0]) for row in read]


ROW = '"1","a","two\nlines"\n'


@pytest.mark.parametrize(
    ("row", "line", "said"),
    [
        ('"1","a"', 3, "hold 3 fields, got 2"),
        ('"1","a","b","c"', 3, "hold 3 fields, got 4"),
        ("", 3, "hold 3 fields, got 1"),
        ('"6","a","b"', 3, "begin with a class from 1 to 5, got '6'"),
        ('"0","a","b"', 3, "begin with a class from 1 to 5, got '0'"),
        ('"10","a","b"', 3, "begin with a class from 1 to 5, got '10'"),
        ('"class","title","text"', 3, "begin with a class from 1 to 5, got 'class'"),
        (',"a","b"', 3, "begin with a class from 1 to 5, got ''"),
        ('"1","a "b" c","d"', 3, "have every quote within a field doubled, got one that is not"),
        ('"1",a "b","d"', 3, "have every quote within a field doubled, got one that is not"),
        ('"1","a","b', 3, "close every quote, got one that is never closed"),
        ('"1","a\n\n\udce9","b"', 5, r"be UTF-8, got b'\xe9"),
    ],
)
@pytest.mark.parametrize("behind", ["", '"7","a"\n'])
def test_a_fault_is_said_with_its_line(row: str, line: int, said: str, behind: str) -> None:
    content = f"{ROW}{row}\n" + (behind if said[:5] != "close" else "")
    with pytest.raises(ValueError) as caught:
        quantised(content.encode(errors="surrogateescape"))
    assert str(caught.value).startswith(f"here line {line} must {said}")


def test_rows_are_whole_in_every_block_and_lines_are_counted_on(tmp_path: Path) -> None:
    rows = [("1", "t", f"{i} line\n\nline, {i}") for i in range(30)]
    (tmp_path / "rows").write_text(written(rows))
    found = list(blocks(tmp_path / "rows", 50, who="here"))
    assert len(found) > 5
    assert "".join(block.text.decode() for block in found) == written(rows)
    ends = np.cumsum([block.text.count(b"\n") for block in found])
    assert [block.line for block in found] == [1, *(ends[:-1] + 1)]


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["amazon_review_full_csv", "amazon_review_polarity_csv"])
def test_real_reviews_are_read_as_the_csv_module_reads_them(shared_data: Path, name: str) -> None:
    file = shared_data / name / "test.csv.gz"
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        read = list(csv.reader(stream, strict=True))
    parts = [quantise(b, classes=5, length=1014, who=name) for b in blocks(file, 1 << 18, who=name)]
    assert np.concatenate([part.labels for part in parts]).tolist() == [int(row[0]) - 1 for row in read]
    tokens = np.concatenate([part.tokens for part in parts])
    assert (tokens == [by_loop(title, text, 1014) for _, title, text in read]).all()
