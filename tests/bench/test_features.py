"""The Inception wrapper on a scripted stand-in of the same signature: the true file is not at hand here."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from litfast.bench.features import Inception


class StandIn(nn.Module):
    """Not Inception: features are the channels' mean pixels, 0..255; refuses what is not uint8 RGB."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 5)

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        assert img.dtype == torch.uint8 and img.shape[1] == 3
        features = img.float().mean((2, 3))
        if return_features:
            return features
        bias = self.output.bias * (0.0 if no_output_bias else 1.0)
        return (features @ self.output.weight.T + bias).softmax(1)


class Other(nn.Module):
    """A scripted network that knows nothing of features."""

    def forward(self, img: Tensor) -> Tensor:
        return img.float().mean((2, 3))


def scripted(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), str(path))
    return path


def pixels(images: Tensor) -> Tensor:
    """0..255 -> -1..1, as a loader with mean and std .5 does."""
    return (images.float() / 255 - 0.5) / 0.5


def test_the_network_sees_the_very_pixels_and_is_named_by_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = scripted(network := StandIn(), tmp_path / "inception-2015-12-05.pt")
    extractor = Inception(path)
    raw = torch.arange(256).repeat(3).view(1, 3, 16, 16).to(torch.uint8)
    raw = torch.cat([raw, raw.flip(2) // 2])
    features, probabilities = extractor(pixels(raw))
    assert torch.equal(features, raw.float().mean((2, 3)))
    torch.testing.assert_close(probabilities, network(raw, no_output_bias=True))
    assert extractor.name.startswith("inception-2015-12-05.pt (sha256 ") and extractor.domains == ()


def test_grey_images_are_repeated_and_pixels_out_of_range_clamped(tmp_path: Path) -> None:
    extractor = Inception(scripted(StandIn(), tmp_path / "i.pt"))
    features, _ = extractor(torch.full((1, 1, 8, 8), 3.0))
    assert features.tolist() == [[255.0] * 3]


def test_only_the_one_deprecation_is_silenced(tmp_path: Path) -> None:
    path = scripted(StandIn(), tmp_path / "i.pt")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Inception(path)(torch.zeros(1, 3, 8, 8))
        assert said == []
        warnings.warn("another", DeprecationWarning, stacklevel=1)
    assert len(said) == 1


def test_what_is_no_inception_file_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Inception: weights must be an existing file, got .*none\.pt$"):
        Inception(tmp_path / "none.pt")
    (bad := tmp_path / "bad.pt").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"bad\.pt must be a TorchScript file, got 10 bytes that are none$"):
        Inception(bad)
    torch.save({"weight": torch.zeros(2)}, state := tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt must be a TorchScript file"):
        Inception(state)
    other = scripted(Other(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt must take images with return_features"):
        Inception(other)
