"""A recipe of texts, and one of generators, as configs."""

from __future__ import annotations

from pathlib import Path

import pytest

from litfast import Schedule, build, config


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """VDCNN-9 on 20 reviews of 64 characters."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name, count in (("train", 20), ("test", 6)):
        rows = (f'"{i % 2 + 1}","title {i}","text"\n' for i in range(count))
        (tmp_path / f"{name}.csv").write_text("".join(rows))
    small = (f"data.root={tmp_path}", "data.options={length=64}", "data.batch=4", "data.val=none")
    return build.resolve(config.load("amazon_polarity_vdcnn29_vdcnn9", [*small, "teacher.model=vdcnn9"]))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    """A language model of width 4 on 30 lines of three words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a b c\n" * 20 + "a d b\n" * 10)
    return build.resolve(
        config.Config(
            data=config.DataConfig(
                name="war_and_peace", root=str(tmp_path), batch=4, options={"vocabulary": 5, "length": 7}
            ),
            student=config.StudentConfig(model="lstm_lm", options={"width": 4}),
            method=config.MethodConfig(name="scratch"),
            phases={"train": Schedule(epochs=1, lr=0.1)},
        )
    )


@pytest.fixture
def generators() -> config.Config:
    """StarGANs of width 4 on the synthetic set."""
    data = ("data.name=synthetic", "data.root=none", "data.options={size=8,train=24,test=8}", "data.batch=8")
    narrow = ("teacher.options={width=4}", "student.options={width=4}", "discriminator.width=4")
    return build.resolve(config.load("celeba_stargan6_stargan2", [*data, *narrow]))
