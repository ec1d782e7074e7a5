"""Language models in the engine: state that goes on through an epoch, perplexity, resuming."""

from __future__ import annotations

import copy
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import litfast
from litfast.carried import carried
from litfast.data.tokens import StreamLoader
from litfast.engine import Evaluation, evaluate, loop
from litfast.engine.patience import validation_losses
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import kd, scratch
from litfast.models import SectionedModel
from litfast.models.inference import Inference, agreement
from litfast.phase import Phase

V, CPU = 7, torch.device("cpu")


def text(words: int = 131) -> Tensor:
    return torch.randint(V, (words,), generator=torch.Generator().manual_seed(4))


def loader(train: bool = True, **options: Any) -> StreamLoader:
    return StreamLoader(text(), **{"batch": 4 if train else 3, "length": 8, "train": train, **options})


def model(seed: int = 0, **options: Any) -> SectionedModel:
    torch.manual_seed(seed)
    return litfast.create("lstm_lm", classes=V, **{"width": 5, "dropout": 0.5, **options})


def schedule(epochs: int = 2, **words: Any) -> litfast.Schedule:
    return litfast.Schedule(**{"epochs": epochs, "lr": 0.5, "clip": 1.0, **words})


def weights(net: SectionedModel) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def same(ours: SectionedModel, theirs: SectionedModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(ours), weights(theirs), strict=True))


