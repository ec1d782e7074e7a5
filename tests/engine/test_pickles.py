"""No pickle that a user hands over is ever executed."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.engine import checkpoint
from litfast.models.weights import load_weights

PACKAGE = Path(litfast.__file__).parent


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "load", [checkpoint.load, lambda path: load_weights(nn.Linear(2, 2), path)], ids=["checkpoint", "weights"]
)
def test_a_pickle_with_code_is_refused_and_not_executed(
    load: Callable[[Path], Any], zipped: bool, tmp_path: Path
) -> None:
    mark, path = tmp_path / "was here", tmp_path / "evil.pt"
    state = {"progress": {}, "weight": Evil(mark), "bias": torch.zeros(2)}
    if zipped:
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # it would have


def test_a_sealed_checkpoint_with_code_is_refused_all_the_same(tmp_path: Path) -> None:
    """A checksum says that a file is whole, not who wrote it."""
    mark, path = tmp_path / "was here", tmp_path / "last.pt"
    checkpoint.save(path, {"progress": Evil(mark)})
    with pytest.raises(ValueError, match=r"last\.pt must be a whole litfast checkpoint, got: "):
        checkpoint.load(path)
    assert not mark.exists()


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_torch_load_of_the_package_loads_weights_only_and_nothing_is_unpickled_otherwise() -> None:
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            if name == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert words.get("weights_only") == "True", path
                found += 1
            assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), path
            if name.endswith("numpy.load") or name == "np.load":
                assert "allow_pickle" not in {word.arg for word in call.keywords}, path
    assert found
