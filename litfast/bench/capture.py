"""A model's forward pass as a CUDA graph: one launch a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from litfast.carried import reset
from litfast.fields import each, first, tensors

WARM_UP = 3  # eager runs before the capture: libraries choose their kernels


class Captured:
    """Replays `model` on batches like `samples`: each is copied into the graph's memory first.

    What a call returns is overwritten by the next call. The model is kept: the graph reads its weights.
    """

    def __init__(self, model: nn.Module, samples: Any) -> None:
        self._model = model
        self._samples = each(torch.clone, samples)
        device = first(samples).device
        stream = torch.cuda.Stream(device)
        with torch.inference_mode(), torch.cuda.device(device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    model(self._samples)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._outputs: Tensor = model(self._samples)
            reset(model)  # what it carried of the warm-up

    def __call__(self, samples: Any) -> Tensor:
        """Outputs [B, ...] of a batch [B, ...]."""
        for static, given in zip(tensors(self._samples), tensors(samples), strict=True):
            static.copy_(given)
        self._graph.replay()
        return self._outputs
