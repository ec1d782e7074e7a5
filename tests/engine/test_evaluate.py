from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.evaluate import Evaluation, evaluate
from litfast.models import Ensemble, SectionedModel

Loaders = Callable[..., ResidentLoader]


@pytest.fixture
def model() -> SectionedModel:
    torch.manual_seed(0)
    model = litfast.create("resnet8", classes=4)
    model(torch.randn(16, 3, 8, 8))
    return model


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no forward today")


class Relabelled:
    """A loader whose targets are all `target`."""

    def __init__(self, data: ResidentLoader, target: int) -> None:
        self.data, self.target = data, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def batches(self, epoch: int, start: int = 0) -> Any:
        return (
            Batch(b.images, torch.full_like(b.target, self.target)) for b in self.data.batches(epoch, start)
        )


def test_accuracy_and_loss_are_those_of_all_samples_in_eval_mode(
    model: SectionedModel, loader: Loaders
) -> None:
    whole = next(iter(loader(train=False, batch=32).batches(0)))
    model.eval()
    logits = model(whole.images)
    ours = evaluate(model, loader(train=False, batch=32))
    assert ours.accuracy == 100 * (logits.argmax(1) == whole.target).float().mean().item()
    assert ours.loss == pytest.approx(cross_entropy(logits, whole.target).item(), rel=1e-6)
    assert ours.samples == 32


def test_padding_counts_neither_as_hit_nor_as_sample(model: SectionedModel, loader: Loaders) -> None:
    padded = loader(train=False, batch=12)  # 32 images: the third batch holds 8 and 4 of padding
    assert sum(int((batch.target < 0).sum()) for batch in padded.batches(0)) == 4
    ours, whole = evaluate(model, padded), evaluate(model, loader(train=False, batch=32))
    assert (ours.accuracy, ours.samples) == (whole.accuracy, 32)
    assert ours.loss == pytest.approx(whole.loss, rel=1e-5)


def test_evaluating_changes_neither_weights_nor_statistics_nor_modes(
    model: SectionedModel, val: ResidentLoader
) -> None:
    model.train()
    model.sections[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, val)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_modes_are_given_back_even_when_the_forward_fails(val: ResidentLoader) -> None:
    model = Failing().train()
    with pytest.raises(RuntimeError, match="no forward today"):
        evaluate(model, val)
    assert all(module.training for module in model.modules())


def test_bf16_runs_the_model_in_bf16_and_sums_in_full_precision(
    model: SectionedModel, val: ResidentLoader
) -> None:
    seen: list[torch.dtype] = []
    model.model.get_submodule("linear").register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    half, full = evaluate(model, val, precision="bf16"), evaluate(model, val)
    assert seen == [torch.bfloat16] * val.steps + [torch.float32] * val.steps
    assert half.loss == pytest.approx(full.loss, rel=0.05) and half.loss != full.loss


def test_a_loader_without_a_label_is_refused(model: SectionedModel, val: ResidentLoader) -> None:
    with pytest.raises(ValueError, match="evaluate: loader must hold at least one labelled sample, got none"):
        evaluate(model, Relabelled(val, -100))


def test_one_right_class_everywhere_is_100_percent(val: ResidentLoader) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, 0.0, 50.0, 0.0]))
    assert evaluate(model, Relabelled(val, 2)) == Evaluation(accuracy=100.0, loss=0.0, samples=36)


def test_an_ensemble_is_evaluated_by_the_mean_of_its_probabilities(loader: Loaders) -> None:
    models = [litfast.create("resnet8", classes=4).eval() for _ in range(3)]
    whole = next(iter(loader(train=False, batch=32).batches(0)))
    mean = torch.stack([model(whole.images).softmax(1) for model in models]).mean(0)
    ours = evaluate(Ensemble(models), loader(train=False))
    assert ours.accuracy == 100 * (mean.argmax(1) == whole.target).float().mean().item()
    likelihood = mean[torch.arange(32), whole.target].log().mean().item()
    assert ours.loss == pytest.approx(-likelihood, rel=1e-5)
