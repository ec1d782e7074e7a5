"""A recipe's data as models and the engine need it: what a sample is, and a loader for every split."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from litfast.build.method import trains_generator
from litfast.build.splits import Data
from litfast.config import Config, DataConfig, coerce
from litfast.data import choice, screen, sets
from litfast.data.field_loader import FieldLoader
from litfast.data.loader import Loader
from litfast.data.sets.field_set import FieldSet
from litfast.data.sets.image_set import Choosable, ImageSet, hold_out
from litfast.data.sets.text_set import Corpus, TextSet
from litfast.data.shape import image_shape
from litfast.data.tokens import StreamLoader, TokenLoader
from litfast.engine.ranks import ALONE, Ranks
from litfast.models import Input

EVAL_BATCH = 128
EVAL_STREAMS = 10  # of words: the fewer, the longer the text that a word is predicted from
OWN_FOLDERS = ("image_folder", "unlabelled", "webdataset")  # sets that bear their folder's name
OF_IMAGES = ("mean", "std", "crop", "flip", "centre_crop", "size", "workers")

AnySamples = TypeVar("AnySamples", bound=Choosable)


def data(config: Config, ranks: Ranks = ALONE) -> tuple[Config, Data]:
    """The config with data.loader settled, and its data; images for generators lie in -1..1.

    Args:
        ranks: who trains on it, each with an equal share of every batch.

    Raises:
        ValueError: whatever is wrong with the set, its options or the loader.
    """
    if config.data.batch % ranks.world:
        raise ValueError(
            f"recipe: data.batch must divide among the {ranks.world} ranks, got {config.data.batch}"
        )
    found = sets.load(config.data.name, root=config.data.root, **_options(config.data))
    if trains_generator(config) and isinstance(found, ImageSet):
        for key in ("mean", "std"):
            if getattr(config.data, key) is not None:
                raise ValueError(
                    f"recipe: data.{key} must be left out for generators, whose images are in -1..1"
                )
        found = replace(found, mean=(0.5,) * len(found.mean), std=(0.5,) * len(found.std), crop=0)
    if isinstance(found, ImageSet):
        return _images(config, found, ranks)
    _check_ids(config, "words" if isinstance(found, Corpus) else "texts")
    if isinstance(found, FieldSet):
        return _fields(config, found, ranks)
    return _texts(config, found, ranks) if isinstance(found, TextSet) else _words(config, found, ranks)


def _options(said: DataConfig) -> dict[str, Any]:
    """The set's options, those that it knows in the types that it asks for."""
    if said.name not in sets.DATASETS:
        return dict(said.options)
    hints = typing.get_type_hints(sets.DATASETS[said.name])
    return {
        key: coerce(hints[key], value, f"data.options.{key}") if key in hints else value
        for key, value in said.options.items()
    }


def _images(config: Config, images: ImageSet, ranks: Ranks) -> tuple[Config, Data]:
    said = config.data
    given = {key: getattr(said, key) for key in OF_IMAGES if key != "workers"}
    images = replace(images, **{key: value for key, value in given.items() if value is not None})
    screen.check_labels(images)
    images, left_out = screen.screened(images) if said.on_error == "skip" else (images, ())
    device = config.engine.device
    found = choice.choose(said.loader, images, device=device)
    shape = image_shape(images.train, centre_crop=images.centre_crop, size=images.size)

    def serve(samples: Any, *, train: bool, shared: bool = False) -> Loader:
        shard = _shard(ranks, shared)
        return choice.make(
            found.name,
            samples,
            batch=said.batch // shard["num_shards"] if train else EVAL_BATCH,
            mean=images.mean,
            std=images.std,
            crop=images.crop if train else 0,
            flip=images.flip and train,
            train=train,
            seed=config.seed,
            device=device,
            centre_crop=images.centre_crop,
            size=images.size,
            workers=said.workers,
            **shard,
        )

    return _settled(config, found.name), Data(
        name=Path(said.root).name if said.root and said.name in OWN_FOLDERS else images.name,
        unit="images",
        classes=images.classes,
        attributes=screen.attributes(images),
        input=Input(shape),
        form={
            "shape": list(shape),
            "scale": "0 to 1, then (x - mean) / std per channel",
            "mean": list(images.mean),
            "std": list(images.std),
        },
        loaded=f"loader: {found.name} ({found.why})",
        notes=tuple(filter(None, [screen.said(left_out, images)])),
        left_out=left_out,
        advice=lambda share: choice.advice(found.name, images, share, device=device),
        splits=_split(said, images.train, images.val) | {"test": images.test},
        serve=serve,
        labelled=images.labelled,
    )


