from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from litfast.models import (
    Input,
    SectionedModel,
    check_pair,
    copy_blocks,
    copy_ends,
    create,
    depth,
    macs,
    parameters,
    sectioned,
)
from litfast.models.inference import Inference, agreement
from litfast.models.stargan import Discriminator, Generator, ResidualBlock, check_size, with_domain
from litfast.models.twin import is_per_sample, is_repeatable, is_same
from litfast.models.weights import load_weights

SPEC_2 = {6: 8_430_528, 4: 6_069_184, 2: 3_707_840, 1: 2_527_168}


def inputs(size: tuple[int, int] = (16, 16), domains: int = 3, samples: int = 2) -> Tensor:
    images = torch.randn(samples, 3, *size, generator=torch.Generator().manual_seed(0))
    return with_domain(images, torch.eye(domains)[torch.arange(samples) % domains])


def small(name: str = "stargan2", seed: int = 0) -> SectionedModel:
    torch.manual_seed(seed)
    return create(name, classes=3, width=8).eval()


@pytest.mark.parametrize(("count", "total"), SPEC_2.items())
def test_parameter_counts_are_those_of_the_published_code(count: int, total: int) -> None:
    with torch.device("meta"):
        assert parameters(create(f"stargan{count}", classes=5)) == total


def test_the_discriminator_has_the_published_count_at_128_pixels() -> None:
    with torch.device("meta"):
        assert parameters(Discriminator(5, image_size=128)) == 44_762_048


def test_depth_and_macs_are_those_of_the_layers() -> None:
    # the paper's 18 -> 10 is six residual blocks to two
    assert [depth(small(f"stargan{n}")) for n in (6, 2, 1)] == [18, 10, 8]
    ends = 16 * 16 * 49 * (6 * 8 + 8 * 3)  # the first and the last convolution, 7 x 7
    halvings = 2 * 16 * (8 * 8 * 8 * 16 + 4 * 4 * 16 * 32)  # and the transposed ones, which mirror them
    blocks = 4 * 4 * 4 * 9 * 32 * 32
    assert macs(small("stargan2"), Input((6, 16, 16))) == ends + halvings + blocks


def test_the_bottleneck_is_the_one_section_and_images_come_out() -> None:
    with torch.device("meta"):
        model = create("stargan6", classes=5)
    assert model.names == ("bottleneck",)
    irs, images = model.observe(torch.empty(2, 8, 128, 128, device="meta"))
    assert [tuple(ir.shape) for ir in irs] == [(2, 256, 32, 32)] * 2
    assert images.shape == (2, 3, 128, 128)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (20, 12)])
