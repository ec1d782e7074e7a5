"""The ops in somebody's training loop: micro-batches, a gradient scaler, scaled and repeated losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from litfast.ops import lit_loss

OPTIONS: dict[str, Any] = {"alpha": 0.3, "beta": 0.6, "tau": 4.0}
ROWS, STEPS = 12, 3


class Network(nn.Module):
    """One section and a head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.section, self.head = nn.Linear(8, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ir = self.section(x)
        return ir, self.head(ir.relu())


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(ROWS, 8, generator=generator), torch.randint(10, (ROWS,), generator=generator)


def total(student: Network, x: Tensor, target: Tensor, backend: str, **options: Any) -> Tensor:
    ir, logits = student(x)
    with torch.no_grad():
        teacher_ir, teacher_logits = Network(seed=9)(x)
    options = OPTIONS | options
    return lit_loss([ir], [teacher_ir], logits, teacher_logits, target, **options, backend=backend).total


def gradients(student: Network) -> list[Tensor]:
    return [p.grad.clone() for p in student.parameters() if p.grad is not None]


def test_micro_batches_accumulate_to_the_gradient_of_their_mean(backend: str) -> None:
    x, target = batch()
    one, many, plain = Network(0), Network(0), Network(0)
    total(one, x, target, backend).backward()
    total(plain, x, target, "reference").backward()
    for rows in torch.arange(ROWS).chunk(STEPS):
        total(many, x[rows], target[rows], backend, scale=1 / STEPS).backward()
    assert len(gradients(one)) == 4
    torch.testing.assert_close(gradients(many), gradients(one))
    torch.testing.assert_close(gradients(one), gradients(plain))


def test_losses_that_are_summed_before_one_backward_give_the_same(backend: str) -> None:
    x, target = batch()
    one, many = Network(0), Network(0)
    total(one, x, target, backend).backward()
    losses = [total(many, x[r], target[r], backend) for r in torch.arange(ROWS).chunk(STEPS)]
    (torch.stack(losses).sum() / STEPS).backward()
    torch.testing.assert_close(gradients(many), gradients(one))


def test_a_gradient_scaler_gives_back_the_unscaled_gradients(backend: str) -> None:
    x, target = batch()
    plain, scaled = Network(0), Network(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    optimizers = [SGD(network.parameters(), lr=0.1) for network in (plain, scaled)]
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        total(plain, x, target, backend).backward()
        scaler.scale(total(scaled, x, target, backend)).backward()
        scaler.unscale_(optimizers[1])
        assert all(torch.equal(a, b) for a, b in zip(gradients(plain), gradients(scaled), strict=True))
        optimizers[0].step()
        scaler.step(optimizers[1])
        scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))
    assert not torch.equal(plain.section.weight, Network(0).section.weight)


def test_a_gradient_scaler_skips_the_step_of_an_infinite_loss(backend: str) -> None:
    x, target = batch()
    student = Network(0)
    optimizer, scaler = SGD(student.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=65536.0)
    for factor, skipped in ((torch.inf, True), (1.0, False)):
        before = [p.detach().clone() for p in student.parameters()]
        optimizer.zero_grad()
        ir, logits = student(x)
        irs = [factor * ir], [ir.detach() + 1]
        loss = lit_loss(*irs, logits, logits.detach(), target, **OPTIONS, backend=backend).total
        assert loss.isfinite() != skipped
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        same = [torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True)]
        assert all(same) if skipped else not any(same)
        assert scaler.get_scale() == 32768.0


def test_a_kept_graph_gives_the_same_gradient_each_time(backend: str) -> None:
    x, target = batch()
    student = Network(0)
    loss = total(student, x, target, backend)
    loss.backward(retain_graph=True)
    once = gradients(student)
    for times in (2, 3):
        loss.backward(retain_graph=times < 3)
        torch.testing.assert_close(gradients(student), [times * g for g in once])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("factor", [0.25, -3.0, 0.0])
def test_a_factor_inside_outside_and_as_a_tensor_is_the_same_factor(factor: float, backend: str) -> None:
    x, target = batch()
    results = []
    for inside, outside in (
        (factor, 1.0),
        (torch.tensor(factor), 1.0),
        (1.0, factor),
        (1.0, torch.tensor(factor)),
    ):
        student = Network(0)
        loss = outside * total(student, x, target, backend, scale=inside)
        loss.backward()
        results.append([loss.detach(), *gradients(student)])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_a_factor_that_is_learned_gets_the_loss_as_its_gradient(backend: str) -> None:
    x, target = batch()
    student, factor = Network(0), torch.tensor(0.5, requires_grad=True)
    loss = total(student, x, target, backend)
    (factor * loss).backward()
    assert torch.equal(factor.grad, loss.detach())


def test_two_losses_of_one_student_add_their_gradients(backend: str) -> None:
    x, target = batch()
    student, expected = Network(0), Network(0)
    (total(student, x, target, backend) + 2 * total(student, x, target, backend, beta=0.1)).backward()
    (
        total(expected, x, target, "reference") + 2 * total(expected, x, target, "reference", beta=0.1)
    ).backward()
    torch.testing.assert_close(gradients(student), gradients(expected))


def test_hooks_see_the_gradient_that_the_op_wrote(backend: str) -> None:
    x, target = batch()
    student = Network(0)
    seen: list[Tensor] = []
    ir, logits = student(x)
    ir.retain_grad()
    ir.register_hook(seen.append)
    irs, options = ([ir], [ir.detach() - 1]), OPTIONS | {"beta": 0.0, "backend": backend}
    lit_loss(*irs, logits, logits.detach(), target, **options).total.backward()
    torch.testing.assert_close(seen[0], torch.full_like(ir, 2 / ir.numel()))
    assert torch.equal(ir.grad, seen[0])