def _texts(config: Config, texts: TextSet, ranks: Ranks) -> tuple[Config, Data]:
    said = config.data

    def serve(samples: Any, *, train: bool, shared: bool = False) -> Loader:
        shard = _shard(ranks, shared)
        return TokenLoader(
            samples,
            batch=said.batch // shard["num_shards"] if train else EVAL_BATCH,
            train=train,
            seed=config.seed,
            device=config.engine.device,
            resident=True,
            **shard,
        )

    return _settled(config, "resident"), Data(
        name=texts.name,
        unit="texts",
        classes=texts.classes,
        attributes=False,
        input=Input((texts.length,), alphabet=texts.alphabet),
        form={
            "shape": [texts.length],
            "ids": f"characters as litfast.data.sets numbers them for {texts.name}; 0 pads, 1 is unknown",
            "alphabet": texts.alphabet,
        },
        loaded="loader: resident (a batch of characters is one gather)",
        notes=tuple(f"{split}: {counts.line(texts.length)}" for split, counts in texts.counts.items()),
        left_out=(),
        advice=lambda share: "",
        splits=_split(said, texts.train, texts.val) | {"test": texts.test},
        serve=serve,
    )


def _fields(config: Config, found: FieldSet, ranks: Ranks) -> tuple[Config, Data]:
    said = config.data

    def serve(samples: Any, *, train: bool, shared: bool = False) -> Loader:
        shard = _shard(ranks, shared)
        size = said.batch // shard["num_shards"] if train else EVAL_BATCH
        place = config.engine.device
        return FieldLoader(samples, batch=size, train=train, seed=config.seed, device=place, **shard)

    inputs = [
        {"name": name, "shape": shape, "alphabet": found.alphabets.get(name)}
        for name, shape in found.shapes.items()
    ]
    read = Input.of(inputs)
    return _settled(config, "resident"), Data(
        name=found.name,
        unit="texts" if read.alphabet is not None else "samples",
        classes=found.classes,
        attributes=False,
        input=read,
        form={"shape": list(read.shape), "alphabet": read.alphabet, "inputs": read.listed},
        loaded=f"loader: resident (a batch is one gather of each of {', '.join(found.shapes)})",
        notes=(),
        left_out=(),
        advice=lambda share: "",
        splits=_split(said, found.train, found.val) | {"test": found.test},
        serve=serve,
    )


def _words(config: Config, corpus: Corpus, ranks: Ranks) -> tuple[Config, Data]:
    said, size = config.data, len(corpus.words)
    splits = {"train": corpus.train, "val": corpus.val, "test": corpus.test}

    def serve(ids: Tensor, *, train: bool, shared: bool = False) -> Loader:
        shard = _shard(ranks, shared)
        return StreamLoader(
            ids,
            batch=(said.batch if train else EVAL_STREAMS + shard["num_shards"] - 1) // shard["num_shards"],
            length=corpus.length,
            train=train,
            device=config.engine.device,
            **shard,
        )

    return _settled(config, "resident"), Data(
        name=corpus.name,
        unit="words",
        classes=corpus.words,
        attributes=False,
        input=Input((corpus.length,), alphabet=size),
        form={"shape": [corpus.length], "ids": "words, by their place among the classes", "alphabet": size},
        loaded="loader: resident (a batch of words is a slice of each stream)",
        notes=tuple(_unknown(split, ids, corpus) for split, ids in splits.items()),
        left_out=(),
        advice=lambda share: "",
        splits=splits,
        serve=serve,
        counts=corpus.counts,
    )


def _unknown(split: str, ids: Tensor, corpus: Corpus) -> str:
    count = int((ids == corpus.unknown).sum())
    share = f"{count} of them ({100 * count / len(ids):.2f} %) unknown"
    return f"{split}: {len(ids)} words with the ends of lines, {share}; vocabulary {len(corpus.words)}"


def _check_ids(config: Config, unit: str) -> None:
    """Refuse what is for images alone or, of words, for single samples alone."""
    said = config.data
    for key in OF_IMAGES if unit == "texts" else (*OF_IMAGES, "val", "limit"):
        if getattr(said, key) is not None:
            raise ValueError(f"recipe: data.{key} must be left out for {unit}, got {getattr(said, key)!r}")
    if said.on_error != "raise":
        raise ValueError(f"recipe: data.on_error must be raise for {unit}, got {said.on_error!r}")
    if said.loader not in ("auto", "resident"):
        raise ValueError(f"recipe: data.loader must be auto or resident for {unit}, got {said.loader!r}")


def _shard(ranks: Ranks, shared: bool) -> dict[str, Any]:
    """What a loader is told of its share."""
    return {"shard_id": ranks.rank, "num_shards": ranks.world} if shared else {"shard_id": 0, "num_shards": 1}


def _settled(config: Config, loader: str) -> Config:
    return replace(config, data=replace(config.data, loader=loader))


def _split(config: DataConfig, train: AnySamples, val: AnySamples | None) -> dict[str, AnySamples | None]:
    """The training samples and those held out, which no `limit` changes."""
    if config.val is not None:
        train, val = hold_out(train, config.val, seed=0) if config.val else (train, None)
    if config.limit is not None and config.limit != len(train):
        if not 0 < config.limit < len(train):
            raise ValueError(f"recipe: data.limit must be from 1 to {len(train)}, got {config.limit}")
        train = hold_out(train, config.limit, seed=0)[1]
    return {"train": train, "val": val}
