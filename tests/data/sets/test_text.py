from __future__ import annotations

import gzip
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litfast.data.sets import load
from litfast.data.sets.text import text
from litfast.data.sets.text_set import Corpus

module = import_module("litfast.data.sets.text")  # the package has the function under this name
TRAIN = "b a b\n\nc a b d\n"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "litfast"


def write(root: Path, train: str = TRAIN, valid: str = "a e\n", test: str = "c\n") -> Path:
    for name, content in (("train", train), ("valid", valid), ("test", test)):
        (root / f"{name}.txt").write_bytes(content.encode())
    return root


def spelt(corpus: Corpus, ids: torch.Tensor) -> str:
    return " ".join(corpus.words[i] for i in ids.tolist())


def test_words_are_numbered_by_falling_frequency_and_ties_by_word(tmp_path: Path) -> None:
    corpus = text(write(tmp_path))
    assert corpus.words == ("<eos>", "b", "a", "c", "d", "<unk>")
    assert corpus.counts.tolist() == [3, 3, 2, 1, 1, 0]
    assert (corpus.eos, corpus.unknown) == (0, 5)
    assert corpus.train.dtype == torch.int32 and corpus.counts.dtype == torch.int64


def test_every_line_ends_in_eos_an_empty_one_and_an_unfinished_one_too(tmp_path: Path) -> None:
    corpus = text(write(tmp_path, test="c \n\n b"))
    assert spelt(corpus, corpus.train) == "b a b <eos> <eos> c a b d <eos>"
    assert spelt(corpus, corpus.test) == "c <eos> <eos> b <eos>"


def test_the_vocabulary_knows_the_training_split_only(tmp_path: Path) -> None:
    corpus = text(write(tmp_path, valid="e e e e e a\n"))
    assert "e" not in corpus.words
    assert spelt(corpus, corpus.val) == "<unk> <unk> <unk> <unk> <unk> a <eos>"
    other = text(write(tmp_path, valid="z\n", test="b\n"))
    assert other.words == corpus.words and torch.equal(other.counts, corpus.counts)


def test_rare_words_become_unknown_and_are_counted_as_such(tmp_path: Path) -> None:
    corpus = text(write(tmp_path), min_count=2)
    assert corpus.words == ("<eos>", "b", "<unk>", "a")
    assert corpus.counts.tolist() == [3, 3, 2, 2]
    assert spelt(corpus, corpus.train) == "b a b <eos> <eos> <unk> a b <unk> <eos>"


@pytest.mark.parametrize(
    ("size", "words"),
    [(2, "<unk> <eos>"), (3, "<unk> <eos> b"), (5, "<eos> b a <unk> c"), (9, "<eos> b a c d <unk>")],
)
def test_the_vocabulary_keeps_the_most_frequent_words(tmp_path: Path, size: int, words: str) -> None:
    corpus = text(write(tmp_path), vocabulary=size)
    assert " ".join(corpus.words) == words
    assert corpus.counts.sum() == len(corpus.train)


def test_the_marks_in_the_text_are_the_marks(tmp_path: Path) -> None:
    corpus = text(write(tmp_path, train="<unk> a <unk>\na <eos>\n"))
    assert corpus.words == ("<eos>", "<unk>", "a") and corpus.counts.tolist() == [3, 2, 2]


def test_gzip_is_read_like_plain_text(tmp_path: Path) -> None:
    plain = text(write(tmp_path))
    for file in tmp_path.glob("*.txt"):
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = text(tmp_path)
    assert packed.words == plain.words and torch.equal(packed.train, plain.train)


def test_ids_are_built_once_whatever_the_vocabulary_and_anew_for_another_text(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(write(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_build", lambda *args: pytest.fail("built again"))
        text(tmp_path, min_count=2)
    assert len(list(cache.iterdir())) == 3
    write(tmp_path, train="new text\n")
    assert text(tmp_path).words[:2] == ("<eos>", "new")
    assert len(list(cache.iterdir())) == 3


lines = st.lists(st.text(st.sampled_from("ab \té\u2028𝄞\r") | st.characters(codec="utf-8")), min_size=1)


@settings(deadline=None)  # it would measure whoever else is on the machine
@given(lines.map("\n".join).filter(bool), st.integers(1, 9))
@example("a b ", 1)
@example("\n \n", 2)
def test_any_text_comes_back_word_by_word(
    tmp_path_factory: pytest.TempPathFactory, content: str, piece: int
) -> None:
    root = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        corpus = text(write(root, train=content), cache=root / "cache")
    expected = [word for line in content.removesuffix("\n").split("\n") for word in (*line.split(), "<eos>")]
    assert [corpus.words[i] for i in corpus.train.tolist()] == expected
    ranked = sorted(
        {**Counter(expected), "<unk>": expected.count("<unk>")}.items(), key=lambda x: (-x[1], x[0])
    )
    assert corpus.words == tuple(word for word, _ in ranked)
    assert corpus.counts.tolist() == [count for _, count in ranked]


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="text: min_count must be at least 1, got 0"):
        text(tmp_path, min_count=0)
    with pytest.raises(ValueError, match="text: length must be at least 1, got 0"):
        text(tmp_path, length=0)
    with pytest.raises(ValueError, match="text: vocabulary must be at least 2, <eos> and <unk>, got 1"):
        text(tmp_path, vocabulary=1)
    (tmp_path / "train.txt").write_bytes(b"a\nb\xff\n")
    with pytest.raises(ValueError, match=r"train\.txt line 2 must be UTF-8, got b'\\xff\\n'"):
        text(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train\.txt must hold words, got an empty file"):
        text(tmp_path)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(ValueError, match=r"must hold train\.txt or train\.txt\.gz, got neither"):
        text(tmp_path)
    with pytest.raises(ValueError, match=r"text: nowhere must hold one of train\.txt, ptb\.train\.txt"):
        text("nowhere")


@pytest.mark.parametrize("layout", ["ptb.{}.txt", "wiki.{}.tokens", "wiki.{}.tokens.gz"])
def test_the_penn_treebank_and_wikitext_are_read_by_their_own_names(tmp_path: Path, layout: str) -> None:
    plain = text(write(tmp_path))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        content = (tmp_path / f"{split}.txt").read_bytes()
        packed = gzip.compress(content) if layout.endswith(".gz") else content
        (folder / layout.format(split)).write_bytes(packed)
    corpus = load("text", folder, length=7)
    assert isinstance(corpus, Corpus) and (corpus.name, corpus.length) == ("corpus", 7)
    assert corpus.words == plain.words and torch.equal(corpus.test, plain.test)
    (folder / layout.format("valid")).unlink()
    with pytest.raises(ValueError, match=r"corpus must hold \S*valid\S* or \S*valid\S*\.gz, got neither"):
        text(folder)


@pytest.mark.shared_data
def test_war_and_peace_has_the_stated_counts(shared_data: Path, tmp_path: Path) -> None:
    corpus = text(shared_data / "war_and_peace", cache=tmp_path)
    words = [int((split != corpus.eos).sum()) for split in (corpus.train, corpus.val, corpus.test)]
    assert words == [394_538, 84_831, 86_939]
    assert corpus.counts.sum() == len(corpus.train)
    assert torch.equal(corpus.train.long().bincount(minlength=len(corpus.words)), corpus.counts)
    assert corpus.words[:5] == ("<eos>", "the", "and", "to", "of")
