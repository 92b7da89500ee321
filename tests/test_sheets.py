"""Contact sheets: what was made, in its order, nothing that was rejected."""

import io

import numpy as np
import pytest
from benchmark.leaderboard.sheets import MAX_BYTES, TILE
from PIL import Image
from typer.testing import CliRunner

from benchmark.errors import RecordError
from benchmark.images import decode
from benchmark.records.store import read_results
from benchmark.submission.pack import pack
from tests.helpers.results import change_line


@pytest.fixture
def contact(shapes, monkeypatch):
    """A function that draws the sheets of folders, and returns where they lie."""
    from benchmark.cli import app

    monkeypatch.setenv("BENCH_ROOT", str(shapes))

    def draw(*folders):
        done = CliRunner().invoke(app, ["docs", "sheets", *map(str, folders)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return shapes / "docs", done.output

    return draw


def tiles(path):
    """Every picture of one image, as the sheet places them."""
    with Image.open(path) as image:
        assert image.mode == "P" and image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_sheet_shows_what_was_accepted_beside_the_shots(results, contact):
    docs, told = contact(results)
    assert told.strip() == str(docs / "contact" / "README.md")
    assert {path.name for path in (docs / "contact").iterdir()} == {"repeat.png", "README.md"}
    sheet = tiles(docs / "contact" / "repeat.png")
    assert (docs / "contact" / "repeat.png").stat().st_size < MAX_BYTES
    (item, _) = [i for i in read_results(results) if i.record.method == "repeat"][::2]
    assert item.record.split == 0
    first = {label: decode(item.images()[label], None, "x") for label in range(3)}
    left = 130 + 5 * TILE + 12
    for label in range(3):
        top = 22 + label * TILE
        drawn = sheet[top : top + TILE : 2, left : left + TILE : 2].astype(int)
        assert np.abs(drawn - first[label]).mean() < 24  # few colours: noise is not exact
        other = first[(label + 1) % 3]
        assert np.abs(drawn - other).mean() > 48
        beyond = sheet[top : top + TILE, left + 2 * TILE :]  # the third of a class was rejected
        assert (beyond == 255).all()
        shot = sheet[top : top + TILE, 130 : 130 + TILE]
        assert (shot != 255).any() and (sheet[top : top + TILE, 130 + 3 * TILE : left] == 255).all()


def test_the_index_tells_what_is_seen(results, contact):
    docs, _ = contact(results)
    text = (docs / "contact" / "README.md").read_text()
    assert "## classical" in text and "### `repeat`: Repeated shots" in text
    assert "![Images of Repeated shots for shapes-3shot](repeat.png)" in text
    assert "shapes-3shot, split 0, budget S, record " in text
    assert "6 images, 3 rejected; from the top: red circle, green circle, blue square" in text


def test_the_overview_has_a_row_for_every_method(results, contact):
    docs, _ = contact(results)
    image = tiles(docs / "img" / "methods.png")
    assert image.shape == (22 + 2 * (TILE + 4), 260 + 3 * (2 * TILE + 12), 3)
    with Image.open(io.BytesIO((docs / "img" / "methods.png").read_bytes())) as picture:
        assert picture.mode == "P"


def test_sheets_are_the_same_from_a_submission(results, contact, tmp_path):
    docs, _ = contact(results)
    before = {path.name: path.read_bytes() for path in (docs / "contact").iterdir()}
    contact(pack(results, tmp_path / "submissions" / "first"))
    assert {path.name: path.read_bytes() for path in (docs / "contact").iterdir()} == before


def test_what_cannot_be_drawn_is_told(results, contact, tmp_path):
    packed = pack(results, tmp_path / "first")
    change_line(packed, {"method": "repeat"}, ledger_hash="0" * 64)
    with pytest.raises(RecordError, match="no images to draw\n.*repeat.*ledger_hash"):
        contact(packed)
