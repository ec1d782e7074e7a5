"""The classifier as a judge: what it sees, what it says of itself, and its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from litfast.bench.classifier import Classifier, train_classifier
from litfast.data import sets
from litfast.data.resident import ResidentLoader
from litfast.engine import Report, evaluate

MEAN, STD = (0.2, 0.3, 0.4), (0.1, 0.2, 0.3)
SET = sets.load("synthetic", size=8, train=256, val=64)
CLASSES = SET.classes


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A network this small gains nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loader(
    train: bool, attributes: bool = False, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> ResidentLoader:
    split = SET.train if train else SET.val
    assert isinstance(split, sets.Images)
    labels = split.labels
    if attributes:  # whether the class is odd, and whether it is one of the upper half
        labels = torch.stack([labels % 2, (labels >= len(CLASSES) // 2).long()], 1)
    return ResidentLoader(
        split.images, labels, batch=32 if train else 24, mean=mean, std=std, train=train, seed=1
    )


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return train_classifier(
        loader(True), loader(False), data="synthetic", domains=CLASSES, mean=MEAN, std=STD, epochs=5
    )


def test_it_learns_and_says_how_well(classifier: Classifier) -> None:
    facts = classifier.facts
    assert facts.accuracy > 60 > 2 * 100 / len(CLASSES)
    assert (facts.data, facts.domains, facts.shape, facts.samples) == ("synthetic", CLASSES, (3, 8, 8), 256)
    assert (facts.epochs, facts.seed, facts.attributes) == (5, 0, False)
    expected = f"ResNet-20 trained on synthetic (5 epochs, test accuracy {facts.accuracy:.1f} %)"
    assert classifier.name == expected


def test_the_accuracy_is_that_of_the_test_split_without_its_padding(classifier: Classifier) -> None:
    assert evaluate(classifier._model, loader(False)).accuracy == pytest.approx(classifier.facts.accuracy)


def test_images_of_a_generator_are_converted_to_what_the_network_was_trained_on(
    classifier: Classifier,
) -> None:
    ours = next(iter(loader(False, mean=(0.5,) * 3, std=(0.5,) * 3).batches(0))).images  # -1..1
    theirs = next(iter(loader(False).batches(0))).images
    irs, logits = classifier._model.observe(theirs)
    features, probabilities = classifier(ours)
    assert features.shape == (24, 64) and probabilities.shape == (24, len(CLASSES))
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, irs[-1].mean((2, 3)), rtol=1e-4, atol=1e-5)
    linear = classifier._model.model.linear
    torch.testing.assert_close(linear(features), logits, rtol=1e-4, atol=1e-4)  # they feed the last layer


def test_the_file_holds_all_of_it(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(path := tmp_path / "judge.safetensors")
    again = Classifier.load(path, domains=CLASSES, shape=(3, 8, 8))
    assert again.facts == classifier.facts and again.name == classifier.name
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    assert all(torch.equal(a, b) for a, b in zip(again(images), classifier(images), strict=True))


def test_the_seed_decides_and_progress_is_told() -> None:
    told: list[Report] = []

    def trained(seed: int) -> Classifier:
        given = {"data": "s", "domains": CLASSES, "mean": MEAN, "std": STD, "epochs": 1}
        return train_classifier(loader(True), loader(False), seed=seed, progress=told.append, **given)

    images = torch.rand(3, 3, 8, 8)
    one, same, other = (trained(seed)(images)[0] for seed in (4, 4, 5))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert [report.kind for report in told].count("epoch") == 3


def test_attributes_have_a_probability_each(tmp_path: Path) -> None:
    judge = train_classifier(
        loader(True, attributes=True),
        loader(False, attributes=True),
        data="faces",
        domains=("odd", "upper"),
        mean=MEAN,
        std=STD,
        epochs=2,
    )
    assert "faces (2 epochs, mean test accuracy of the attributes " in judge.name
    assert judge.facts.accuracy > 55
    images = next(iter(loader(False, mean=(0.5,) * 3, std=(0.5,) * 3).batches(0))).images
    _, probabilities = judge(images)
    assert probabilities.shape == (24, 2) and (probabilities.sum(1) - 1).abs().max() > 0.01
    judge.save(path := tmp_path / "judge.safetensors")
    assert Classifier.load(path, domains=("odd", "upper"), shape=(3, 8, 8)).facts.attributes


def test_a_file_that_does_not_fit_gets_one_clear_line(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(path := tmp_path / "judge.safetensors")
    with pytest.raises(ValueError, match="must be trained on the domains cat, dog, got "):
        Classifier.load(path, domains=("cat", "dog"), shape=(3, 8, 8))
    with pytest.raises(ValueError, match=r"must be trained on the images 1, 8, 8, got 3, 8, 8$"):
        Classifier.load(path, domains=CLASSES, shape=(1, 8, 8))
    with pytest.raises(ValueError, match="weights must be an existing file"):
        Classifier.load(tmp_path / "none", domains=CLASSES, shape=(3, 8, 8))
    save_file({"weight": torch.zeros(2)}, plain := tmp_path / "plain.safetensors")
    (broken := tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:100])
    for bad in (plain, broken):
        with pytest.raises(ValueError, match=r"must be a classifier that `Classifier\.save` wrote"):
            Classifier.load(bad, domains=CLASSES, shape=(3, 8, 8))
