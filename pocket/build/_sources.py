"""The public sources of the pocket: what each provides, how it is rendered and captioned."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _corpus import FASHION_CLASSES
from PIL import Image

#: npm package of each rendered source, at the version that the pocket was rendered from.
ICON_PACKAGES = {
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "fluent-emoji": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "twemoji": "@iconify-json/twemoji@1.2.5",
}
EMOJIBASE_PACKAGE = "emojibase-data@17.0.0"
DEBIAN_PACKAGES = ("openclipart-svg", "dataset-fashion-mnist")
HELDOUT_SOURCES = ("openmoji", "emojione-v1")

#: SPDX identifier of each source, the `license` column.
LICENSES = {
    "emojione": "CC-BY-4.0",
    "emojione-v1": "CC-BY-SA-4.0",
    "fashion-mnist": "MIT",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
    "fxemoji": "Apache-2.0",
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "openclipart": "CC0-1.0",
    "openmoji": "CC-BY-SA-4.0",
    "twemoji": "CC-BY-4.0",
}

#: Sets whose code-point tables name the icons, first come first served.
SUBGROUP_SETS = ("noto", "openmoji", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fxemoji")

#: Clip-art folders without a nameable object, or not wanted beside emoji.
CLIP_ART_LEFT_OUT = (
    "buttons",
    "computer/buttons",
    "computer/icons",
    "geography",
    "logos",
    "recreation/games",
    "recreation/religion",
    "shapes",
    "signs_and_symbols/led",
    "special",
    "tools/weapons",
    "unsorted",
)
CLIP_ART_MAX_CHARACTERS = 400_000
CLIP_ART_MAX_KEYWORDS = 6
CLIP_ART_MAX_CAPTION = 120

_SKIN_TONE = re.compile(r"skin-tone|-(light|medium|dark|medium-light|medium-dark)$")


@dataclass(frozen=True)
class Drawing:
    """A vector drawing and its caption; `svg` is the text of an icon or the file of a clip art."""

    source: str
    name: str
    caption: str
    svg: str | Path

    @property
    def id(self) -> str:
        return f"{self.source}/{self.name}"


def short_flag_name(name: str) -> str:
    """Some sets call a flag ``flag-for-italy`` or ``flag-for-flag-italy``; both are one flag."""
    return name.replace("flag-for-flag-", "flag-").replace("flag-for-", "flag-")


def clean_caption(name: str) -> str:
    """An icon or file name as words: dashes and underscores become single spaces."""
    return re.sub(r"[-_]+", " ", short_flag_name(name)).strip()


def icon_svg(icons: Mapping[str, Any], name: str) -> str:
    """Assemble the SVG document of one icon of an Iconify JSON set.

    Raises:
        KeyError: the set has no icon of that name.
    """
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )


def icon_drawings(source: str, icons: Mapping[str, Any]) -> Iterator[Drawing]:
    """The icons of a set, without skin-tone variants."""
    for name in icons["icons"]:
        if not _SKIN_TONE.search(name):
            yield Drawing(source, name, clean_caption(name), icon_svg(icons, name))


def clip_art_caption(svg: str, file_name: str) -> str:
    """Title and first keywords of a clip art's metadata; the file name where it has no title."""
    match = re.search(r"<dc:title>([^<]+)", svg)
    title = match.group(1).strip() if match else ""
    if title in ("", "Open Clip Art Library"):
        title = file_name
    keywords = [word.strip() for word in re.findall(r"<rdf:li>([^<]+)", svg)]
    words = [title, *keywords[:CLIP_ART_MAX_KEYWORDS]]
    return clean_caption(" ".join(words)).lower()[:CLIP_ART_MAX_CAPTION]


