"""The CUDA kernel on a GPU: values and gradients, one launch, no wait, the same bits, replay in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.ops import backends, ir_loss, kd_loss, lit_loss
from litfast.testing import FUNCTIONS, Sample, misses, samples

pytestmark = pytest.mark.gpu
KD: dict[str, Any] = {"tau": 4.0, "alpha": 0.3, "backend": "cuda"}


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The device, poisoned: what is allocated and not written is NaN."""
    if reason := dict(backends())["cuda"]:
        pytest.skip(f"cuda: {reason}")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
    yield torch.device("cuda", torch.cuda.current_device())
    torch.use_deterministic_algorithms(before)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_to(one, device) for one in value]
    return value.to(device) if isinstance(value, Tensor) else value


def moved(sample: Sample, device: torch.device) -> Sample:
    options = {key: _to(value, device) for key, value in sample.options.items()}
    return replace(sample, args=tuple(_to(arg, device) for arg in sample.args), options=options)


def served(sample: Sample) -> bool:
    tensors = [t for arg in sample.args for t in (arg if isinstance(arg, list) else [arg])]
    return not any(t is not None and t.dtype == torch.float64 for t in tensors)


@pytest.mark.parametrize(
    "sample", [s for op in FUNCTIONS for s in samples(op) if served(s)], ids=lambda sample: str(sample)
)
def test_the_kernel_keeps_the_accuracy_rule(sample: Sample, cuda: torch.device) -> None:
    with cuda:
        assert misses(moved(sample, cuda), "cuda") == []


def everything(
    device: torch.device, classes: int = 1000, rows: int = 129
) -> tuple[Callable[[], list[Tensor]], list[Tensor]]:
    """A call with losses and gradients, and the tensors that it reads."""
    torch.manual_seed(0)
    irs, teacher_irs = (
        [torch.randn(9, 16, 32, 32, device=device), torch.randn(1271, 41, device=device)] for _ in range(2)
    )
    logits, teacher = (3 * torch.randn(rows, classes, device=device) for _ in range(2))
    target = torch.randint(classes, (rows,), device=device)
    students = [x.requires_grad_() for x in (*irs, logits)]

    def call() -> list[Tensor]:
        loss = lit_loss(irs, teacher_irs, logits, teacher, target, beta=0.6, **KD)
        return [*(part.detach() for part in loss), *torch.autograd.grad(loss.total, students)]

    return call, [*students, *teacher_irs, teacher]


@pytest.mark.parametrize("classes", [10, 1000, 40_001])  # lanes, a block, parts
def test_two_runs_give_the_same_bits(classes: int, cuda: torch.device) -> None:
    call, _ = everything(cuda, classes)
    first, second = call(), call()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("classes", [10, 1000, 40_001])
def test_a_captured_call_is_replayed_with_new_inputs(classes: int, cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    call, inputs = everything(cuda, classes)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for _ in range(3):
        with torch.no_grad():
            for tensor in inputs:
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, call(), strict=True))


def test_graphs_of_one_stream_can_be_replayed_at_once_on_two(cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    call, _ = everything(cuda)
    expected = call()
    torch.cuda.synchronize()
    graphs = [torch.cuda.CUDAGraph() for _ in range(2)]
    captured = []
    for graph in graphs:
        with torch.cuda.graph(graph):
            captured.append(call())
    streams = [torch.cuda.Stream() for _ in graphs]
    for _ in range(50):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for results in captured:
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_nothing_waits_for_the_device(cuda: torch.device) -> None:
    call, _ = everything(cuda)
    call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def launches(call: Callable[[], Any]) -> list[str]:
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        call()
        torch.cuda.synchronize()
    return [event.name for event in recorded.events() if "lit_kernel" in event.name]


@pytest.mark.parametrize(("sections", "expected"), [(3, 1), (32, 1), (33, 2), (70, 3)])
def test_32_sections_and_the_logits_are_one_launch(sections: int, expected: int, cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    irs, teacher_irs = ([torch.randn(3, 41, device=cuda) for _ in range(sections)] for _ in range(2))
    logits, teacher = torch.randn(9, 10, device=cuda), torch.randn(9, 10, device=cuda)
    target = torch.randint(10, (9,), device=cuda)
    args = (irs, teacher_irs, logits, teacher, target)
    assert len(launches(lambda: lit_loss(*args, beta=0.6, **KD))) == expected
    ours, plain = (lit_loss(*args, beta=0.6, **KD | {"backend": name}) for name in ("cuda", "reference"))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("rows", "classes"), [(20_000, 19), (20_000, 300), (9000, 30_000)])
def test_many_rows_are_counted_together(rows: int, classes: int, cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    student = torch.randn(rows, classes, device=cuda, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(rows, classes, device=cuda, dtype=torch.bfloat16)
    target = torch.randint(classes, (rows,), device=cuda)
    target[::3] = -100
    losses = [kd_loss(student, teacher, target, **KD | {"backend": name}) for name in ("cuda", "reference")]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_offsets_go_beyond_2_to_the_31(cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    n = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 8 * n:
        pytest.skip("needs 16 GB of free GPU memory")
    student = torch.zeros(n, device=cuda, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.zeros(n, device=cuda, dtype=torch.bfloat16)
    with torch.no_grad():
        student[-1] = 2.0
    loss = ir_loss([student], [teacher], scale=float(n), backend="cuda")
    loss.backward()
    assert loss.item() == pytest.approx(4.0)
    assert student.grad[-1].item() == pytest.approx(4.0)
    assert int((student.grad != 0).sum()) == 1


@pytest.mark.parametrize("classes", [10, 1000, 40_001])
def test_a_target_out_of_range_turns_its_row_to_nan(classes: int, cuda: torch.device) -> None:
    student = torch.randn(3, classes, device=cuda, requires_grad=True)
    target = torch.tensor([0, classes, 1], device=cuda)
    rows = kd_loss(student, student.detach(), target, reduction="none", **KD)
    rows.sum().backward()
    assert rows.isnan().tolist() == [False, True, False]
    assert student.grad.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_addresses_that_are_not_aligned_are_served(
    offset: int, dtype: torch.dtype, cuda: torch.device
) -> None:
    torch.use_deterministic_algorithms(False)
    storage = torch.randn(2, 9003, device=cuda).to(dtype)
    student = storage[0, offset:].requires_grad_()
    teacher = storage[1, : student.numel()]
    for call in (
        lambda name: ir_loss([student], [teacher], backend=name),
        lambda name: kd_loss(student[None], teacher[None], tau=4.0, alpha=0.0, backend=name),
    ):
        losses = [call(name) for name in ("cuda", "reference")]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in losses))


def test_opcheck_is_clean(cuda: torch.device) -> None:
    torch.use_deterministic_algorithms(False)
    x, y, target = (
        torch.randn(3, 41, device=cuda),
        torch.randn(3, 41, device=cuda),
        torch.arange(3, device=cuda),
    )
    soft = ("ce", 0.1, -100)
    calls = {
        "kd": (x, y, target, *soft, "mean", 4.0, 0.3, 0.5, None, [True]),
        "ir": ([x], [y], "l1", [1.0], 0.5, None, [True]),
        "lit": ([x], [y], x, y, target, "l2", [1.0], *soft, 4.0, 0.3, 0.6, 0.5, None, [True, True]),
    }
    for name, args in calls.items():
        results = torch.library.opcheck(getattr(torch.ops.litfast, name).default, args)
        assert set(results.values()) == {"SUCCESS"}
