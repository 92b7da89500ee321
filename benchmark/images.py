"""Images as arrays: decoding, encoding and the two hashes that the ledger keeps."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmark.errors import DataError


def decode(data: bytes, size: int | None, source: str) -> np.ndarray:
    """The pixels of an encoded image: uint8 [S, S, 3] RGB, or [H, W, 3] where ``size`` is None.

    The orientation that a camera noted is applied; transparency becomes white; 16-bit grey is
    reduced to its high byte. Resizing scales the shorter side to ``size`` and crops the centre
    (bicubic, antialiased); an image of that size already is left as it is.

    Raises:
        DataError: naming ``source``: empty, truncated, or not an image that Pillow reads.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            rgb = _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        reason = f"{len(data)} bytes that are not an image in a known format"
        raise DataError(f"{source}: {reason}") from None
    except Exception as error:  # Pillow's decoders raise many types on a damaged file
        raise DataError(f"{source}: damaged image: {error}") from error
    if size is not None and rgb.size != (size, size):
        return _fit(rgb, size)
    return np.array(rgb)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [N, H, W, 3] to [N, S, S, 3], S = ``size``, scaled and cropped as ``decode`` does;
    images of that size are copied."""
    if pixels.shape[1:3] == (size, size):
        return pixels.copy()
    made = np.empty((len(pixels), size, size, 3), np.uint8)
    for row, image in enumerate(pixels):
        made[row] = _fit(Image.fromarray(image), size)
    return made


def _fit(image: Image.Image, size: int) -> np.ndarray:
    return np.array(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip it at 255, that is, to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} (32 bits) has no known range of values")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG (lossless) of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixel_hash(pixels: np.ndarray) -> str:
    """sha256 (hex) of the shape and the raw bytes of uint8 [H, W, 3]: equal only for equal
    pixels, whatever file format they came in."""
    shape = ",".join(map(str, pixels.shape))
    return hashlib.sha256(shape.encode() + pixels.tobytes()).hexdigest()


def perceptual_hash(pixels: np.ndarray) -> str:
    """DCT hash of uint8 [H, W, 3], 64 bits as 16 hex digits: similar images differ in few bits
    (imagehash's ``phash``, after Zauner 2010, "Implementation and benchmarking of perceptual
    image hash functions")."""
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels)))


def mirrored(pixels: np.ndarray) -> np.ndarray:
    """Left and right exchanged: uint8 [..., H, W, 3], a copy."""
    return np.ascontiguousarray(pixels[..., ::-1, :])
