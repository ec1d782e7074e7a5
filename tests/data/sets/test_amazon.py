from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from litfast.data.sets import amazon
from litfast.data.sets._reviews import ALPHABET
from litfast.data.sets.amazon import amazon_full, amazon_polarity
from litfast.data.sets.image_set import hold_out
from litfast.data.sets.text_set import Counts, Texts

TRAIN = '"2","Great","""I\'m"" glad"\n"1","","no\\nway"\n"1","",""\n"2","x","' + "y" * 1020 + '"\n'
TEST = '"1","Bad","caf\u00e9"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "amazon_review_polarity_csv"
    folder.mkdir()
    (folder / "train.csv").write_text(TRAIN)
    (folder / "test.csv").write_text(TEST)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "litfast"


def spelt(texts: Texts) -> list[str]:
    """The characters, ? for an unknown one."""
    return ["".join("?" if i == 1 else ALPHABET[i] for i in row) for row in texts.tokens[texts.rows].tolist()]


def test_the_official_layout_is_read(root: Path) -> None:
    reviews = amazon_polarity(root)
    assert reviews.train.tokens.shape == (4, 1014) and reviews.train.tokens.dtype == torch.uint8
    assert spelt(reviews.train) == ['great "i\'m" glad', "no?way", "", "x " + "y" * 1012]
    assert spelt(reviews.test) == ["bad caf?"]
    assert reviews.train.labels.tolist() == [1, 0, 0, 1] and reviews.train.labels.dtype == torch.int64
    assert reviews.classes == ("negative", "positive") and reviews.val is None
    assert (reviews.length, reviews.alphabet) == (1014, 69)


def test_what_was_empty_cut_or_unknown_is_counted(root: Path) -> None:
    reviews = amazon_polarity(root)
    assert reviews.counts["train"] == Counts(texts=4, empty=1, longer=1, characters=1036, unknown=1)
    assert reviews.counts["test"].line(1014) == (
        "1 texts, 0 empty, 0 cut at 1014 characters; 1 of 8 characters (12.50 %) unknown"
    )


