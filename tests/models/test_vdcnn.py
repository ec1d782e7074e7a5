from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from litfast.models import SectionedModel, check_pair, copy_blocks, copy_ends, create, depth, parameters
from litfast.models.inference import Inference, agreement
from litfast.models.twin import is_per_sample, is_repeatable, is_same
from litfast.models.vdcnn import SHORTEST, VDCNN, KMaxPool
from litfast.models.weights import load_weights

SPEC_2 = {
    9: (14_178_133, 14_171_986),
    17: (16_270_933, 16_264_786),
    29: (16_641_877, 16_635_730),
    49: (19_770_453, 19_764_306),
}
SECTIONS = ("section1", "section2", "section3", "section4")


def texts(length: int, samples: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(69, (samples, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def nine() -> SectionedModel:
    torch.manual_seed(0)
    return create("vdcnn9", classes=5)


@pytest.mark.parametrize(("layers", "counts"), SPEC_2.items())
def test_parameter_counts_are_those_of_the_published_code(layers: int, counts: tuple[int, int]) -> None:
    with torch.device("meta"):
        assert tuple(parameters(create(f"vdcnn{layers}", classes=k)) for k in (5, 2)) == counts


@pytest.mark.parametrize("layers", SPEC_2)
def test_the_name_counts_the_convolutions(layers: int) -> None:
    with torch.device("meta"):
        model = create(f"vdcnn{layers}")
    assert sum(isinstance(module, nn.Conv1d) for module in model.modules()) == layers
    assert depth(model) == layers + 3
    assert model.names == SECTIONS


@pytest.mark.parametrize(
    ("length", "lengths"),
    [(1014, (1014, 1014, 507, 254, 127)), (57, (57, 57, 29, 15, 8)), (101, (101, 101, 51, 26, 13))],
)
def test_irs_halve_rounding_up(nine: SectionedModel, length: int, lengths: tuple[int, ...]) -> None:
    irs, logits = nine.eval().observe(texts(length))
    widths = (64, 64, 128, 256, 512)
    assert [tuple(ir.shape) for ir in irs] == [(2, c, n) for c, n in zip(widths, lengths, strict=True)]
    assert logits.shape == (2, 5)
    assert torch.equal(logits, nine(texts(length)))


def test_the_forward_pass_is_the_papers(nine: SectionedModel) -> None:
    ids, w = texts(64), nine.eval().state_dict()

    def conv(x: Tensor, name: str) -> Tensor:
        return nn.functional.conv1d(x, w[f"{name}.weight"], padding=1)

    x = conv(w["embedding.weight"][ids].transpose(1, 2), "conv1")
    for section in SECTIONS:
        x = x if section == "section1" else nn.functional.max_pool1d(x, 3, stride=2, padding=1)
        for layer in ("conv1", "conv2"):  # fresh batch norms divide by sqrt(1 + eps)
            x = torch.relu(conv(x, f"{section}.0.{layer}") / (1 + 1e-5) ** 0.5)
    kept = torch.stack([row[row.topk(8).indices.sort().values] for row in x.flatten(0, 1)])
    x = kept.view(2, -1)
    for layer in ("fc1", "fc2"):
        x = torch.relu(x @ w[f"{layer}.weight"].T + w[f"{layer}.bias"])
    torch.testing.assert_close(nine(ids), x @ w["fc3.weight"].T + w["fc3.bias"], rtol=1e-4, atol=1e-5)


def test_of_equal_values_k_max_pooling_keeps_the_first() -> None:
    x = torch.zeros(1, 2, 40)
    x[0, 0, 30], x[0, 1, 1] = 5, 5
    x.requires_grad_()
    out = KMaxPool(3)(x)
    assert out.tolist() == [[[0, 0, 5], [0, 5, 0]]]
    out.sum().backward()
    assert x.grad is not None and x.grad.nonzero()[:, 2].tolist() == [0, 1, 30, 0, 1, 2]


def test_k_max_pooling_keeps_the_order_of_the_text() -> None:
    x = torch.tensor([[[1.0, 5, 2, 4, 3], [5, 4, 3, 2, 1]]], requires_grad=True)
    out = KMaxPool(3)(x)
    assert out.tolist() == [[[5, 4, 3], [5, 4, 3]]]
    assert KMaxPool(2)(x).tolist() == [[[5, 4], [5, 4]]]
    assert KMaxPool(2)(-x).tolist() == [[[-1, -2], [-2, -1]]]
    out.backward(torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[[0, 1, 0, 2, 3], [4, 5, 6, 0, 0]]]


def test_every_parameter_gets_a_gradient_and_padding_too(nine: SectionedModel) -> None:
    model = copy.deepcopy(nine).train()
    ids = texts(64, samples=4)
    ids[:, 40:] = 0
    model(ids).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert model.model.embedding.weight.grad[0].any()


def test_convolutions_start_from_hes_normal_distribution() -> None:
    torch.manual_seed(0)
    weight = VDCNN((1, 1, 1, 1)).section4[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 3)) ** 0.5, rel=0.01)


def test_a_deep_teachers_blocks_start_a_shallow_student(nine: SectionedModel) -> None:
    torch.manual_seed(1)
    teacher, student = create("vdcnn29", classes=5), copy.deepcopy(nine)
    check_pair(teacher, student, texts(SHORTEST))
    copy_ends(teacher, student)
    assert copy_blocks(teacher, student) == {name: [0] for name in SECTIONS}
    middle = create("vdcnn17", classes=5)
    chosen = {"section1": [0, 4], "section2": [0, 4], "section3": [0, 1], "section4": [0, 1]}
    assert copy_blocks(teacher, middle) == chosen
    taught, learned = teacher.state_dict(), student.state_dict()
    assert all(torch.equal(value, taught[key]) for key, value in learned.items())


def test_a_copied_stem_and_every_section_can_share_their_passes(nine: SectionedModel) -> None:
    teacher, student = create("vdcnn9", classes=5), copy.deepcopy(nine)
    assert not is_same(teacher.stem, student.stem)
    copy_ends(teacher, student)
    assert is_same(teacher.stem, student.stem)
    irs = [ir.detach() for ir in teacher.eval().observe(texts(64, samples=4))[0]]
    student.train()
    for section, ir in zip(student.sections, irs, strict=False):
        assert is_repeatable(section, ir) and is_per_sample(section, ir, ir.flip(0))


def test_blocks_and_alphabet_are_the_specs_and_make_the_same_model_again() -> None:
    model = create("vdcnn9", classes=3, blocks=(1, 2, 1, 1), alphabet=7)
    assert model.spec == dict(name="vdcnn9", classes=3, blocks=[1, 2, 1, 1], alphabet=7)
    again = create(**json.loads(json.dumps(model.spec)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert len(model.model.section2) == 2 and model.model.embedding.num_embeddings == 7


def test_weights_are_saved_and_loaded(nine: SectionedModel, tmp_path: Path) -> None:
    file = tmp_path / "nine.pt"
    torch.save(nine.state_dict(), file)
    other = create("vdcnn9", classes=5)
    load_weights(other, file)
    assert torch.equal(other.eval()(texts(64)), nine.eval()(texts(64)))
    held = io.BytesIO()
    torch.save(nine, held)
    held.seek(0)
    assert torch.equal(torch.load(held, weights_only=False)(texts(64)), nine(texts(64)))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_as_a_teacher_it_is_served_as_a_program(
    nine: SectionedModel, precision: str, tolerance: float
) -> None:
    found = agreement(Inference(nine.eval(), precision=precision), texts(100, samples=4))
    # bf16 rounds values together, so k-max pooling may keep other positions: the logits differ most
    assert found.plain == () and max(*found.irs, found.logits) <= tolerance, found


def test_it_is_traced_and_compiled_whole(nine: SectionedModel) -> None:
    model = nine.eval()
    assert torch.equal(fx.symbolic_trace(model.model)(texts(64)), model(texts(64)))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(texts(64)), model(texts(64)))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (texts(56), "VDCNN: texts must be at least 57 characters long, got 56"),
        (torch.zeros(2, 64), r"ids must be int64 \[B, L\], got torch.float32 \[2, 64\]"),
        (texts(64).byte(), r"ids must be int64 \[B, L\], got torch.uint8 \[2, 64\]"),
        (texts(64)[None], r"ids must be int64 \[B, L\], got torch.int64 \[1, 2, 64\]"),
    ],
)
def test_ids_that_do_not_fit_are_named(nine: SectionedModel, ids: Tensor, message: str) -> None:
    for run in (nine, nine.observe, Inference(nine.eval()).observe):
        with pytest.raises(ValueError, match=message):
            run(ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(blocks=(1, 1, 1)), r"VDCNN: blocks must be four counts of at least 1, got \[1, 1, 1\]"),
        (dict(blocks=(1, 1, 0, 1)), r"blocks must be four counts of at least 1, got \[1, 1, 0, 1\]"),
        (dict(blocks=(1, 1, 1, 1), classes=0), "classes must be at least 1, got 0"),
        (dict(blocks=(1, 1, 1, 1), alphabet=1), "alphabet must be at least 2, got 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VDCNN(**arguments)  # type: ignore[arg-type]
