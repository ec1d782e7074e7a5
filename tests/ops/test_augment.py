"""Augmentation: every backend gives the reference's bits, the reference gives what torch's own ops give."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litfast.ops import augment, augment_table
from litfast.ops._augment import Augment
from litfast.testing import Sample, on, samples

SAMPLES = samples("augment")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVERY_SAMPLE = pytest.mark.parametrize("sample", SAMPLES, ids=str)
LINE = r"\Aaugment: [^\n]* must [^\n]*, got [^\n]*\Z"


def run(sample: Sample, backend: str, **options: Any) -> Tensor:
    return augment(*sample.args, **sample.options | options, backend=backend)


def same(a: Tensor, b: Tensor) -> bool:
    """Bits, shape, dtype and strides."""
    return a.stride() == b.stride() and a.dtype == b.dtype and torch.equal(a, b)


def by_hand(images: Tensor, *draws: Tensor, table: Tensor, crop: int, channels_last: bool = True) -> Tensor:
    """One sample after the other, as a reader of the paper would write it."""
    height, width, channels = images.shape[1:]
    made = torch.empty(len(draws[0]), channels, height, width, dtype=table.dtype)
    for b, (index, top, left, mirrored) in enumerate(zip(*(draw.tolist() for draw in draws), strict=True)):
        padded = F.pad(images[index].permute(2, 0, 1), (crop,) * 4)
        window = padded[:, top : top + height, left : left + width]
        window = window.flip(2) if mirrored else window
        made[b] = torch.stack([column[plane.long()] for column, plane in zip(table, window, strict=True)])
    return made


@EVERY_SAMPLE
def test_the_reference_is_crop_then_flip_then_table(sample: Sample) -> None:
    assert torch.equal(run(sample, "reference"), by_hand(*sample.args, **sample.options))


@EVERY_SAMPLE
def test_every_backend_gives_the_references_bits(sample: Sample, backend: str) -> None:
    assert same(run(sample, backend), run(sample, "reference"))


@EVERY_SAMPLE
def test_the_result_is_dense_in_the_layout_that_was_asked_for(sample: Sample, backend: str) -> None:
    last = sample.options.get("channels_last", True)
    layout = torch.channels_last if last else torch.contiguous_format
    assert run(sample, backend).is_contiguous(memory_format=layout)


@EVERY_SAMPLE
def test_every_element_of_a_given_out_is_written_and_nothing_beside_it(sample: Sample, backend: str) -> None:
    wanted = run(sample, "reference")
    room = torch.full((wanted.numel() + 16,), torch.nan, dtype=wanted.dtype)
    out = room[8:-8].as_strided(wanted.shape, wanted.stride(), 8)
    assert run(sample, backend, out=out) is out
    assert torch.equal(out, wanted)
    assert room[:8].isnan().all() and room[-8:].isnan().all()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_backward_notices_that_its_input_was_overwritten(backend: str, cpp: str) -> None:
    sample = SAMPLES[0]
    out, weight = run(sample, backend), torch.randn(1, 3, 1, 1, requires_grad=True)
    loss = F.conv2d(out, weight).sum()
    run(sample, backend, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_mode_is_served(backend: str) -> None:
    sample = SAMPLES[0]
    with torch.inference_mode():
        made = run(sample, backend)
        assert torch.equal(run(sample, backend, out=made), run(sample, "reference"))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_thread_count_changes_nothing(threads: int, cpp: str) -> None:
    images = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8)
    top, left = torch.randint(9, (2, 40))
    args = images, torch.randperm(40), top, left, torch.rand(40) < 0.5
    options = {"table": augment_table(MEAN, STD), "crop": 4}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made = augment(*args, **options, backend=cpp)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made, augment(*args, **options, backend="reference"))


@pytest.mark.parametrize("op", ["augment", "triton_augment"])
@pytest.mark.parametrize("sample", [SAMPLES[0], SAMPLES[3], SAMPLES[-1]], ids=str)
def test_opcheck_is_clean(op: str, sample: Sample, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("triton" if op.startswith("triton") else "cpp")
    last = sample.options.get("channels_last", True)
    options = sample.options | {"channels_last": last, "out": run(sample, "reference")}
    call = Augment(*sample.args, **options)
    results = torch.library.opcheck(getattr(torch.ops.litfast, op).default, tuple(call))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("backend", "opaque"), [("auto", False), ("cpp", True)])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_call_is_one_graph_with_the_same_bits(backend: str, opaque: bool, cpp: str) -> None:
    names: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(run, fullgraph=True, backend=note)
    for sample in (SAMPLES[0], SAMPLES[3]):
        assert torch.equal(compiled(sample, backend), run(sample, "reference"))
    assert any("litfast" in name for name in names) == opaque


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_table_is_to_tensor_then_normalize(dtype: torch.dtype) -> None:
    mean, std = (torch.tensor(values).view(3, 1) for values in (MEAN, STD))
    wanted = (torch.arange(256).float() / 255 - mean) / std
    assert torch.equal(augment_table(MEAN, STD, dtype), wanted.to(dtype))


@pytest.mark.parametrize("std", [(0.2, 0.2), (0.2, 0.0, 0.2), (0.2, -0.2, 0.2), (0.2, float("nan"), 0.2)])
def test_a_table_without_a_spread_is_refused(std: tuple[float, ...]) -> None:
    line = f"augment_table: std must hold 3 positive numbers, one a channel, got {list(std)}"
    with pytest.raises(ValueError, match=re.escape(line)):
        augment_table(MEAN, std)


def call(**changes: Any) -> Tensor:
    sample = samples("augment")[0]
    named = dict(zip(("images", "index", "top", "left", "mirrored"), sample.args, strict=True))
    options = {**named, **sample.options, **changes}
    args = [options.pop(name) for name in named]
    return augment(*args, **options)


IMAGES, INDEX, TABLE = SAMPLES[0].args[0], SAMPLES[0].args[1], SAMPLES[0].options["table"]
ROOM = torch.empty(5, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ({"images": IMAGES.float()}, TypeError, "images must be uint8, got torch.float32"),
        ({"images": [1]}, TypeError, "images must be a tensor, got list"),
        ({"images": IMAGES[0]}, ValueError, "images must be [N, H, W, C] and contiguous, got [32, 32, 3]"),
        ({"images": IMAGES.transpose(1, 2)}, ValueError, "contiguous, got [7, 32, 32, 3] with strides"),
        ({"index": INDEX.int()}, TypeError, "index must be torch.int64, got torch.int32"),
        ({"index": INDEX[None]}, ValueError, "index must be [B], got [1, 5]"),
        ({"left": INDEX[:2]}, ValueError, "left must be [5], as index, got [2]"),
        ({"mirrored": INDEX}, TypeError, "mirrored must be torch.bool, got torch.int64"),
        ({"top": INDEX.to("meta")}, ValueError, "top must be on the images' device cpu, got meta"),
        ({"table": TABLE[:2]}, ValueError, "table must be [3, 256], got [2, 256]"),
        ({"table": TABLE.int()}, TypeError, "table must be float32, float64, bfloat16 or float16 without"),
        ({"table": TABLE.clone().requires_grad_()}, TypeError, "got torch.float32 that requires grad"),
        ({"crop": -1}, ValueError, "crop must be a whole number from 0 to 1048576, got -1"),
        ({"crop": 1.5}, ValueError, "crop must be a whole number from 0 to 1048576, got 1.5"),
        ({"out": [ROOM]}, TypeError, "out must be a tensor, got list"),
        ({"out": ROOM[:4]}, ValueError, "out must be [5, 3, 32, 32], got [4, 3, 32, 32]"),
        ({"out": ROOM.half()}, ValueError, "out must match the table's torch.float32 on cpu, got torch.flo"),
        ({"out": ROOM}, ValueError, "out must be dense in torch.channels_last, got strides (3072, 1024,"),
        ({"backend": "cp"}, ValueError, "got 'cp'; did you mean 'cpp'?"),
        *(
            ({what: bad, "backend": name}, ValueError, f"{what}[3] must lie in [0, {end}), got {int(bad[3])}")
            for name in ("auto", "reference")
            for what, end in (("index", 7), ("top", 9), ("left", 9))
            for bad in (torch.tensor([0, 1, 2, end, 3]), torch.tensor([0, 1, 2, -1, -7]))
        ),
    ],
)
def test_a_mistake_gets_one_line(changes: dict[str, Any], error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=LINE) as caught:
        call(**changes)
    assert part in str(caught.value)


def test_a_sample_out_of_range_writes_nothing_on_the_cpu(cpp: str) -> None:
    out = torch.full((5, 3, 32, 32), 7.0).to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="index"):
        call(index=torch.tensor([0, 1, 2, 3, 2**62]), out=out, backend=cpp)
    assert (out == 7).all()


@pytest.mark.parametrize("what", ["index", "top", "left"])
@pytest.mark.parametrize("value", [-1, 9, 2**62, -(2**62)])
def test_where_the_host_must_not_wait_a_sample_out_of_range_becomes_nan(
    what: str, value: int, triton: str
) -> None:
    bad = torch.tensor([0, 1, value, 2, 3])
    made = call(**{what: bad}, backend=triton)
    wanted = call(**{what: bad.clamp(0, 3)}, backend="reference")
    assert made[2].isnan().all()
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(made[others], wanted[others])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["reference", "triton", "auto"])
@EVERY_SAMPLE
def test_a_gpu_gives_the_same_bits(name: str, sample: Sample) -> None:
    assert same(run(on(sample, "cuda"), name).cpu(), run(sample, "reference"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["reference", "triton", "auto"])
def test_a_gpu_neither_waits_nor_reads_out_of_range(name: str) -> None:
    sample = on(SAMPLES[0], "cuda")
    index = torch.tensor([0, 1, 2**40, -1, 3], device="cuda")
    augment(sample.args[0], index, *sample.args[2:], **sample.options, backend=name)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = augment(sample.args[0], index, *sample.args[2:], **sample.options, backend=name)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.isnan().flatten(1).all(1).tolist() == [False, False, True, True, False]
