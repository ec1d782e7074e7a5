"""A file that appears whole or not at all, and the name under which it describes itself."""

from __future__ import annotations

import os
from pathlib import Path

ABOUT = "model.json"  # a run's file of that name, kept inside of what is exported


def write(path: str | Path, content: bytes) -> None:
    """The content under that name, replaced if it is there."""
    path = Path(path)
    aside = path.with_name(f"{path.name}.part")
    aside.write_bytes(content)
    os.replace(aside, path)
