"""The official files of the known sets: downloaded, checked against their published md5, unpacked.

Checksums: of CIFAR-10, https://www.cs.toronto.edu/~kriz/cifar.html; of the CIFAR Python archives, MNIST,
Fashion-MNIST and CelebA, torchvision (datasets/cifar.py, mnist.py, celeba.py); of CIFAR-100's binary archive,
several public repositories that agree; of the Amazon reviews, torchtext (datasets/amazonreviewpolarity.py,
datasets/amazonreviewfull.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from litfast.data.archive import extract
from litfast.data.download import Progress, download
from litfast.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a set's files are to be had, and where they go below the root."""

    files: dict[str, str]  # name: md5
    folder: str  # which `litfast.data.load` reads
    addresses: tuple[str, ...] = ()  # folders of the files; none: by hand only
    page: str = ""  # where to have by hand what has no plain address
    place: str = "."  # of the files
    unpack: str | None = None  # the folder within the one archive among them, unpacked beside it


TORONTO = ("https://www.cs.toronto.edu/~kriz",)
OF_ZHANG = (
    "https://drive.google.com/drive/folders/"
    "0Bz8a_Dbh9Qhbfll6bVpmNUtUcFdjYmF2SEpmZUZUcVNiMUw1TWN6RDV3a0JHT3kxLVhVR2M"
)


def _cifar(archive: str, md5: str, folder: str) -> Source:
    return Source(addresses=TORONTO, files={archive: md5}, folder=folder, unpack=folder)


def _amazon(folder: str, md5: str) -> Source:
    return Source(page=OF_ZHANG, files={f"{folder}.tar.gz": md5}, folder=folder, unpack=folder)


SOURCES: Registry[Source] = Registry("data set to fetch")
SOURCES.update(
    {
        "cifar10": _cifar(
            "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin"
        ),
        "cifar10-python": _cifar(
            "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"
        ),
        "cifar100": _cifar("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary"),
        "cifar100-python": _cifar(
            "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"
        ),
        "mnist": Source(
            addresses=("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist"),
            files={
                "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
            },
            place="mnist",
            folder="mnist",
        ),
        "fashion_mnist": Source(
            addresses=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
            files={
                "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
            },
            place="fashion_mnist",
            folder="fashion_mnist",
        ),
        "celeba": Source(
            page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
            files={
                "list_attr_celeba.txt": "75e246fa4810816ffd6ee81facbd244c",
                "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
                "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
            },
            place="celeba",
            folder="celeba",
            unpack="img_align_celeba",
        ),
        "amazon_polarity": _amazon("amazon_review_polarity_csv", "fe39f8b653cada45afd5792e0f0e8f9b"),
        "amazon_full": _amazon("amazon_review_full_csv", "57d28bd5d930e772930baddf36641c7c"),
    }
)


def fetch(
    name: str,
    root: str | Path,
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Bring a set below `root`: download what is missing, check it, unpack it.

    An interrupted call is taken up by the next one; what is there already is not fetched again. A file that
    lies at its place, brought by hand, is checked and used.

    Args:
        name: one of SOURCES.
        mirror: address of a folder with the same files, in place of the official one.
        progress: called with (file's name, bytes there, bytes in all or None).
        timeout, attempts, pause: as in `download`.

    Returns:
        The folder that `litfast.data.load` reads.

    Raises:
        ValueError: an unknown name; a set that has no plain address (the line says where it is to be had); a
            file with another checksum; an archive that is refused.
        OSError: a server that does not deliver, a disk that is full.
    """
    source = SOURCES[name]
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise ValueError(f"fetch: mirror must be an http:// or https:// address, got {mirror!r}")
    place = Path(root) / source.place
    unpacked = place / source.unpack if source.unpack else None
    addresses = (mirror.rstrip("/"),) if mirror else source.addresses
    for file, md5 in source.files.items():
        if unpacked is not None and _is_archive(file) and unpacked.is_dir():
            continue
        if not addresses and not (place / file).is_file():
            raise ValueError(
                f"fetch: {name} must be brought by hand, it has no plain address, got no {place / file}; get "
                f"{', '.join(source.files)} from {source.page} into {place} and call this again"
            )
        download(
            [f"{address}/{file}" for address in addresses],
            place / file,
            md5=md5,
            progress=progress,
            timeout=timeout,
            attempts=attempts,
            pause=pause,
        )
        if unpacked is not None and _is_archive(file):
            extract(place / file, unpacked, top=source.unpack)
    return Path(root) / source.folder


def _is_archive(file: str) -> bool:
    return file.endswith((".tar.gz", ".zip"))
