from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from litfast import lfc
from litfast.data import ResidentLoader, load
from litfast.models import SectionedModel, create, load_weights

State = dict[str, Tensor]


def moved(model: SectionedModel) -> State:
    """The state of a model whose batch norms have seen data."""
    model.train()(torch.randn(4, 3, 8, 8))
    return model.state_dict()


@pytest.mark.parametrize(
    "pack",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "best_prec1": 91.5},
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
def test_a_torch_file_loads_bit_for_bit_through_its_wrappings(
    pack: Callable[[State], Any], tmp_path: Path
) -> None:
    state = moved(create("resnet8"))
    torch.save(pack(state), tmp_path / "weights.th")
    model = create("resnet8")
    load_weights(model, tmp_path / "weights.th")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_safetensors_load_bit_for_bit(tmp_path: Path) -> None:
    state = moved(create("resnet8"))
    save_file(state, tmp_path / "weights.safetensors")
    model = create("resnet8")
    load_weights(model, str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_an_lfc_file_loads_bit_for_bit_and_a_damaged_one_not_at_all(tmp_path: Path) -> None:
    state, path = moved(create("resnet8")), tmp_path / "weights.lfc"
    lfc.save(path, state)
    model = create("resnet8")
    load_weights(model, path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    path.write_bytes(path.read_bytes()[:5000])
    refused(model, path, "^lfc: .* must be a whole .lfc file .* got 5000 bytes with crc32 ")


def test_files_without_batch_counters_load(tmp_path: Path) -> None:
    state = {k: v for k, v in moved(create("resnet8")).items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.th")
    model = create("resnet8")
    load_weights(model, tmp_path / "old.th")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def refused(model: SectionedModel, path: Path, message: str) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as raised:
        load_weights(model, path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_number_of_classes_is_said_as_such(tmp_path: Path) -> None:
    path = tmp_path / "ten.th"
    torch.save(create("resnet8").state_dict(), path)
    refused(create("resnet8", classes=100), path, "weights have 10 classes, the model 100; take the classes")


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.th"
    torch.save(create("resnet14").state_dict(), path)
    first = r"layer1\.1\.conv1\.weight, layer1\.1\.bn1\.weight, layer1\.1\.bn1\.bias and \d+ more"
    refused(create("resnet8"), path, f"must fit the model, got unexpected {first}$")
    torch.save(create("resnet8").state_dict(), path)
    refused(create("resnet14"), path, f"must fit the model, got missing {first}$")


def test_a_key_that_is_no_line_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "odd.th"
    torch.save(create("resnet8").state_dict() | {"a\nb": torch.zeros(1)}, path)
    refused(create("resnet8"), path, r"must fit the model, got unexpected 'a\\nb'$")


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gray.th"
    torch.save(create("resnet8", channels=1).state_dict(), path)
    refused(create("resnet8"), path, r"got shapes conv1\.weight \[16, 1, 3, 3\] for \[16, 3, 3, 3\]$")


@pytest.mark.parametrize("kind", ["long", "cfloat", "to_sparse"])
def test_another_kind_of_tensor_is_refused_before_any_is_loaded(kind: str, tmp_path: Path) -> None:
    state, key = create("resnet8").state_dict(), "layer3.0.conv1.weight"
    strange = getattr(state[key], kind)()
    torch.save(state | {key: strange}, tmp_path / "x.th")
    refused(create("resnet8"), tmp_path / "x.th", f"got kinds {key} {strange.dtype} for torch.float32$")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(create("resnet8"), tmp_path / "none.th", "load_weights: weights must be an existing file, got ")


@pytest.mark.parametrize("name", ["cut.th", "cut.safetensors"])
def test_a_truncated_file_is_named_with_its_size(name: str, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / name
    state = create("resnet8").state_dict()
    save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
    path.write_bytes(whole.read_bytes()[:5000])
    refused(
        create("resnet8"), path, "must be a complete checkpoint of plain tensors, got 5000 bytes that do not"
    )


@pytest.mark.parametrize("content", [b"", b"label,pixel\n1,2\n"])
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.th"
    path.write_bytes(content)
    refused(create("resnet8"), path, f"got {len(content)} bytes that do not load")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path(str(tmp_path / "ran")).touch, ()  # type: ignore[return-value]

    path = tmp_path / "attack.th"
    torch.save({"state_dict": Attack()}, path)
    refused(create("resnet8"), path, "must be a complete checkpoint of plain tensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("content", "got"), [([1, 2], "a list"), ({"lr": 0.1}, "'lr', a float")])
def test_a_checkpoint_without_weights_is_named(content: Any, got: str, tmp_path: Path) -> None:
    path = tmp_path / "optimizer.th"
    torch.save(content, path)
    refused(create("resnet8"), path, f"must hold tensors by name, got {got}$")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "file", "correct"),
    [("resnet20", "resnet20-12fca82f.th", 182), ("resnet56", "resnet56-4bfd9763.th", 188)],
)
def test_the_published_checkpoints_recognise_the_first_test_images(
    name: str, file: str, correct: int, shared_data: Path
) -> None:
    model = create(name).eval()
    load_weights(model, shared_data / "checkpoints" / file)
    cifar = load("cifar10", shared_data / "cifar-10-batches-bin")
    images, labels = cifar.test.images[:200], cifar.test.labels[:200]
    loader = ResidentLoader(images, labels, batch=100, mean=cifar.mean, std=cifar.std, train=False)
    with torch.no_grad():
        found = sum(int((model(b.images).argmax(1) == b.target).sum()) for b in loader.batches(0))
    assert abs(found - correct) <= 1  # a tie may fall either way on another machine