def test_gzip_is_read_like_plain_text(root: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("train.csv", "test.csv"):
        (packed / f"{name}.gz").write_bytes(gzip.compress((root / name).read_bytes()))
    plain, found = amazon_polarity(root), amazon_polarity(packed)
    assert torch.equal(plain.train.tokens, found.train.tokens)
    assert torch.equal(plain.train.labels, found.train.labels)


def test_a_class_may_be_absent_from_the_full_set(root: Path) -> None:
    (root / "train.csv").write_text('"5","a","b"\n"1","a","b"\n"4","a","b"\n')
    reviews = amazon_full(root)
    assert len(reviews.classes) == 5 and reviews.train.labels.tolist() == [4, 0, 3]


def test_a_shorter_window_has_a_cache_of_its_own(root: Path, cache: Path) -> None:
    assert amazon_polarity(root).train.tokens.shape == (4, 1014)
    assert spelt(amazon_polarity(root, length=4).train) == ["grea", "no?w", "", "x yy"]
    assert amazon_polarity(root).train.tokens.shape == (4, 1014)
    assert len(list(cache.iterdir())) == 4


def test_ids_are_built_once_and_anew_when_the_source_changes(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = amazon_polarity(root)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as patch:
        patch.setattr(amazon, "quantise", refuse)
        again = amazon_polarity(root)
    assert torch.equal(before.train.tokens, again.train.tokens) and before.counts == again.counts
    (root / "test.csv").write_text('"2","Good",""\n')
    assert spelt(amazon_polarity(root).test) == ["good"]
    assert len(list(cache.iterdir())) == 2


def test_the_cache_may_lie_elsewhere(root: Path, tmp_path: Path, cache: Path) -> None:
    amazon_polarity(root, cache=tmp_path / "there")
    assert not cache.exists() and len(list((tmp_path / "there").iterdir())) == 2


def test_progress_goes_up_to_the_whole_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "_BLOCK", 100)
    calls: list[tuple[int, int]] = []
    amazon_polarity(root, progress=lambda done, total: calls.append((done, total)))
    train = [done for done, total in calls if total == len(TRAIN.encode())]
    assert len(train) > 5 and train == sorted(train) and train[-1] == len(TRAIN.encode())
    assert calls[-1] == (len(TEST.encode()),) * 2
    calls.clear()
    amazon_polarity(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == []


def test_many_blocks_on_many_threads_keep_the_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'"{1 + i % 2}","{i}","a\nb, ""{i}"""\n' for i in range(500)]
    (root / "train.csv").write_text("".join(rows))
    monkeypatch.setattr(amazon, "_BLOCK", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    reviews = amazon_polarity(root)
    assert spelt(reviews.train) == [f'{i} a?b, "{i}"' for i in range(500)]
    assert reviews.train.labels.tolist() == [i % 2 for i in range(500)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"1","a","b"\n\n', "line 2 must hold 3 fields, got 1"),
        ('"1","a","b"\n"1","a"\n', "line 2 must hold 3 fields, got 2"),
        ('"1","a","b"\n"3","a","b"\n', "line 2 must begin with a class from 1 to 2, got '3'"),
        ('"1","a","b\n', "line 1 must close every quote, got one that is never closed"),
        (b'"1","a","\xe9"\n', r"""line 1 must be UTF-8, got b'\xe9"\n'"""),
        ("", "must hold reviews, got an empty file"),
    ],
)
def test_bad_input_gets_one_line_with_file_and_line_and_leaves_no_cache(
    root: Path, cache: Path, content: str | bytes, said: str
) -> None:
    (root / "train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:
        amazon_polarity(root)
    who = f"amazon_polarity: {root / 'train.csv'}"
    assert str(caught.value) == f"{who} {said}"
    assert list(cache.iterdir()) == []


def test_the_line_is_right_in_a_later_block(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "_BLOCK", 64)
    (root / "train.csv").write_text('"1","a","b\nc"\r\n' * 100 + '"1","a"\n' + '"1","a","b"\n' * 100)
    with pytest.raises(ValueError, match="line 201 must hold 3 fields, got 2"):
        amazon_polarity(root)


def test_a_quote_that_is_never_closed_does_not_swallow_the_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amazon, "_BLOCK", 64)
    monkeypatch.setattr(amazon, "_LONGEST", 1000)
    (root / "train.csv").write_text('"1","a","b"\n"1","a","' + "b\n" * 5000)
    with pytest.raises(ValueError, match="line 2 must close every quote, got a row beyond 1000 bytes"):
        amazon_polarity(root)


@pytest.mark.parametrize("kept", [5, 30, -4])
def test_a_truncated_archive_is_named(root: Path, kept: int) -> None:
    (root / "train.csv").unlink()
    (root / "train.csv.gz").write_bytes(gzip.compress(TRAIN.encode())[:kept])
    with pytest.raises(ValueError, match=r"train\.csv\.gz must be a whole gzip file, got one that is cut"):
        amazon_polarity(root)


def test_a_missing_file_and_a_window_of_nothing_are_refused(root: Path) -> None:
    (root / "test.csv").unlink()
    with pytest.raises(ValueError, match=r"must hold test\.csv or test\.csv\.gz, got neither"):
        amazon_polarity(root)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        amazon_polarity(root, length=0)


def test_a_validation_split_is_held_out_without_copying_the_tokens(root: Path) -> None:
    whole = amazon_polarity(root).train
    rest, held_out = hold_out(whole, 1, seed=0)
    assert (len(rest), len(held_out)) == (3, 1)
    assert sorted(spelt(rest) + spelt(held_out)) == sorted(spelt(whole))
    assert rest.tokens.data_ptr() == held_out.tokens.data_ptr() == whole.tokens.data_ptr()
    assert rest.labels.tolist() == whole.labels[rest.rows].tolist()


@pytest.mark.shared_data
def test_the_shared_sets_have_the_stated_counts(shared_data: Path, tmp_path: Path) -> None:
    polarity = amazon_polarity(shared_data / "amazon_review_polarity_csv", cache=tmp_path)
    assert (len(polarity.train), len(polarity.test)) == (22_180, 5_600)
    assert set(polarity.train.labels.tolist()) == set(polarity.test.labels.tolist()) == {0, 1}
    full = amazon_full(shared_data / "amazon_review_full_csv", cache=tmp_path)
    assert (len(full.train), len(full.test)) == (7_200, 800)
    assert set(full.train.labels.tolist()) == set(full.test.labels.tolist()) == {0, 1, 3, 4}
    for reviews in (polarity, full):
        for split in (reviews.train, reviews.test):
            assert split.tokens.shape == (len(split), 1014) and int(split.tokens.max()) <= 68
        assert reviews.counts["train"].unknown < 1e-4 * reviews.counts["train"].characters
