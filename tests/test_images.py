"""Decoding, encoding and hashing of images."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.errors import DataError
from benchmark.images import decode, encode_png, perceptual_hash, pixel_hash


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_lossless_files_decode_to_the_same_pixels(noise: np.ndarray) -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(decode(encoded(Image.fromarray(noise), kind), None, kind), noise)
    assert np.array_equal(decode(encode_png(noise), None, "png"), noise)


def test_pixels_are_uint8_rgb_and_writable(noise: np.ndarray) -> None:
    for mode in ("1", "L", "P", "LA", "RGBA", "RGB"):
        pixels = decode(encoded(Image.fromarray(noise).convert(mode)), 16, mode)
        assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((16, 16, 3), np.uint8, True)
    cmyk = decode(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG"), None, "cmyk")
    assert (cmyk[4, 4] == (255, 0, 0)).all()


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (decode(encoded(clear), None, "clear") == 255).all()
    half = decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), None, "half")
    assert (half == 127).all()
    grey = Image.new("LA", (4, 4), (0, 0))
    assert (decode(encoded(grey), None, "grey") == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (decode(encoded(palette, transparency=0), None, "palette") == 255).all()


def test_16_bit_grey_keeps_its_shades() -> None:
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    pixels = decode(encoded(Image.fromarray(values)), None, "16 bit")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_orientation_noted_by_a_camera_is_applied() -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = decode(encoded(image, exif=exif), None, "exif")
    assert (pixels[:, :4] == 0).all() and (pixels[:, 4:] == 255).all()


def test_resizing_scales_the_shorter_side_and_crops_the_centre() -> None:
    for width, height in ((96, 32), (32, 96)):
        image = Image.new("RGB", (width, height), "red")
        left, top = (width - 32) // 2, (height - 32) // 2
        image.paste("blue", (left, top, left + 32, top + 32))
        assert (decode(encoded(image), 32, "wide")[2:-2, 2:-2] == (0, 0, 255)).all()
        assert (decode(encoded(image), 8, "wide")[2:-2, 2:-2] == (0, 0, 255)).all()


def test_reducing_does_not_alias() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(encoded(Image.fromarray(board)), 8, "board").astype(int)
    assert np.abs(small - 127).max() <= 3


def test_an_image_of_the_right_size_is_left_as_it_is(noise: np.ndarray) -> None:
    square = noise[:20, :20]
    assert np.array_equal(decode(encode_png(square), 20, "square"), square)
    assert (decode(encode_png(noise[:1, :1]), 8, "dot") == noise[0, 0]).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_named(noise: np.ndarray, kind: str) -> None:
    whole = encoded(Image.fromarray(noise), kind)
    for length in (0, 10, len(whole) // 2):
        with pytest.raises(DataError, match="corpus: image 'cat/7': "):
            decode(whole[:length], 16, "corpus: image 'cat/7'")


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="x: 11 bytes that are not an image in a known format"):
        decode(b"hello world", 16, "x")
    with pytest.raises(DataError, match="depth: .*32 bits"):
        decode(encoded(Image.new("F", (4, 4), 0.5), "TIFF"), 16, "depth")


def test_a_decompression_bomb_is_refused() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="bomb"):
        decode(bomb, 16, "bomb.png")


def test_pixel_hash_depends_on_pixels_and_shape_alone(noise: np.ndarray) -> None:
    assert pixel_hash(noise[::2, ::3]) == pixel_hash(noise[::2, ::3].copy())
    assert pixel_hash(noise) == pixel_hash(decode(encoded(Image.fromarray(noise), "BMP"), None, ""))
    assert pixel_hash(noise) != pixel_hash(noise.reshape(30, 20, 3))
    changed = noise.copy()
    changed[3, 3, 0] ^= 1
    assert pixel_hash(noise) != pixel_hash(changed)
    blank = hashlib.sha256(b"2,2,3" + bytes(12)).hexdigest()  # stored in ledgers: never changes
    assert pixel_hash(np.zeros((2, 2, 3), np.uint8)) == blank


def test_perceptual_hash_stays_close_for_a_near_copy_alone(root: Path) -> None:
    table = pq.read_table(root / "pocket/heldout/openmoji.parquet", columns=["image"])
    images = [decode(value.as_py()["bytes"], 32, "openmoji") for value in table["image"][::100]]
    hashes = [perceptual_hash(image) for image in images]
    assert all(len(value) == 16 and set(value) <= set("0123456789abcdef") for value in hashes)
    values = [int(value, 16) for value in hashes]
    others = [(a ^ b).bit_count() for a, b in itertools.combinations(values, 2)]
    copies = [encoded(Image.fromarray(image), "WEBP", quality=90) for image in images]
    again = [int(perceptual_hash(decode(copy, 32, "copy")), 16) for copy in copies]
    near = [(a ^ b).bit_count() for a, b in zip(values, again, strict=True)]
    assert np.median(near) <= 4 and np.median(others) >= 24
