"""StarGAN's training: its losses and steps beside the released code's, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.auto import choose
from litfast.engine.plan import plan
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import adversarial
from litfast.methods._adversarial import draw, gradient_penalty
from litfast.models import SectionedModel, parameters
from litfast.models.stargan import with_domain
from litfast.phase import Schedule

CPU = torch.device("cpu")
ADAM: dict[str, Any] = {"lr": 1e-3, "optimizer": "adam", "betas": (0.5, 0.999), "weight_decay": 0.0}
SCHEDULE = Schedule(epochs=2, **ADAM)
Translator = Callable[..., SectionedModel]


class Linear(nn.Module):
    """Realness <w, x>: its slope is w at every image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return (images * self.weight).sum((1, 2, 3)), images.new_zeros(len(images), 4)


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (1, 1, 3, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_penalty_of_a_linear_critic_is_that_of_its_weights_norm(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    real, fake = (torch.randn(shape, dtype=torch.float64).to(memory_format=layout) for _ in range(2))
    critic = Linear(torch.randn(shape[1:], dtype=torch.float64))
    penalty = gradient_penalty(critic, real, fake)
    penalty.backward()
    weight = critic.weight.detach()
    norm = weight.norm()
    torch.testing.assert_close(penalty.detach(), (norm - 1) ** 2, rtol=1e-13, atol=0)
    torch.testing.assert_close(critic.weight.grad, 2 * (norm - 1) * weight / norm, rtol=1e-12, atol=0)
    assert not real.requires_grad and real.grad is None and fake.grad is None


def test_the_penalty_is_taken_at_a_random_point_between_real_and_fake_one_a_sample() -> None:
    class Bowl(nn.Module):  # realness |x|^2 / 2: the slope is the image itself
        def forward(self, images: Tensor) -> tuple[Tensor, None]:
            return images.square().sum((1, 2, 3)) / 2, None

    real, fake = (torch.randn(5, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    torch.manual_seed(1)
    penalty = gradient_penalty(Bowl(), real, fake)
    torch.manual_seed(1)
    share = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    norms = (share * real + (1 - share) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty.detach(), (norms - 1).square().mean())


def test_a_critic_without_slope_has_a_penalty_of_one_and_a_finite_gradient() -> None:
    critic = Linear(torch.zeros(3, 4, 4))
    penalty = gradient_penalty(critic, torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    penalty.backward()
    assert penalty.item() == 1
    assert critic.weight.grad is not None and critic.weight.grad.isfinite().all()


class Released:
    """The released solver's step (yunjey/stargan, solver.py), in its own words; n_critic from step 0 on."""

    def __init__(self, G: nn.Module, D: nn.Module, n_critic: int) -> None:
        self.G, self.D, self.n_critic = G, D, n_critic
        self.g_optimizer = torch.optim.Adam(G.parameters(), 1e-3, (0.5, 0.999))
        self.d_optimizer = torch.optim.Adam(D.parameters(), 1e-3, (0.5, 0.999))

    def reset_grad(self) -> None:
        self.g_optimizer.zero_grad()
        self.d_optimizer.zero_grad()

    def classification_loss(self, logit: Tensor, target: Tensor) -> Tensor:
        if target.ndim == 2:
            return F.binary_cross_entropy_with_logits(logit, target.double(), reduction="sum") / len(logit)
        return F.cross_entropy(logit, target)

    def gradient_penalty(self, y: Tensor, x: Tensor) -> Tensor:
        weight = torch.ones(y.size(), dtype=y.dtype)
        dydx = torch.autograd.grad(
            outputs=y, inputs=x, grad_outputs=weight, retain_graph=True, create_graph=True
        )[0]
        dydx_l2norm = torch.sqrt(torch.sum(dydx.reshape(len(x), -1) ** 2, dim=1))
        return torch.mean((dydx_l2norm - 1) ** 2)

    def step(self, i: int, x_real: Tensor, label_org: Tensor) -> None:
        rand_idx = torch.rand(len(x_real)).argsort()
        label_trg = label_org[rand_idx]
        c_org, c_trg = label_org, label_trg
        if label_org.ndim == 1:
            c_org, c_trg = F.one_hot(label_org, 4), F.one_hot(label_trg, 4)
        out_src, out_cls = self.D(x_real)
        d_loss_real = -torch.mean(out_src)
        d_loss_cls = self.classification_loss(out_cls, label_org)
        x_fake = self.G(with_domain(x_real, c_trg))
        out_src, out_cls = self.D(x_fake.detach())
        d_loss_fake = torch.mean(out_src)
        alpha = torch.rand(x_real.size(0), 1, 1, 1, dtype=x_real.dtype)
        x_hat = (alpha * x_real.data + (1 - alpha) * x_fake.data).requires_grad_(True)
        out_src, _ = self.D(x_hat)
        d_loss_gp = self.gradient_penalty(out_src, x_hat)
        d_loss = d_loss_real + d_loss_fake + 1.5 * d_loss_cls + 9 * d_loss_gp
        self.reset_grad()
        d_loss.backward()
        self.d_optimizer.step()
        if i % self.n_critic == 0:
            x_fake = self.G(with_domain(x_real, c_trg))
            out_src, out_cls = self.D(x_fake)
            g_loss_fake = -torch.mean(out_src)
            g_loss_cls = self.classification_loss(out_cls, label_trg)
            x_reconst = self.G(with_domain(x_fake, c_org))
            g_loss_rec = torch.mean(torch.abs(x_real - x_reconst))
            g_loss = g_loss_fake + 8 * g_loss_rec + 1.5 * g_loss_cls
            self.reset_grad()
            g_loss.backward()
            self.g_optimizer.step()


def test_ten_steps_give_the_parameters_of_the_released_code(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    ours, theirs = translator(2), translator(2)
    released = Released(theirs.train(), deepcopy(critic).train(), n_critic=3)
    batches = [*faces.batches(0), *faces.batches(1)][:10]
    options = {"lambda_cls": 1.5, "lambda_rec": 8.0, "lambda_gp": 9.0, "critic_steps": 3}
    phase = next(adversarial(ours, critic, train=SCHEDULE, domains=4, **options))
    start = deepcopy(phase.model.state_dict())
    torch.manual_seed(5)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        for at, batch in enumerate(batches):
            step(batch, step=at, progress=0.0)
    torch.manual_seed(5)
    for at, batch in enumerate(batches):
        released.step(at, batch.images, batch.target)
    for model, expected in ((ours, theirs), (critic, released.D)):
        for value, goal in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(value, goal, rtol=0, atol=1e-8)  # of ways of up to 1e-2
    assert not any(torch.equal(value, start[name]) for name, value in phase.model.state_dict().items())


def test_the_metrics_are_the_parts_of_the_losses(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    phase = next(
        adversarial(translator(1), critic, train=SCHEDULE, domains=4, lambda_cls=2, lambda_rec=3, lambda_gp=4)
    )
    with prepared(phase, CPU):
        said = Step(phase, precision="fp32", device=CPU)(next(faces.batches(0)), step=0, progress=0.0)
    d, g = (
        {key.split(".")[1]: value for key, value in said.items() if key.startswith(name)}
        for name in ("discriminator", "generator")
    )
    assert (set(d), set(g)) == ({"loss", "real", "fake", "cls", "gp"}, {"loss", "fake", "cls", "rec"})
    torch.testing.assert_close(d["loss"], d["real"] + d["fake"] + 2 * d["cls"] + 4 * d["gp"])
    torch.testing.assert_close(g["loss"], g["fake"] + 2 * g["cls"] + 3 * g["rec"])
    assert all(value.ndim == 0 and not value.requires_grad for value in said.values())


def test_the_generator_trains_at_every_fifth_step_and_the_discriminator_at_each(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    generator = translator(1)
    moved: dict[str, list[int]] = {"generator": [], "discriminator": []}
    with prepared(phase := next(adversarial(generator, critic, train=SCHEDULE, domains=4)), CPU):
        step = Step(phase, precision="fp32", device=CPU)
        for at, batch in enumerate([*faces.batches(0), *faces.batches(1)]):
            before = deepcopy(phase.model.state_dict())
            step(batch, step=at, progress=0.0)
            for name in moved:
                now = phase.model.state_dict()
                if any(not torch.equal(now[key], before[key]) for key in now if key.startswith(name)):
                    moved[name].append(at)
    assert moved == {"generator": [0, 5, 10], "discriminator": list(range(12))}


def test_the_goals_are_the_batchs_own_labels_in_another_order(faces: ResidentLoader) -> None:
    batch = next(faces.batches(0))
    torch.manual_seed(0)
    seen, again = draw(batch), draw(batch)
    assert seen.images is batch.images and seen.target is batch.target
    assert sorted(seen.goal.tolist()) == sorted(batch.target.tolist())
    assert not torch.equal(seen.goal, batch.target) and not torch.equal(seen.goal, again.goal)


def test_the_discriminators_loss_keeps_no_graph_of_the_generator(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    generator, outputs = translator(1), []
    generator.register_forward_hook(lambda module, args, out: outputs.append(out))
    with prepared(phase := next(adversarial(generator, critic, train=SCHEDULE, domains=4)), CPU):
        seen = phase.observe(next(faces.batches(0)))
        phase.branches[0].loss(seen)["loss"].backward()
        assert [out.requires_grad for out in outputs] == [False]
        assert all(parameter.grad is None for parameter in generator.parameters())
        phase.branches[1].loss(seen)
        assert [out.requires_grad for out in outputs[1:]] == [True, True]


def test_a_batch_in_parts_gives_the_mean_gradient_of_the_parts(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    train = Schedule(epochs=1, lr=0.1, momentum=0.0, weight_decay=0.0)
    batch = next(faces.batches(0))
    halves = [Batch(*(tensor[rows] for tensor in batch)) for rows in (slice(0, 4), slice(4, 8))]
    phase = next(adversarial(translator(1), critic, train=train, domains=4))
    copy = deepcopy(critic)
    torch.manual_seed(2)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, accumulate=2)
        metrics = step.compute(batch, phase.branches[:1])
    alike = next(adversarial(translator(1), copy, train=train, domains=4)).branches[0]
    torch.manual_seed(2)
    seen = [draw(half) for half in halves]
    loss = torch.stack([alike.loss(half)["loss"] for half in seen]).mean()
    loss.backward()
    torch.testing.assert_close(metrics["discriminator.loss"], loss.detach())
    for ours, theirs in zip(critic.parameters(), copy.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_a_stopped_run_resumes_to_the_bit(
    stop: int, translator: Translator, faces: ResidentLoader, critic: nn.Module, tmp_path: Path
) -> None:
    def train(name: str, **options: Any) -> tuple[nn.ModuleDict, Any]:
        model = nn.ModuleDict({"generator": translator(1), "discriminator": deepcopy(critic)})
        phases = adversarial(model["generator"], model["discriminator"], train=SCHEDULE, domains=4)
        return model, litfast.train(phases, faces, out=tmp_path / name, **options)

    whole, reports = train("whole")
    list(reports)
    _, reports = train("parts")
    for _ in range(stop):
        next(reports)
    reports.close()
    last, reports = train("parts", resume=True)
    list(reports)
    resumed = last.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())


def test_the_run_is_planned_and_its_ways_are_timed(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    generator = translator(1)

    def walk() -> Any:
        return adversarial(generator, critic, train=SCHEDULE, domains=4, name="teacher")

    found = list(plan(walk(), faces, device=CPU, precision="fp32"))
    assert [(p.phase, p.branch, p.steps) for p in found] == [
        ("teacher", "discriminator", 12),
        ("teacher", "generator", 3),
    ]
    assert [p.parameters for p in found] == [parameters(critic), parameters(generator)]
    assert all(p.activation_bytes > 0 for p in found)
    candidates = [("eager", "serial"), ("compile", "serial")]
    options = {"precision": "fp32", "accumulate": 1, "ema": None}
    assert choose(walk, faces, device=CPU, candidates=candidates, options=options).mode == "eager"


def test_training_learns_the_domains_and_to_translate_between_them(
    translator: Translator, critic: nn.Module, faces: ResidentLoader
) -> None:
    schedule = replace(SCHEDULE, epochs=20, lr=5e-3)
    phases = adversarial(translator(1), critic, train=schedule, domains=4, critic_steps=2)
    said = [report.metrics for report in litfast.train(phases, faces) if report.kind == "epoch"]
    for name, share in {
        "discriminator.cls": 0.2,
        "discriminator.gp": 0.2,
        "generator.cls": 0.2,
        "generator.rec": 0.9,
    }.items():
        assert said[-1][name] < share * said[0][name], name
