"""What a set holds, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from litfast.cli import _console

FEW = 20  # classes, sizes or files that are named one by one


def show(document: Mapping[str, Any]) -> None:
    """Print the table of `litfast data info`."""
    if document["kind"] == "archive":
        _console.say(
            f"{document['path']} is a {document['archive']} archive of: {document['format']}; "
            "unpack it, then name the folder"
        )
        return
    table = Table(show_header=False, title=document["path"])
    table.add_row("format", f"{document['format']} ({document['name']})")
    rows = {"images": _images, "texts": _texts, "corpus": _corpus}[document["kind"]](document)
    for key, value in rows.items():
        table.add_row(key, value)
    _console.out.print(table)
    if document["sheet"]:
        _console.say(f"contact sheet: {document['sheet']}")


def _images(document: Mapping[str, Any]) -> dict[str, str]:
    splits = document["splits"]
    rows = {"splits": ", ".join(f"{name} {split['samples']:,}" for name, split in splits.items())}
    groups = "attributes" if document["attributes"] else "classes"
    rows[groups] = f"{len(document[groups]):,}"
    for name, split in splits.items():
        rows[f"{name}, by {groups}"] = _counts(split.get("having") or split["by_class"])
    rows["image sizes"] = _sizes(document["sizes"])
    measured, samples = document["measured_on"], splits["train"]["samples"]
    part = "all" if measured == samples else f"{measured:,} of"
    of = f"{part} {samples:,} training images"
    rows["mean"] = f"{_numbers(document['mean'])} ({of})"
    rows["std"] = _numbers(document["std"])
    if document["decoded"]:
        rows["undecodable"] = _undecodable(document["undecodable"], document["decoded"])
    rows["trained with"] = _training(document)
    return rows


def _training(document: Mapping[str, Any]) -> str:
    """How the set is usually cut, augmented and normalised."""
    usual = document["normalisation"]
    steps = [
        f"the middle {document['centre_crop']} pixels" if document["centre_crop"] else "",
        f"resized to {document['size']}" if document["size"] else "",
        f"crop {document['crop']}" if document["crop"] else "",
        "flip" if document["flip"] else "",
        f"mean {_numbers(usual['mean'])}",
        f"std {_numbers(usual['std'])}",
    ]
    return ", ".join(filter(None, steps))


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) <= FEW:
        return ", ".join(f"{name}: {count:,}" for name, count in counts.items())
    low, high = min(counts.values()), max(counts.values())
    empty = sum(count == 0 for count in counts.values())
    return f"{low:,} to {high:,} each" + (f", {empty} without any" if empty else "")


def _sizes(sizes: Mapping[str, int]) -> str:
    """The most frequent sizes first."""
    named = [f"{size} ({count:,})" for size, count in list(sizes.items())[:5]]
    return ", ".join(named) + (f" and {len(sizes) - 5:,} more" if len(sizes) > 5 else "")


def _undecodable(bad: Sequence[str], decoded: int) -> str:
    if not bad:
        return f"none of {decoded:,} looked at"
    more = f"; and {len(bad) - FEW} more" if len(bad) > FEW else ""
    return f"{len(bad)} of {decoded:,} looked at: {'; '.join(bad[:FEW])}{more}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values) or "none"


def _texts(document: Mapping[str, Any]) -> dict[str, str]:
    rows = {"classes": f"{len(document['classes'])}"}
    for name, split in document["splits"].items():
        rows[name] = f"{split['samples']:,} texts"
        rows[f"{name}, by class"] = _counts(split["by_class"])
        if "characters" in split:
            share = 100 * split["unknown"] / max(split["characters"], 1)
            rows[f"{name}, characters"] = (
                f"{split['characters']:,}, {share:.2f} % of them not in the table of {document['alphabet']}; "
                f"{split['empty']:,} texts empty, {split['longer']:,} cut at {document['length']:,}"
            )
    return rows


def _corpus(document: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        name: f"{split['words']:,} words with the ends of {split['lines']:,} lines, "
        f"{split['unknown']:,} unknown"
        for name, split in document["splits"].items()
    }
    rows["vocabulary"] = f"{document['vocabulary']:,} words, from the training split"
    rows["most frequent"] = _counts(document["most_frequent"])
    return rows
