"""The page: what it says, and what it never does. No browser here."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from benchmark.leaderboard.flagged import flagged_pairs
from benchmark.leaderboard.site import build_site, render
from PIL import Image

from benchmark.errors import RecordError, StorageError
from benchmark.leaderboard import gallery
from benchmark.records.record import read_record
from benchmark.records.store import read_results
from benchmark.records.tables import records_frame
from tests.helpers.boards import BOTH, board, gain, row, section
from tests.helpers.pages import N_TEST, Page, made_predictions, write_trial


@pytest.fixture
def text(site):
    """The page of that contest."""
    return (site / "index.html").read_text(encoding="utf-8")


def build(root, folder, out):
    return build_site(folder, root, out).read_text(encoding="utf-8")


def test_records_become_a_page(text):
    assert "Retrieval leads generation in all 2 contests, by 15.0 points." in text
    # means over seeds 0..2: 299, 239 and 199 of 400
    for number in ("74.8", "59.8", "49.8", "+25.0", "+10.0"):
        assert number in text
    page = Page(text)
    # a contest per classifier, the flagged pairs, one gallery
    assert len(page.all("table")) == 2 + 1 + 1
    assert all("alt" in image and image["alt"] for image in page.all("img"))
    assert all(head.get("scope") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_flagged_pairs_are_shown_and_the_clean_value_beside_the_value(contest, text):
    assert text.count("clean 74.7") == 2  # the mean of 299, 298 and 297 of 399; two classifiers
    assert text.count("clean ") == 2  # equal values are not repeated
    (pairs,) = flagged_pairs(read_results(contest[1])).values()
    assert pairs.total == 1 and pairs.rows[0].trials == 3  # one image, on three seeds
    assert (pairs.rows[0].image, pairs.rows[0].test_id) == ("clip-art/0", "test/0")
    assert "1 flagged pair of an added image and a test image" in text
    assert "<td>clip-art/0, mirrored</td>" in text


def test_titles_prompts_and_reasons_are_escaped(text):
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>circle" not in text and "&lt;b&gt;circle&lt;/b&gt;" in text
    assert "<ValueError>" not in text
    assert len(Page(text).all("script")) == 1


def test_a_failed_trial_is_shown_with_its_reason(text):
    assert "it raised &lt;ValueError&gt; &amp; stopped" in text and "(seed 1)" in text
    assert "(1 without a score)" in text


def test_the_same_records_give_the_same_bytes(contest, site, tmp_path):
    root, folder = contest
    again = build_site(folder, root, tmp_path / "again").parent
    first, second = (
        {path.name: path.read_bytes() for path in out.iterdir()} for out in (site, again)
    )
    assert first == second and set(first) == {"index.html", "records.csv", "records.json"}


def test_the_date_is_the_newest_records_unless_it_is_given(contest, text, tmp_path):
    root, folder = contest
    assert '<time datetime="2026-11-22">' in text
    given = build_site(folder, root, tmp_path / "b", date="2030-01-02").read_text()
    assert '<time datetime="2030-01-02">' in given and "2026-11-22" not in given


def test_the_page_needs_nothing_but_itself(text):
    page = Page(text)
    for tag, attributes in page.tags:
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,"), tag
        if "href" in attributes:
            assert tag == "a", f"<{tag} href> would be fetched"
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = (m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert "@import" not in text and "url(" not in text


def test_the_rows_lie_beside_the_page(contest, site):
    root, folder = contest
    records = [stored.record for stored in read_results(folder)]
    rows = json.loads((site / "records.json").read_text())
    assert [read_record(json.dumps(values), "json") for values in rows] == records
    table = pd.read_csv(site / "records.csv")
    assert table["record_id"].tolist() == records_frame(records)["record_id"].tolist()


def test_the_gallery_shows_shots_and_what_was_added(text):
    page = Page(text)
    alts = [image["alt"] for image in page.all("img")]
    assert "Real shots: red circle, 3 images" in alts
    assert "Found in the corpus: blue square, 4 images" in alts
    assert len(alts) == 3 * 3  # classes x (shots, find, paint)
    told = [attributes["title"] for attributes in page.all("i")]
    assert (
        told.count('generated · prompt “a "red" <b>circle</b>” · seed 5 · guidance 3 · 40 NFE')
        == 12
    )
    assert any(words.startswith("retrieved · clip-art/0 · found by") for words in told)
    assert [words for words in told if "very near to test image test/0 (perceptual" in words] == [
        attributes["title"] for attributes in page.all("i") if attributes.get("class") == "near"
    ]
    assert len(page.all("i")) == 9 + 12 + 12


def test_sheets_hold_the_pixels_that_were_trained_on(text):
    import base64

    page = Page(text)
    (image,) = (
        each for each in page.all("img") if each["alt"].startswith("Found in the corpus: red")
    )
    sheet = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    assert sheet.size == (96, 64)
    pixels = np.asarray(sheet.convert("RGBA"))
    assert pixels[:32, ::32, 0][0].tolist() == [0, 60, 120]  # images 0, 3, 6
    assert pixels[40, 10].tolist() == [180, 180, 180, 255]  # image 9
    assert pixels[40, 50, 3] == 0  # no fifth image


def test_credits_name_collections_and_licences(text):
    assert '<a href="https://example.org/shapes" rel="noreferrer">The tests (2026)</a>' in text
    link = '<a href="https://spdx.org/licenses/{0}.html" rel="noreferrer">{0}</a>'
    assert f"clip-art ({link.format('CC-BY-4.0')})" in text and link.format("CC0-1.0") in text


def test_images_that_are_gone_are_told_and_the_rest_is_shown(contest, tmp_path):
    root, folder = contest
    for path in folder.rglob("find/*/augment/images.parquet"):
        path.write_bytes(b"x")
    text = build(root, folder, tmp_path / "site")
    assert "Found in the corpus: not shown:" in text and "Real shots: red circle" in text


@pytest.mark.parametrize("digit", ["0", "f"])
def test_images_of_an_older_version_are_not_shown(contest, tmp_path, text, digit):
    root, folder = contest
    old = {"method_hash": digit * 64, "record_id": digit * 64, "trial_id": digit * 64}
    write_trial(folder, root, "find", 0, 300, **old)
    for path in folder.rglob(f"find/{digit * 16}/augment/images.parquet"):
        path.write_bytes(b"x")
    told = build(root, folder, tmp_path / "site")
    assert "another version of the method" in told and "not shown:" not in told
    tags = [[a["title"] for a in Page(page).all("i")] for page in (text, told)]
    assert tags[0] == tags[1] and told.count("test/0") == text.count("test/0")


def test_shots_of_other_data_are_not_shown(contest, tmp_path, change_rows):
    root, folder = contest
    change_rows(root, lambda rows: rows.reverse())
    change_rows(root, lambda rows: [row.update(id=row["id"] + "x") for row in rows])
    text = build(root, folder, tmp_path / "site")
    assert "draw another split" in text and "Real shots: red circle" not in text


def test_methods_and_tasks_that_are_gone_keep_their_rows(contest, tmp_path):
    root, folder = contest
    (root / "methods" / "find.py").unlink()
    (root / "tasks" / "shapes.toml").unlink()
    text = build(root, folder, tmp_path / "site")
    assert "<code>find</code>" in text and "shapes-3shot" in text and "+25.0" in text


def test_without_the_control_there_is_no_gain_and_no_contest(contest, tmp_path):
    root, folder = contest
    for path in folder.rglob("none/*/*/record.json"):
        path.unlink()
    text = build(root, folder, tmp_path / "site")
    assert "No gain to draw" in text and "No contest yet" in text and "74.8" in text


@pytest.mark.parametrize("missing", [True, False])
def test_without_results_the_page_says_how_to_make_some(shapes, tmp_path, missing):
    folder = tmp_path / "results"
    if not missing:
        folder.mkdir()
    text = build(shapes, folder, tmp_path / "site")
    assert "No results yet" in text and "bench sweep" in text
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    assert not Page(text).all("table") and "records.csv" not in text


def test_predictions_that_were_changed_are_refused(contest, tmp_path):
    root, folder = contest
    path = next(folder.rglob("paint/*/linear-probe/predictions.parquet"))
    made_predictions(N_TEST).to_parquet(path, index=False)
    with pytest.raises(RecordError, match="predictions_hash"):
        build(root, folder, tmp_path / "site")


def test_a_folder_that_cannot_be_written_is_named(shapes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/site"):
        build(shapes, tmp_path / "results", tmp_path / "file" / "site")


def test_the_switch_offers_what_there_is(text):
    page = Page(text)
    offered = [(each["name"], each["value"]) for each in page.all("input")]
    assert offered == [("classifier", "linear-probe"), ("classifier", "resnet-scratch")]
    lone = Page(render(board(section(*BOTH, difference=gain(3, 2, 4))), (), ""))
    assert not lone.all("form")


@pytest.mark.parametrize("name", ["m" * 60, "prompt_simple[a=1,b=2,c=3,d=4,e=5,f=6]", "ü<&>\"'"])
def test_odd_names_are_drawn_and_escaped(name):
    rows = (row(name, "retrieve", 9, tflops=1.0), row("g", "prompt", 6, tflops=1.0), BOTH[2])
    text = render(board(section(*rows, difference=gain(3, 2, 4))), (), "")
    assert Page(text).all("svg") and "<&>" not in text


def test_extreme_numbers_are_drawn():
    rows = [
        row("r", "retrieve", 0, gain=gain(0, 0, 0), tflops=1e-9),
        row("g", "personalize", -100, gain=gain(-100, -100, -100), tflops=1e9),
        row("x", "oracle", 100, gain=gain(100, 100, 100), tflops=3.0),
    ]
    text = render(board(section(*rows, difference=gain(100, 100, 100))), (), "")
    assert "−100.0" in text and "+100.0" in text and not re.search(r"\bNaN\b", text)


def test_building_the_page_imports_no_torch(contest, tmp_path):
    root, folder = contest
    code = (
        "import sys; from pathlib import Path; from benchmark.leaderboard.site import build_site;"
        "build_site(*map(Path, sys.argv[1:]));"
        "print(sorted({'torch', 'diffusers', 'open_clip', 'timm', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(folder), str(root), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_side_is_told_on_the_page():
    text = render(board(section(BOTH[0], BOTH[2])), (), "2026-11-22")
    assert text.count("no diffusion method has a gain") == 2  # the headline, and under the chart


def test_many_classes_are_folded_away_and_very_many_left_out(contest, tmp_path, monkeypatch):
    root, folder = contest
    monkeypatch.setattr(gallery, "PER_TABLE", 1)
    assert "<summary>2 more classes</summary>" in build(root, folder, tmp_path / "a")
    monkeypatch.setattr(gallery, "PER_TABLE", 2)
    monkeypatch.setattr(gallery, "MAX_SHEETS", 1)
    text = build(root, folder, tmp_path / "b")
    assert "1 more class is not shown" in text and "Real shots: blue square" not in text
