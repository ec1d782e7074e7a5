"""A model of several inputs: its example, its spec, its parts as a program."""

from __future__ import annotations

import json

import pytest
import torch

from litfast.models import Input, SectionedModel, create, macs
from litfast.models.inference import Inference, agreement, fused_model

from . import third_party

FILE = third_party.__file__
READS = Input((6,), 11, "input_ids", (Input((6,), 2, "attention_mask"), Input((2,), None, "dose")))
LISTED = READS.listed[:2]


def model() -> SectionedModel:
    torch.manual_seed(0)
    return create(f"{FILE}:text", classes=4, alphabet=11, size=[6], inputs=LISTED).eval()


def test_an_example_has_every_input_by_name_and_a_mask_that_hides_nothing() -> None:
    assert Input.of(json.loads(json.dumps(READS.listed))) == READS and Input((3,)).listed == []
    given = READS.example(5, generator=torch.Generator().manual_seed(0))
    assert {name: (list(x.shape), x.dtype) for name, x in given.items()} == {
        "input_ids": ([5, 6], torch.int64),
        "attention_mask": ([5, 6], torch.int64),
        "dose": ([5, 2], torch.float32),
    }
    assert bool((given["attention_mask"] == 1).all()) and int(given["input_ids"].max()) < 11


def test_a_foreign_model_reads_what_it_is_told_and_its_spec_says_so() -> None:
    made = model()
    assert made.inputs == ("input_ids", "attention_mask") and made.names == (
        "encoder.layer[0:2]",
        "encoder.layer[2:4]",
    )
    assert made.spec is not None and made.spec["inputs"] == LISTED
    again = create(**json.loads(json.dumps(made.spec))).eval()
    again.load_state_dict(made.state_dict())
    given = Input.of(LISTED).example(3)
    given["attention_mask"][:, 4:] = 0
    assert torch.equal(again(given), made(given))
    assert not torch.equal(made(given), made(given | {"attention_mask": torch.ones(3, 6).long()}))
    assert macs(made, Input.of(LISTED)) > 0


def test_inference_runs_what_reads_a_mask_as_it_is() -> None:
    made = model()
    given = Input.of(LISTED).example(3)
    given["attention_mask"][:, 4:] = 0
    inference = Inference(made)
    found = agreement(inference, given)
    assert max(*found.irs, found.logits) < 1e-5
    assert set(made.names) <= set(found.plain) and "head" not in found.plain
    with pytest.raises(
        ValueError, match="folded: the model must read one tensor, got input_ids, attention_ma"
    ):
        fused_model(made, given)


def test_a_family_of_one_input_refuses_several() -> None:
    with pytest.raises(
        ValueError, match=r"a model of input_ids, attention_mask must be FILE\.py:function, got"
    ):
        create("vdcnn9", inputs=LISTED)
    with pytest.raises(ValueError, match="inputs must be among forward's input_ids, attention_mask, labels"):
        create(f"{FILE}:text", alphabet=11, size=[6], inputs=[*LISTED, READS.listed[2]])