def test_perplexity_counts_every_word_but_the_first_once_and_carries_the_state() -> None:
    ids = text(38)
    streams = StreamLoader(ids, batch=1, length=8, train=False)
    net = model()
    found = evaluate(net, streams)
    logits = copy.deepcopy(net).eval()(ids[None, :-1])[0]  # the whole text in one window
    assert found.samples == 37
    assert found.loss == pytest.approx(cross_entropy(logits, ids[1:]).item(), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.accuracy == pytest.approx(100 * (logits.argmax(-1) == ids[1:]).double().mean().item())


def test_perplexity_of_all_alike_is_the_vocabulary_whatever_the_batch_and_the_window() -> None:
    net = model()
    for parameter in net.model.softmax.parameters():
        torch.nn.init.zeros_(parameter)
    for batch, length in ((1, 8), (3, 8), (5, 3)):
        found = evaluate(net, loader(False, batch=batch, length=length))
        assert found.perplexity == pytest.approx(V) and found.samples == 130


def test_an_evaluation_holds_one_batch_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    net = model()
    forward = net.forward

    def watched(ids: Tensor) -> Tensor:
        assert all(old() is None for old in seen[:-1]), "an earlier batch's logits are still there"
        logits = forward(ids)
        seen.append(weakref.ref(logits))
        return logits

    monkeypatch.setattr(net, "forward", watched)
    evaluate(net, loader(False))
    assert len(seen) == 6


def test_a_loss_beyond_all_bounds_is_an_infinite_perplexity() -> None:
    net = model()
    torch.nn.init.zeros_(net.model.softmax.weight)
    net.model.softmax.bias.data[:] = torch.arange(V) * 1e4
    assert evaluate(net, loader(False)).perplexity == math.inf


def test_the_better_evaluation_has_the_lower_perplexity() -> None:
    low, high = (Evaluation(accuracy=10 * p, loss=0.0, samples=1, perplexity=p) for p in (2.0, 3.0))
    assert low.beats(high) and not high.beats(low) and not low.beats(low)
    right = Evaluation(accuracy=2.0, loss=9.0, samples=1)
    assert right.beats(Evaluation(accuracy=1.0, loss=0.0, samples=1))


def test_training_and_evaluation_do_not_disturb_one_another() -> None:
    alone, watched = model(dropout=0.0), model(dropout=0.0)
    list(litfast.train(scratch(alone, train=schedule(1)), loader()))
    for _ in litfast.train(scratch(watched, train=schedule(1)), loader()):
        before = evaluate(watched, loader(False))
        assert before == evaluate(watched, loader(False))
    assert same(alone, watched)


def test_an_epoch_is_one_text_and_begins_with_zeros() -> None:
    """Two epochs step by step in plain torch."""
    ours, theirs = model(dropout=0.0), model(dropout=0.0).train()
    list(litfast.train(scratch(ours, train=schedule(weight_decay=0.0)), loader()))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9)
    for epoch in range(2):
        state: list[Any] = [None, None]
        for ids, target in loader().batches(epoch):
            x = theirs.model.embedding(ids)
            for i, name in enumerate(theirs.names):
                x, (h, c) = theirs.model.get_submodule(name).lstm(x, state[i])
                state[i] = h.detach(), c.detach()
            optimizer.zero_grad()
            cross_entropy(theirs.model.softmax(x).flatten(0, 1), target.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def distilled(seed: int = 0) -> tuple[SectionedModel, Any]:
    student = model(seed)
    return student, kd(model(9, dropout=0.0), student, distill=schedule(), alpha=0.5, tau=2.0)


def trained(seed: int = 0) -> tuple[SectionedModel, Any]:
    student = model(seed)
    return student, scratch(student, train=schedule())


@pytest.mark.parametrize("made", [trained, distilled])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "precision": "bf16"}])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_bit(
    made: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    whole, phases = made()
    list(litfast.train(phases, loader(), loader(False), out=tmp_path / "whole", **options))
    cut, phases = made()
    reports = litfast.train(phases, loader(), loader(False), out=tmp_path / "cut", **options)
    while (report := next(reports)).epoch == 0 or report.step != 2:
        pass
    reports.close()
    resumed, phases = made(seed=5)
    list(litfast.train(phases, loader(), loader(False), out=tmp_path / "cut", resume=True, **options))
    assert same(resumed, whole) and not same(cut, whole)


def test_parts_of_a_batch_train_like_the_whole() -> None:
    whole, parts = model(dropout=0.0), model(dropout=0.0)
    for net, accumulate in ((whole, 1), (parts, 2)):
        list(litfast.train(scratch(net, train=schedule()), loader(), accumulate=accumulate))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_reports_say_the_accuracy_of_words_and_the_perplexity(tmp_path: Path) -> None:
    net = model(dropout=0.0)
    torch.nn.init.zeros_(net.model.softmax.weight)
    net.model.softmax.bias.data[3] = 50.0  # it says the same word at every place
    words = schedule(epochs=1, lr=1e-9)
    reports = list(litfast.train(scratch(net, train=words), loader(), loader(False), out=tmp_path))
    said = torch.cat([batch.target.flatten() for batch in loader().batches(0)])
    share = 100 * (said == 3).double().mean().item()
    epoch = next(report for report in reports if report.kind == "epoch")
    assert epoch.metrics["student.accuracy"] == pytest.approx(share)
    assert epoch.val is not None and epoch.val.perplexity == evaluate(net, loader(False)).perplexity
    assert '"val_perplexity": ' in (tmp_path / "metrics.jsonl").read_text()


def test_the_best_epoch_is_that_of_the_best_perplexity(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = model(), []
    values = iter([(1.0, 9.0), (2.0, 5.0), (3.0, 7.0)])

    def scripted(*_: Any, **__: Any) -> Evaluation:
        seen.append(weights(net))
        accuracy, perplexity = next(values)
        return Evaluation(accuracy=accuracy, loss=0.0, samples=1, perplexity=perplexity)

    monkeypatch.setattr(loop, "evaluate", scripted)
    list(litfast.train(scratch(net, train=schedule(epochs=3)), loader(), loader(False), keep="best"))
    assert all(torch.equal(a, b) for a, b in zip(weights(net), seen[1], strict=True))


def test_validation_losses_of_a_branch_leave_the_text_where_it_was() -> None:
    net, phases = distilled()
    phase: Phase = next(phases)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        batches = list(loader().batches(0))
        step(batches[0], step=0, progress=0.0)
        states = carried(net, *phase.frozen)
        assert states is not None
        before = {name: value.clone() for name, value in states.state_dict().items()}
        losses = validation_losses(step, phase.branches, loader(batch=3))
        assert losses == validation_losses(step, phase.branches, loader(batch=3))
        assert all(torch.equal(value, before[name]) for name, value in states.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_as_a_program_reads_the_text_on(precision: str) -> None:
    teacher = model(width=64, dropout=0.0).eval()
    program, plain = Inference(teacher, precision=precision), copy.deepcopy(teacher)
    found = agreement(program, next(iter(loader().batches(0))).images)
    assert max(*found.irs, found.logits) < (1e-5 if precision == "fp32" else 0.05)
    assert found.plain == ("layer1", "layer2")
    made: list[Any] = []
    for batch in loader().batches(0):
        with torch.no_grad():
            expected = plain(batch.images)
        torch.testing.assert_close(program.observe(batch.images)[1].float(), expected, rtol=0.1, atol=0.01)
        made.append(program._made_for)
    assert len(set(map(str, made))) == 1, "made once for all batches"
