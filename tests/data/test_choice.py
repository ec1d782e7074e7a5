from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from litfast.data import DaliLoader, ResidentLoader, TorchLoader, choice, sets
from litfast.data.sets.image_set import Files, ImageSet
from litfast.data.sets.items import Items

GB = 1 << 30


@pytest.fixture
def arrays() -> ImageSet:
    """96 + 64 + 64 images of 3 x 16 x 16 bytes: 168 KiB."""
    return sets.load("synthetic", train=96)


@pytest.fixture
def files(arrays: ImageSet, tmp_path: Path) -> ImageSet:
    for i in range(3):
        Image.new("RGB", (8, 6), (i, i, i)).save(tmp_path / f"{i}.png")
    samples = Files(root=tmp_path, paths=("0.png", "1.png", "2.png"), labels=torch.arange(3))
    return replace(arrays, train=samples, test=samples, val=None)


def dataset(images: ImageSet) -> ImageSet:
    items = Items(dataset=[(image, 0) for image in images.test.images])  # type: ignore[arg-type, union-attr]
    return replace(images, train=items, test=items, val=None)


def free(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(choice, "free_memory", lambda device: number)


def without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_missing", lambda device: "DALI is not installed: pip install it")


@pytest.mark.dali
def test_a_set_that_fits_a_quarter_of_the_free_memory_becomes_resident(
    arrays: ImageSet, files: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, GB)
    assert choice.choose("auto", arrays, device="cpu") == (
        "resident",
        "its images take 168 KiB of the 1 GiB free on cpu",
    )
    assert choice.choose("auto", files, device="cpu").name == "resident"  # 6 x 3 x 6 x 8 bytes, decoded
    free(monkeypatch, 4 * 6 * 3 * 6 * 8)
    assert choice.choose("auto", files, device="cpu").name == "resident"
    free(monkeypatch, 4 * 6 * 3 * 6 * 8 - 1)
    assert choice.choose("auto", files, device="cpu").name == "dali"


@pytest.mark.dali
def test_a_size_that_is_asked_for_counts_and_no_file_is_opened(
    files: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = files.train
    assert isinstance(samples, Files)
    (samples.root / "0.png").unlink()
    free(monkeypatch, 4 * 6 * 3 * 10 * 10)
    assert choice.choose("auto", replace(files, size=10), device="cpu").name == "resident"
    assert choice.choose("auto", replace(files, size=11), device="cpu").name == "dali"
    assert choice.choose("auto", replace(files, centre_crop=10), device="cpu").name == "resident"


@pytest.mark.dali
def test_what_does_not_fit_goes_to_dali_and_without_dali_to_torch(
    arrays: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 400 << 10)
    why = "not resident, its images take 168 KiB, more than 25% of the 400 KiB free on cpu"
    assert choice.choose("auto", arrays, device="cpu") == ("dali", why)
    without_dali(monkeypatch)
    why += "; not dali, DALI is not installed: pip install it"
    assert choice.choose("auto", arrays, device="cpu") == ("torch", why)


def test_a_dataset_of_ones_own_is_served_by_torch_alone(arrays: ImageSet) -> None:
    ours = dataset(arrays)
    found = choice.choose("auto", ours, device="cpu")
    assert found.name == "torch" and "a Dataset of one's own" in found.why
    for name in ("resident", "dali"):
        with pytest.raises(ValueError, match=f"^data: loader {name} must be able .* got: a Dataset"):
            choice.choose(name, ours, device="cpu")


@pytest.mark.dali
def test_a_named_loader_is_served_or_refused_with_its_reason(
    arrays: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 400 << 10)  # more than a quarter, but it fits
    for name in ("resident", "dali", "torch"):
        assert choice.choose(name, arrays, device="cpu") == (name, "asked for")
    free(monkeypatch, 100 << 10)
    with pytest.raises(ValueError, match=r"got: its images take 168 KiB, more than the 100 KiB free on cpu"):
        choice.choose("resident", arrays, device="cpu")
    without_dali(monkeypatch)
    with pytest.raises(ValueError, match=r"loader dali must .* got: DALI is not installed: pip install it"):
        choice.choose("dali", arrays, device="cpu")


@pytest.mark.dali
def test_dali_that_is_not_installed_or_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert choice._missing.__wrapped__(device) == ""

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("CUDA driver version\n is insufficient")

    monkeypatch.setattr(choice, "DaliLoader", broken)
    said = "DALI does not run on cpu: CUDA driver version is insufficient"
    assert choice._missing.__wrapped__(device) == said
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert choice._missing.__wrapped__(device).startswith("DALI is not installed: pip install nvidia-dali")


@pytest.mark.dali
@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_all_loaders_are_made_with_the_same_words_and_give_the_same_targets(
    kind: str, request: pytest.FixtureRequest
) -> None:
    images: ImageSet = request.getfixturevalue(kind)
    words: dict[str, Any] = {"batch": 2, "mean": images.mean, "std": images.std, "train": True, "seed": 1}
    made = [choice.make(name, images.train, **words) for name in ("resident", "dali", "torch")]
    assert [type(loader) for loader in made] == [ResidentLoader, DaliLoader, TorchLoader]
    orders = [torch.cat([batch.target for batch in loader.batches(0)]).tolist() for loader in made]
    assert orders[0] == orders[1] == orders[2]


def test_workers_below_0_are_refused(arrays: ImageSet) -> None:
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        choice.make("torch", arrays.train, workers=-1)


@pytest.mark.dali
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("torch", "waited for data 34 % of the time: data.loader=dali may help"),
        ("dali", "waited for data 34 % of the time: data.loader=resident may help where the set fits"),
        ("resident", "waited for data 34 % of the time: the set is resident already"),
    ],
)
def test_waiting_for_more_than_a_tenth_of_the_time_comes_with_advice(
    name: str, line: str, arrays: ImageSet
) -> None:
    assert choice.advice(name, arrays, 0.34, device="cpu").startswith(line)
    assert choice.advice(name, arrays, 0.1, device="cpu") == ""


def test_dali_is_not_advised_where_it_cannot_serve(arrays: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    without_dali(monkeypatch)
    said = choice.advice("torch", arrays, 0.5, device="cpu")
    assert said.endswith("more data.workers may help (DALI is not installed: pip install it)")
    assert "Dataset of one's own" in choice.advice("torch", dataset(arrays), 0.5, device="cpu")


def test_bytes_are_whole_numbers_where_three_digits_are_too_few() -> None:
    said = [choice.in_bytes(number) for number in (0, 999, 1023 << 10, 1020 << 20, 3 << 29, 5 << 40)]
    assert said == ["0 B", "999 B", "1023 KiB", "1020 MiB", "1.5 GiB", "5120 GiB"]


def test_a_control_groups_limit_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "CGROUP", tmp_path)
    unlimited = choice.free_memory(torch.device("cpu"))
    assert unlimited > 1 << 20
    (tmp_path / "memory.max").write_text(f"{3 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{2 << 20}\n")
    assert choice.free_memory(torch.device("cpu")) == 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert choice.free_memory(torch.device("cpu")) > 1 << 20
