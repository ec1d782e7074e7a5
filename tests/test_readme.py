"""What README.md says is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import litfast
from litfast import config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def one_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The examples as they stand, but with one epoch a phase and made-up weights of the published shape."""
    schedule = litfast.Schedule
    monkeypatch.setattr(litfast, "Schedule", lambda **words: schedule(**{**words, "epochs": 1}))
    monkeypatch.chdir(tmp_path)
    torch.save(litfast.create("resnet56").state_dict(), "resnet56-4bfd9763.th")


def test_the_first_example_trains_a_student(one_epoch: None, capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    exec(EXAMPLES[0], {"images": images, "labels": torch.arange(64) % 10})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["sections", "finetune"]
    assert Path("runs/mine/checkpoints/1-finetune.pt").exists()


def test_the_second_example_distills_in_a_plain_loop() -> None:
    student, teacher = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    before = student.weight.detach().clone()
    loader = [(torch.randn(4, 5), torch.arange(4) % 3)] * 2
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    names = {"torch": torch, "student": student, "teacher": teacher, "loader": loader, "optimizer": optimizer}
    exec(EXAMPLES[1], names)
    assert not torch.equal(student.weight, before)


def test_the_third_example_gives_gradients_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    student, teacher = torch.randn(4, 8, 5, requires_grad=True), torch.randn(4, 8, 5)
    logits, target = torch.randn(4, 10, requires_grad=True), torch.arange(4)
    names = {"student_irs": [student], "teacher_irs": [teacher], "target": target}
    exec(EXAMPLES[2], {**names, "student_logits": logits, "teacher_logits": torch.randn(4, 10)})
    assert student.grad is not None and logits.grad is not None
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_fourth_example_trains_both_phases_of_lit_in_a_plain_loop() -> None:
    torch.manual_seed(0)
    teacher, student = litfast.create("resnet14"), litfast.create("resnet8")
    before = {key: value.clone() for key, value in student.state_dict().items()}
    loader = [(torch.randn(4, 3, 8, 8), torch.arange(4))]
    exec(EXAMPLES[3], {"torch": torch, "student": student, "teacher": teacher, "loader": loader})
    assert not torch.equal(student.state_dict()["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])


def test_the_tables_are_those_of_the_records() -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.readme", "--check"], check=True, cwd=ROOT)


def test_every_recipe_named_is_shipped() -> None:
    named = set(re.findall(r"`(cifar10_resnet\w+)`", README))
    assert named and named <= set(config.recipes())