def clip_art_drawings(root: Path) -> Iterator[Drawing]:
    """Every clip art below `root` that shows something nameable and is not huge."""
    for path in sorted(root.rglob("*.svg"), key=str):
        name = path.relative_to(root).with_suffix("").as_posix()
        if Path(name).parent.as_posix().startswith(CLIP_ART_LEFT_OUT):
            continue
        svg = path.read_text(errors="ignore")
        if len(svg) <= CLIP_ART_MAX_CHARACTERS:
            yield Drawing("openclipart", name, clip_art_caption(svg, path.stem), path)


def normalize_code(code: str) -> str:
    """A code-point sequence in lower case, without the emoji presentation selector FE0F."""
    points = code.lower().replace("_", "-").split("-")
    return "-".join(point for point in points if point != "fe0f")


def unicode_subgroups(
    emoji: list[dict[str, Any]],
    subgroup_names: Mapping[str, str],
    code_tables: list[Mapping[str, str]],
) -> dict[str, str]:
    """Unicode subgroup by icon name.

    Args:
        emoji: emojibase entries with `hexcode` and a numeric `subgroup`.
        subgroup_names: name by that number, as a string.
        code_tables: icon name by code point, one per icon set; the first to name an icon wins.
    """
    of_code = {
        normalize_code(entry["hexcode"]): subgroup_names[str(entry["subgroup"])]
        for entry in emoji
        if entry.get("subgroup") is not None
    }
    of_name: dict[str, str] = {}
    for table in code_tables:
        for code, name in table.items():
            if (code := normalize_code(code)) in of_code:
                of_name.setdefault(short_flag_name(name), of_code[code])
    return of_name


def read_subgroups(unpacked: Path) -> dict[str, str]:
    """`unicode_subgroups` of the unpacked packages."""
    base = unpacked / "emojibase-data"
    tables = [unpacked / source / "chars.json" for source in SUBGROUP_SETS]
    return unicode_subgroups(
        json.loads((base / "en/data.json").read_text()),
        json.loads((base / "meta/groups.json").read_text())["subgroups"],
        [json.loads(table.read_text()) for table in tables if table.exists()],
    )


def read_fashion_mnist(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (uint8 [N, 28, 28]) and labels (uint8 [N], of FASHION_CLASSES) of train or t10k.

    Xiao et al. 2017, arXiv 1708.07747; the IDX format has a header of 16 and 8 bytes.
    """
    images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    classes = np.frombuffer(labels, np.uint8, offset=8)
    if len(pixels) != len(classes) or classes.max() >= len(FASHION_CLASSES):
        raise ValueError(f"{folder}: {len(pixels)} images, {len(classes)} labels of {split}")
    return pixels, classes


def render(svg: str | Path) -> Image.Image | None:
    """Render an SVG on white, 32x32 RGB; None if it cannot be read or nothing is visible.

    It is rendered at 128, reduced to a 64 px WebP and from that to 32, as the images of the corpus
    were: so they come out the same to the pixel.
    """
    import resvg_py

    try:
        if isinstance(svg, Path):
            png = resvg_py.svg_to_bytes(svg_path=str(svg), width=128)
        else:
            png = resvg_py.svg_to_bytes(svg_string=svg, width=128, height=128)
    except ValueError:
        return None
    rendered = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    rendered.thumbnail((64, 64), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (64, 64), "white")
    corner = (64 - rendered.width) // 2, (64 - rendered.height) // 2
    canvas.paste(rendered, corner, rendered)
    if all(low == high for low, high in canvas.getextrema()):
        return None
    file = io.BytesIO()
    canvas.save(file, "WEBP", quality=90, method=6)
    return Image.open(file).convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)


def enlarge_fashion(pixels: np.ndarray) -> Image.Image:
    """A 28x28 grey image as 32x32 RGB, bicubic."""
    return Image.fromarray(pixels).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)


def encode(image: Image.Image) -> bytes:
    """The shorter of lossless WebP and PNG."""
    files = []
    for options in (
        {"format": "WEBP", "lossless": True, "quality": 60, "method": 3},
        {"format": "PNG", "optimize": True},
    ):
        file = io.BytesIO()
        image.save(file, **options)
        files.append(file.getvalue())
    return min(files, key=len)
