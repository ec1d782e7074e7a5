"""The `.lfc` file: weights as a sparse list of shared values, Huffman coded, bit for bit."""

from __future__ import annotations

from litfast.lfc._file import load as load
from litfast.lfc._file import save as save
from litfast.lfc._file import spec as spec
