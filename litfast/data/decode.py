"""Encoded images to pixels (stands in for the reader's own)."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor


def decode(data: bytes, *, name: str, centre_crop: int | None = None, size: int | None = None) -> Tensor:
    """RGB [H, W, 3] uint8."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"decode: {name} must be a readable image, got: {error}") from None
    if centre_crop:
        left, top = (image.width - centre_crop) // 2, (image.height - centre_crop) // 2
        image = image.crop((left, top, left + centre_crop, top + centre_crop))
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))
