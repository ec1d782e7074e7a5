"""A model's forward pass as a CUDA graph: one launch a call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litfast.carried import reset

WARM_UP = 3  # eager runs before the capture: libraries choose their kernels


class Captured:
    """Replays `model` on batches like `samples`: each is copied into the graph's memory first.

    What a call returns is overwritten by the next call. The model is kept: the graph reads its weights.
    """

    def __init__(self, model: nn.Module, samples: Tensor) -> None:
        self._model = model
        self._samples = samples.clone()
        stream = torch.cuda.Stream(samples.device)
        with torch.inference_mode(), torch.cuda.device(samples.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    model(self._samples)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._outputs: Tensor = model(self._samples)
            reset(model)  # what it carried of the warm-up

    def __call__(self, samples: Tensor) -> Tensor:
        """Outputs [B, ...] of a batch [B, ...]."""
        self._samples.copy_(samples)
        self._graph.replay()
        return self._outputs