def test_any_multiple_of_four_gives_images_of_its_size(size: tuple[int, int]) -> None:
    model = small()
    irs, images = model.observe(inputs(size))
    assert images.shape == (2, 3, *size) and images.abs().max() <= 1
    assert irs[0].shape == irs[1].shape == (2, 32, size[0] // 4, size[1] // 4)
    assert torch.equal(images, model(inputs(size)))


def test_a_block_is_the_formula_of_its_docstring() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(4), torch.randn(2, 4, 6, 6)
    torch.nn.init.normal_(block.norm2.weight)
    inner = F.relu(F.instance_norm(F.conv2d(x, block.conv1.weight, padding=1)))
    outer = F.instance_norm(F.conv2d(inner, block.conv2.weight, padding=1))
    torch.testing.assert_close(block(x), x + outer * block.norm2.weight[:, None, None])


def test_an_image_is_translated_alike_alone_in_a_batch_and_in_either_mode() -> None:
    model, x = small(), inputs()
    torch.testing.assert_close(model(x[:1]), model(x)[:1])
    assert torch.equal(model.train()(x), model.eval()(x))


def test_another_domain_gives_another_image() -> None:
    x = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    one, other = small()(with_domain(x, torch.eye(3)[:2]))
    assert not torch.allclose(one, other)


def test_every_parameter_gets_a_gradient() -> None:
    model = small()
    x = inputs().requires_grad_()
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert x.grad is not None and x.grad.any()


def test_a_teachers_ends_and_blocks_start_a_student() -> None:
    teacher, student = small("stargan4"), small("stargan1", seed=1)
    check_pair(teacher, student, inputs())
    copy_ends(teacher, student)
    assert copy_blocks(teacher, student) == {"bottleneck": [0]}
    assert copy_blocks(small("stargan6"), small("stargan2")) == {"bottleneck": [0, 5]}
    taught = teacher.state_dict()
    assert all(torch.equal(value, taught[key]) for key, value in student.state_dict().items())


def test_a_copied_stem_and_the_bottleneck_can_share_their_passes() -> None:
    teacher, student = small("stargan2"), small("stargan1", seed=1).train()
    assert not is_same(teacher.stem, student.stem)
    copy_ends(teacher, student)
    assert is_same(teacher.stem, student.stem)
    ir = teacher.stem(inputs()).detach()
    (bottleneck,) = student.sections
    assert is_repeatable(bottleneck, ir) and is_per_sample(bottleneck, ir, ir.flip(0))


def test_the_spec_survives_json_and_makes_the_same_model_again() -> None:
    model = create("stargan1", classes=4, channels=1, blocks=[3], width=4)
    assert model.spec == dict(name="stargan1", classes=4, channels=1, blocks=[3], width=4)
    again = create(**json.loads(json.dumps(model.spec)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert len(model.model.bottleneck) == 3


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model, other = small(), small(seed=1)
    torch.save(model.state_dict(), tmp_path / "generator.pt")
    load_weights(other, tmp_path / "generator.pt")
    assert torch.equal(other(inputs()), model(inputs()))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_as_a_teacher_it_is_served_as_a_program(precision: str, tolerance: float) -> None:
    found = agreement(Inference(small(), precision=precision), inputs((32, 32)))
    assert found.plain == () and max(*found.irs, found.logits) <= tolerance, found


def test_it_is_traced_and_compiled_whole() -> None:
    model, x = small(), inputs()
    assert torch.equal(fx.symbolic_trace(model.model)(x), model(x))
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


def test_a_generator_of_ones_own_is_split_at_its_bottleneck() -> None:
    model = sectioned(Generator([2], classes=3, width=4), ["bottleneck"])
    irs, images = model.observe(inputs())
    assert len(irs) == 2 and images.shape == (2, 3, 16, 16)


def test_domain_planes_stand_behind_the_image() -> None:
    images, domain = torch.randn(2, 3, 4, 6, dtype=torch.float64), torch.tensor([[1, 0], [0, 1]])
    x = with_domain(images, domain)
    assert x.shape == (2, 5, 4, 6) and x.dtype == torch.float64
    assert torch.equal(x[:, :3], images)
    assert torch.equal(x[:, 3:], domain.double()[:, :, None, None].expand(-1, -1, 4, 6))


@pytest.mark.parametrize(
    ("size", "layers", "realness"),
    [
        (8, 2, (2, 2)),
        (32, 4, (2, 2)),
        (36, 4, (2, 2)),
        (128, 6, (2, 2)),
        (256, 6, (4, 4)),
        ((32, 48), 4, (2, 3)),
    ],
)
def test_the_discriminator_fits_its_layers_to_the_image(
    size: int | tuple[int, int], layers: int, realness: tuple[int, int]
) -> None:
    model = Discriminator(3, image_size=size, width=2)
    assert len(model.main) == 2 * layers
    height, width = (size, size) if isinstance(size, int) else size
    real, logits = model(torch.randn(2, 3, height, width))
    assert real.shape == (2, 1, *realness) and logits.shape == (2, 3)


def test_the_discriminator_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    model, x = Discriminator(3, image_size=16, width=4), torch.randn(2, 3, 16, 16, requires_grad=True)
    real, logits = model(x)
    (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
    (slope.flatten(1).norm(dim=1).sub(1).square().mean() + logits.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "weight" in n)


@pytest.mark.parametrize("size", [(30, 32), (32, 31), (4, 4), (0, 8)])
def test_sizes_that_do_not_fit_are_refused(size: tuple[int, int]) -> None:
    message = f"StarGAN: image sides must be multiples of 4 from 8 pixels on, got {size[0]} x {size[1]}"
    with pytest.raises(ValueError, match=message):
        check_size(*size)
    with pytest.raises(ValueError, match=message):
        Discriminator(3, image_size=size)
    with pytest.raises(ValueError, match=message):
        small()(torch.zeros(2, 6, *size))


def test_an_input_without_its_domain_is_refused() -> None:
    message = r"StarGAN: input must be \[B, 6, H, W\], the image and its domain's .* got \[2, 3, 16, 16\]"
    for run in (small(), small().observe, Inference(small()).observe):
        with pytest.raises(ValueError, match=message):
            run(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Generator([1, 1]), r"StarGAN: blocks must be one count of at least 1, got \[1, 1\]"),
        (lambda: Generator([0]), r"blocks must be one count of at least 1, got \[0\]"),
        (lambda: Generator([1], classes=1), r"StarGAN: domains \(classes\) must be at least 2, got 1"),
        (lambda: Generator([1], channels=2), "channels must be 1 or 3, got 2"),
        (lambda: Generator([1], width=0), "width must be at least 1, got 0"),
        (lambda: Discriminator(1, image_size=32), "Discriminator: domains .* must be at least 2, got 1"),
        (
            lambda: Discriminator(2, image_size=32, width=2)(torch.zeros(1, 3, 64, 64)),
            r"Discriminator: images must be \[B, C, 32, 32\], got \[1, 3, 64, 64\]",
        ),
        (
            lambda: with_domain(torch.zeros(2, 3, 8, 8), torch.zeros(3, 2)),
            r"with_domain: .* must be \[B, C, H, W\] and \[B, D\], got \[2, 3, 8, 8\] and \[3, 2\]",
        ),
    ],
)
def test_what_is_wrong_is_named(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()  # type: ignore[operator]
