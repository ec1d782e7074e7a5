"""`python -m litfast`."""

from __future__ import annotations

from litfast.cli.main import app

if __name__ == "__main__":
    app(prog_name="litfast")
