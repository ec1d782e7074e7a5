"""What judges generated images: any network that turns them into features, named in every report."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Extractor(Protocol):
    """Turns images into feature vectors and, where it classifies, into probabilities.

    `name` says which network it is and stands beside every number that rests on it. `domains` names the
    columns of the probabilities where they are the set's domains (of attributes each a probability of its
    own); it is empty where they are other classes.
    """

    @property
    def name(self) -> str: ...

    @property
    def domains(self) -> tuple[str, ...]: ...

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] in -1..1 -> features [B, D] and probabilities [B, K], or None."""
        ...


class Inception:
    """The standard Inception features: the TorchScript file `inception-2015-12-05.pt` of StyleGAN2-ADA and 3.

    The network takes uint8 images [B, 3, H, W] of any size and resizes them itself. Called with
    `return_features=True` it gives the 2,048 pooled features that FID is defined on, called with
    `no_output_bias=True` the 1,008 class probabilities of the original inception score. Grey images are
    repeated over three channels. The file is the user's to fetch: its licence is its own.

    The true file was not to be had where this was written: what is tested is a small stand-in with the same
    signature. `name` holds the file's name and the start of its SHA-256, so that two reports can be compared.

    Args:
        path: the file. It holds code, which runs: take it from a source that you trust.
        device: where it runs.

    Raises:
        ValueError: no such file, no TorchScript, or a network that does not answer as said above.
    """

    domains: tuple[str, ...] = ()

    def __init__(self, path: str | Path, *, device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"Inception: weights must be an existing file, got {path}")
        self._device = torch.device(device)
        self._network = _loaded(path, self._device)
        self.name = f"{path.name} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"
        try:
            features, probabilities = self(torch.zeros(2, 3, 32, 32))
            fits = features.dim() == probabilities.dim() == 2 and len(features) == len(probabilities) == 2
        except (RuntimeError, AttributeError):
            fits = False
        if not fits:
            raise ValueError(
                f"Inception: {path} must take images with return_features or no_output_bias and give "
                "[B, D] and [B, K], got a network that does not"
            )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 1 or 3, H, W] in -1..1 -> features [B, 2048] and probabilities [B, 1008]."""
        pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(self._device, torch.uint8)
        pixels = pixels.expand(-1, 3, -1, -1).contiguous()
        features = self._network(pixels, return_features=True)
        return features, self._network(pixels, no_output_bias=True)


def _loaded(path: Path, device: torch.device) -> Any:
    """The scripted network; torch calls the format deprecated, but the file exists in no other."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
            return torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"Inception: {path} must be a TorchScript file, got {path.stat().st_size} bytes that are none"
        ) from error
