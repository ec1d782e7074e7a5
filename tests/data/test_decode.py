"""Images of every kind that a folder may hold, and of kinds that it should not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from litfast.data.decode import decode, decode_all
from litfast.data.sets.image_set import Files, Members


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Slow ramps, which JPEG keeps nearly as they are."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, 128 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_kinds_come_back_bit_for_bit(kind: str) -> None:
    pixels = noise(5, 7)
    found = decode(encoded(Image.fromarray(pixels), kind), name="a")
    assert found.dtype == np.uint8 and found.flags.writeable
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_lossy_kinds_come_close(kind: str, options: dict[str, Any]) -> None:
    pixels = smooth(33, 50)
    found = decode(encoded(Image.fromarray(pixels), kind, quality=95, **options), name="a")
    assert np.abs(found.astype(int) - pixels).mean() < 3


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(4, 6)[:, :, 0]
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(
            decode(encoded(Image.fromarray(grey), kind), name="a"), grey[..., None].repeat(3, 2)
        )
    bits = Image.fromarray(grey).convert("1")
    assert np.array_equal(decode(encoded(bits), name="a")[..., 0], np.asarray(bits) * np.uint8(255))


def test_of_sixteen_bits_the_upper_eight_count() -> None:
    grey = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert decode(encoded(Image.fromarray(grey)), name="a")[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_a_palette_becomes_its_colours_with_and_without_transparency() -> None:
    image = Image.fromarray(noise(6, 6)).quantize(16)
    colours = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(encoded(image), name="a"), colours)
    assert np.array_equal(decode(encoded(image, transparency=3), name="a"), colours)
    assert np.array_equal(decode(encoded(image, transparency=bytes(range(16))), name="a"), colours)


def test_alpha_is_left_out() -> None:
    pixels = noise(5, 5)
    alpha = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    assert np.array_equal(
        decode(encoded(Image.fromarray(np.concatenate([pixels, alpha], 2))), name="a"), pixels
    )
    grey = Image.fromarray(np.concatenate([pixels[:, :, :1], alpha], 2))
    assert grey.mode == "LA"
    assert np.array_equal(decode(encoded(grey), name="a"), pixels[:, :, :1].repeat(3, 2))


def test_cmyk_becomes_rgb() -> None:
    for kind in ("TIFF", "JPEG"):
        red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        found = decode(encoded(red, kind), name="a").reshape(-1, 3).astype(int)
        assert np.abs(found - [255, 0, 0]).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = smooth(24, 40)
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    found = decode(
        encoded(Image.fromarray(stored), kind, exif=exif, quality=95), name="a", shape=turned.shape[:2]
    )
    assert np.abs(found.astype(int) - turned).mean() < 3


def test_exif_that_cannot_be_read_is_ignored() -> None:
    data = encoded(Image.fromarray(smooth(8, 8)), "JPEG", exif=b"Exif\x00\x00 no exif at all")
    assert decode(data, name="a").shape == (8, 8, 3)


def test_of_several_frames_the_first_counts() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    found = decode(encoded(first, "TIFF", save_all=True, append_images=[second]), name="a")
    assert (found == [255, 0, 0]).all()


def test_the_centre_is_cut_and_the_shorter_side_resized() -> None:
    pixels = noise(20, 31)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decode(data, name="a", centre_crop=14), pixels[3:17, 8:22])
    assert np.array_equal(decode(data, name="a", centre_crop=14, size=14), pixels[3:17, 8:22])
    cut = Image.fromarray(pixels[3:17, 8:22]).resize((6, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(decode(data, name="a", centre_crop=14, size=6), np.asarray(cut))


@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (40, 40)])
@pytest.mark.parametrize("size", [20, 80])
def test_size_is_resizing_the_whole_image_and_cutting_the_middle_square(
    height: int, width: int, size: int
) -> None:
    image = Image.fromarray(noise(height, width))
    scale = size / min(height, width)
    whole = np.asarray(image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR))
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    found = decode(encoded(image), name="a", size=size)
    assert np.abs(found.astype(int) - whole[top : top + size, left : left + size]).max() <= 1


def test_a_very_long_image_costs_no_more_than_its_middle() -> None:
    assert decode(encoded(Image.new("RGB", (60_000, 1))), name="a", size=64).shape == (64, 64, 3)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that announces many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes((width // 8 + 1) * min(height, 1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PHOTO = encoded(Image.fromarray(noise(32, 32)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"GIF89a no image", r"no image of a known kind \(JPEG, PNG, BMP, PPM, TIFF, WEBP\)"),
        (encoded(Image.new("L", (4, 4)), "GIF"), "no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known kind"),
        (PHOTO[:2], "."),
        (PHOTO[:300], "."),
        (PHOTO[: len(PHOTO) // 2], "truncated"),
        (PHOTO[:-30], "truncated"),
        (encoded(Image.fromarray(noise(9, 9)))[:-40], "."),
        (encoded(Image.fromarray(noise(9, 9))).replace(b"IDAT", b"IDAT\x00"), "."),
        (bomb(9000, 9000), "9000x9000 pixels, more than 67108864 in all"),
        (bomb(60_000, 60_000), "exceeds limit"),
        (encoded(Image.new("F", (3, 3)), "TIFF"), "pixels of mode F, neither of 8 nor of 16 bits"),
    ],
)
def test_what_is_no_whole_image_is_named_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(
        ValueError, match=f"decode: dog/a.jpg must be a readable image, got: .*{reason}"
    ) as caught:
        decode(data, name="dog/a.jpg")
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


def test_a_photo_cut_anywhere_in_its_pixels_is_truncated() -> None:
    for kept in range(len(PHOTO) // 2, len(PHOTO) - 4):
        with pytest.raises(ValueError, match="truncated"):
            decode(PHOTO[:kept], name="a")


def test_wrong_sizes_are_named() -> None:
    data = encoded(Image.fromarray(noise(20, 30)))
    with pytest.raises(ValueError, match="decode: b must be 32x32 pixels as the other images are, got 30x20"):
        decode(data, name="b", shape=(32, 32))
    with pytest.raises(
        ValueError, match="decode: b must be at least 25x25 pixels for centre_crop, got 30x20"
    ):
        decode(data, name="b", centre_crop=25)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    for i in range(300):
        (tmp_path / f"{i:03}.png").write_bytes(encoded(Image.fromarray(noise(4, 6, seed=i))))
    return Files(root=tmp_path, paths=tuple(f"{i:03}.png" for i in range(300)), labels=torch.arange(300) % 7)


def test_a_whole_set_is_decoded_in_its_order(files: Files) -> None:
    calls: list[tuple[int, int]] = []
    found = decode_all(files, progress=lambda done, total: calls.append((done, total)))
    assert found.images.shape == (300, 3, 4, 6) and found.images.dtype == torch.uint8
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    for i in (0, 127, 128, 299):
        assert np.array_equal(found.images[i].permute(1, 2, 0).numpy(), noise(4, 6, seed=i))
    assert torch.equal(found.labels, files.labels)
    assert calls[-1] == (300, 300) and calls == sorted(calls) and len(calls) == 3


def test_members_of_a_tar_are_decoded_at_their_offsets(tmp_path: Path) -> None:
    parts = [encoded(Image.fromarray(noise(4, 4, seed=i))) for i in range(3)]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    size = torch.tensor([len(part) for part in parts])
    members = Members(
        tars=(tmp_path / "a.tar",),
        tar=torch.zeros(3, dtype=torch.int64),
        offset=size.cumsum(0) - size,
        size=size,
        keys=("x", "y", "z"),
        labels=torch.tensor([2, 1, 0]),
    )
    assert np.array_equal(decode_all(members).images[2].permute(1, 2, 0).numpy(), noise(4, 4, seed=2))
    (tmp_path / "a.tar").write_bytes(b"".join(parts)[:-20])
    with pytest.raises(
        ValueError, match=rf"decode: {tmp_path}/a\.tar:z must be a readable image, got: .* is truncated"
    ):
        decode_all(members)


def missing(path: Path) -> None:
    path.unlink()


def larger(path: Path) -> None:
    path.write_bytes(encoded(Image.fromarray(noise(6, 6))))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "must be a readable image, got: .*No such file"),
        (empty, "must be a readable image, got: an empty file"),
        (larger, "must be 6x4 pixels as the other images are, got 6x6; `size` makes them equal"),
    ],
)
def test_the_first_bad_file_of_a_set_is_named(
    spoil: Callable[[Path], None], message: str, files: Files
) -> None:
    for name in ("290.png", "131.png", "135.png"):
        spoil(files.root / name)
    with pytest.raises(ValueError, match=rf"decode: {files.root}/131\.png {message}"):
        decode_all(files)


def test_nothing_to_decode_is_an_error(files: Files) -> None:
    with pytest.raises(ValueError, match="decode_all: samples must be at least 1, got 0"):
        decode_all(files.at(torch.arange(0)))
