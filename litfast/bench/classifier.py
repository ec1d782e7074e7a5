"""The judge of generated images where the Inception file is not at hand: a classifier of the same data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from litfast.data.loader import IGNORED, Batch, Loader
from litfast.engine.evaluate import evaluating
from litfast.engine.report import Report
from litfast.engine.train import train
from litfast.methods import scratch
from litfast.models import SectionedModel, create
from litfast.phase import Branch, Losses, Phase, Schedule

ARCHITECTURE = "resnet20"
KEY = "litfast"  # of the facts in the file's metadata


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a trained classifier; JSON holds it beside the weights.

    Attributes:
        spec: `litfast.create(**spec)` makes the network.
        data: name of the set.
        domains: what its outputs stand for, in their order.
        attributes: an image may have several (sigmoid), rather than exactly one (softmax).
        shape: [C, H, W] of the images.
        mean, std: what the network's input was normalised with, of pixels in 0..1.
        samples, epochs, seed: of the training.
        accuracy: percent on the test split; with attributes the mean over them.
    """

    spec: dict[str, Any]
    data: str
    domains: tuple[str, ...]
    attributes: bool
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: int
    epochs: int
    seed: int
    accuracy: float


class Classifier:
    """A ResNet-20 as an extractor: its pooled activations [B, 64] are the features.

    The probabilities are the softmax of its logits, or with attributes each logit's sigmoid.

    Attributes:
        facts: what it is and how it was trained.
        name: the same in one line.
    """

    def __init__(self, model: SectionedModel, facts: Facts) -> None:
        self.facts = facts
        self.domains = facts.domains
        what = "mean test accuracy of the attributes" if facts.attributes else "test accuracy"
        epochs = f"{facts.epochs} epoch{'' if facts.epochs == 1 else 's'}"
        self.name = f"ResNet-20 trained on {facts.data} ({epochs}, {what} {facts.accuracy:.1f} %)"
        # as training leaves it, so that a file gives the very numbers that the trained network gave
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
        self._model = model.eval().requires_grad_(False)
        device = next(model.parameters()).device
        # (x + 1) / 2 is the pixel of a generator's x; the network wants it less the mean, over the std
        std = torch.tensor(facts.std, device=device)
        self._scale = (0.5 / std)[:, None, None]
        self._shift = ((0.5 - torch.tensor(facts.mean, device=device)) / std)[:, None, None]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in -1..1 -> features [B, 64] and probabilities [B, K]."""
        normalised = torch.addcmul(self._shift, images.to(self._scale.device).float(), self._scale)
        irs, logits = self._model.observe(normalised)
        return irs[-1].mean((2, 3)), logits.sigmoid() if self.facts.attributes else logits.softmax(1)

    def save(self, path: str | Path) -> None:
        """Write weights and facts to one safetensors file."""
        from safetensors.torch import save_file

        weights = {key: value.contiguous() for key, value in self._model.state_dict().items()}
        save_file(weights, path, metadata={KEY: json.dumps(asdict(self.facts))})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        domains: Sequence[str],
        shape: Sequence[int],
        device: str | torch.device = "cpu",
    ) -> Classifier:
        """Read what `save` wrote, for images of these domains and of this shape [C, H, W].

        Raises:
            ValueError: no such file, a file that `save` did not write, other domains or another shape.
        """
        facts, weights = _read(Path(path))
        for what, got, wanted in (("domains", facts.domains, domains), ("images", facts.shape, shape)):
            if list(got) != list(wanted):
                raise ValueError(
                    f"Classifier: {path} must be trained on the {what} {_listed(wanted)}, got {_listed(got)}"
                )
        model = create(**facts.spec)
        model.load_state_dict(weights)
        return cls(model.to(device), facts)


def train_classifier(
    training: Loader,
    test: Loader,
    *,
    data: str,
    domains: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    epochs: int = 8,
    lr: float = 0.1,
    seed: int = 0,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    progress: Callable[[Report], None] | None = None,
) -> Classifier:
    """Train a ResNet-20 to tell the domains of a set apart, to judge generators by.

    SGD with momentum .9 and a cosine schedule. Classes [B] train by cross-entropy (`methods.scratch`),
    attributes [B, A] by binary cross-entropy, the mean over batch and attributes. It never sees a test image
    before its accuracy is measured.

    Args:
        training, test: loaders of the set's two splits, both normalised by `mean` and `std`.
        data: the set's name, for reports.
        domains: the classes or attributes, in the order of the targets.
        seed: of the initial weights; the loader has its own.
        device: where to train, and where the classifier stays.
        precision: "fp32" or "bf16", of the training alone.
        progress: told what `litfast.train` reports.
    """
    torch.manual_seed(seed)
    model = create(ARCHITECTURE, classes=len(domains), channels=len(mean)).to(device)
    attributes = next(iter(test.batches(0))).target.dim() == 2
    schedule = Schedule(epochs=epochs, lr=lr, schedule="cosine")
    phases = _attributes(model, schedule) if attributes else scratch(model, train=schedule)
    for report in train(phases, training, seed=seed, precision=precision):
        if progress is not None:
            progress(report)
    accuracy, shape = _measured(model, test)
    facts = Facts(
        spec=model.spec or {},
        data=data,
        domains=tuple(domains),
        attributes=attributes,
        shape=shape,
        mean=tuple(mean),
        std=tuple(std),
        samples=training.samples,
        epochs=epochs,
        seed=seed,
        accuracy=accuracy,
    )
    return Classifier(model, facts)


def _attributes(model: SectionedModel, schedule: Schedule) -> Iterator[Phase]:
    """Several labels an image: each logit by itself."""

    def loss(batch: Batch) -> Losses:
        logits = model(batch.images).float()
        return {"loss": binary_cross_entropy_with_logits(logits, batch.target.float())}

    branch = Branch(name="classifier", params=tuple(model.parameters()), loss=loss, schedule=schedule)
    yield Phase(name="train", model=model, observe=lambda batch: batch, branches=(branch,), trains=(model,))


def _measured(model: SectionedModel, test: Loader) -> tuple[float, tuple[int, ...]]:
    """Accuracy in percent, over all attributes where there are several, and the images' shape."""
    right = labels = 0
    with evaluating(model), torch.inference_mode():
        for batch in test.batches(0):
            logits = model(batch.images)
            found = logits.argmax(1) if batch.target.dim() == 1 else (logits > 0).long()
            real = batch.target != IGNORED
            right += int((found == batch.target)[real].sum())
            labels += int(real.sum())
    if not labels:
        raise ValueError("train_classifier: test must hold at least one labelled image, got none")
    return 100 * right / labels, tuple(batch.images.shape[1:])


def _read(path: Path) -> tuple[Facts, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"Classifier: weights must be an existing file, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[KEY])
            said |= {name: tuple(said[name]) for name in ("domains", "shape", "mean", "std")}
            return Facts(**said), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"Classifier: {path} must be a classifier that `Classifier.save` wrote, "
            f"got a file that is none ({type(error).__name__})"
        ) from error


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
