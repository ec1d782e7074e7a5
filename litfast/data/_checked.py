"""What is known to be good of a set's encoded images, from one run to the next."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from litfast.data.sets.image_set import Encoded, Files

Stamp = list[int]  # size in bytes, time of the last change in ns


class Checked:
    """The images of one folder (or of the tars in it) that some earlier pass could decode.

    They are kept in a file below XDG_CACHE_HOME/litfast (~/.cache/litfast), by name, with size and time of
    change of the file at that time: one changed since is not known. A file that cannot be read, or that
    another `decoder` wrote, counts as none; where none can be written, nothing is remembered.
    """

    def __init__(self, samples: Encoded, *, decoder: str) -> None:
        self._decoder = decoder
        self._names, self._stamps = _identities(samples)
        place = samples.root if isinstance(samples, Files) else samples.tars[0].parent
        digest = hashlib.sha256(os.fsencode(place.resolve())).hexdigest()[:32]
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._file = Path(cache, "litfast", "decoded", f"{digest}.json")
        self._good = self._read()

    def is_good(self, i: int) -> bool:
        """Whether sample i was decoded, and has not changed since."""
        stamp = self._stamps[i]
        return stamp is not None and self._good.get(self._names[i]) == stamp

    def remember(self, good: Sequence[int]) -> None:
        """Add samples, all at once or not at all; their files count as they were when `self` was made."""
        stamps = {self._names[i]: stamp for i in good if (stamp := self._stamps[i]) is not None}
        if not stamps:
            return
        self._good |= stamps
        with suppress(OSError):
            self._write(json.dumps({"decoder": self._decoder, "good": self._good}))

    def _read(self) -> dict[str, Stamp]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(content["good"]) if content["decoder"] == self._decoder else {}
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return {}

    def _write(self, content: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=self._file.parent, prefix=f"{self._file.stem}.")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
            os.replace(aside, self._file)
        except BaseException:
            os.unlink(aside)
            raise


def _identities(samples: Encoded) -> tuple[list[str], list[Stamp | None]]:
    """A name for each sample, and the stamp of the file that it lies in; None where there is no such file."""
    if isinstance(samples, Files):
        return list(samples.paths), [_stamp(os.path.join(samples.root, path)) for path in samples.paths]
    stamps = [_stamp(tar) for tar in samples.tars]
    which = samples.tar.tolist()
    parts = zip(which, samples.offset.tolist(), samples.size.tolist(), strict=True)
    names = [f"{samples.tars[tar].name}:{offset}+{size}" for tar, offset, size in parts]
    return names, [stamps[tar] for tar in which]


def _stamp(path: str | Path) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
