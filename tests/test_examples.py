"""The examples train: the plain loop always, the others where their library is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import litfast
from litfast.models import SectionedModel, create

FOLDER = Path(__file__).resolve().parents[1] / "examples"
# what other libraries deprecate among themselves is not ours to mend
theirs = pytest.mark.filterwarnings("ignore")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pair() -> tuple[SectionedModel, SectionedModel]:
    torch.manual_seed(0)
    return create("resnet14", classes=4), create("resnet8", classes=4)


@pytest.fixture
def samples() -> TensorDataset:
    return TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 4)


def moved(student: SectionedModel, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, before[key]) for key, value in student.named_parameters())


def start(student: SectionedModel) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in student.named_parameters()}


def test_the_plain_loop(
    pair: tuple[SectionedModel, SectionedModel], samples: TensorDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    before = start(pair[1])
    distiller = litfast.Distiller(litfast.methods.lit, *pair, alpha=0.0, beta=0.0)
    example("plain_loop").train(distiller, DataLoader(samples, batch_size=8), epochs=1, lr=0.1)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["sections", "finetune"]
    assert moved(pair[1], before)


@theirs
def test_the_lightning_module(pair: tuple[SectionedModel, SectionedModel], samples: TensorDataset) -> None:
    lightning = pytest.importorskip("lightning")
    teacher, student = pair
    before, taught = start(student), start(teacher)
    module = example("lightning_module").Distillation(teacher, student)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader(samples, batch_size=8)
    trainer.fit(module, batches, batches)
    assert moved(student, before) and not moved(teacher, taught)
    assert {"loss", "student.soft", "student.hard", "accuracy"} <= set(trainer.callback_metrics)


@theirs
def test_the_transformers_trainer(
    pair: tuple[SectionedModel, SectionedModel], samples: TensorDataset, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    teacher, student = pair
    before, taught = start(student), start(teacher)
    rows = [{"images": image, "target": label} for image, label in samples]
    options = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    options |= {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8}
    made = example("transformers_trainer").trainer(*pair, rows, rows, tmp_path, **options)
    made.train()
    assert moved(student, before) and not moved(teacher, taught)
    found = made.evaluate()
    assert found["eval_loss"] > 0 and 0 <= found["eval_accuracy"] <= 100
    made.save_model()
    weights = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in weights


def test_the_slurm_script_starts_a_run_once_and_then_resumes_it(tmp_path: Path) -> None:
    for name, said in {"srun": 'echo "$@"', "scontrol": "echo one; echo two"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def words() -> str:
        command = ["bash", str(FOLDER / "slurm.sbatch"), "my.toml", str(tmp_path / "run")]
        return subprocess.run(command, env=path | slurm, check=True, capture_output=True, text=True).stdout

    assert "--nnodes 2 --nproc-per-node 4" in words() and "--rdzv-endpoint one:29500" in words()
    assert words().strip().endswith(f"-m litfast train my.toml --out {tmp_path / 'run'}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert words().strip().endswith(f"-m litfast train --resume --out {tmp_path / 'run'}")
