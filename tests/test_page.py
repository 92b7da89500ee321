"""The page: what it says, and what it never does. No browser here."""

import base64
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
from tests.helpers.contests import N_TEST, made_predictions, write_trial
from tests.helpers.html import Element, parse

CLASSIFIERS = ("linear-probe", "resnet-scratch")


@pytest.fixture
def text(site):
    """The page of the contest, as it is written."""
    return (site / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def page(text):
    return parse(text)


def build(root, folder, out) -> Element:
    return parse(build_site(folder, root, out).read_text(encoding="utf-8"))


def table(page: Element, classifier: str) -> dict[str, dict[str, str]]:
    """The rows of a contest by method, their cells by column."""
    contest = page.one("div", class_="contest", data_classifier=classifier)
    columns = [head.text for head in contest.one("thead").one("tr").elements]
    return {
        row.one("code").text: dict(zip(columns, (cell.text for cell in row.elements), strict=True))
        for row in contest.one("tbody").all("tr")
    }


def verdict(page: Element) -> str:
    return page.one("header").one("p", class_="verdict").text


def facts(page: Element) -> dict[str, str]:
    """The counts under the verdict."""
    listed = page.one("dl", class_="facts")
    names, values = listed.all("dt"), listed.all("dd")
    return {name.text: value.text for name, value in zip(names, values, strict=True)}


def sheets(page: Element) -> list[str]:
    """What the images of the gallery are said to show."""
    return [image["alt"] for image in page.one("section", id="images").all("img")]


def thumbs(page: Element) -> list[str]:
    """Where each image of the gallery comes from."""
    return [thumb["title"] for thumb in page.one("section", id="images").all("i")]


def cells(element: Element) -> list[list[str]]:
    """The texts of a table, row by row."""
    return [[cell.text for cell in row.elements] for row in element.one("tbody").all("tr")]


def gallery_notes(page: Element) -> list[str]:
    return [note.text for note in page.one("div", class_="gallery").all("p", class_="quiet")]


def test_records_become_a_page(page):
    assert verdict(page) == "Retrieval leads generation in all 2 contests, by 15.0 points."
    for classifier in CLASSIFIERS:
        rows = table(page, classifier)
        shown = {name: (row["Accuracy, %"], row["Gain, points"]) for name, row in rows.items()}
        if classifier == "linear-probe":
            assert shown.pop("repeat") == ("–", "–")  # it failed
        assert list(shown) == ["find", "paint", "none"]
        # means over seeds 0..2: 299, 239 and 199 of 400
        for method, accuracy, gained in (("find", "74.8", "+25.0"), ("paint", "59.8", "+10.0")):
            assert shown[method][0].startswith(f"{accuracy} [")
            assert shown[method][1].startswith(f"{gained} [")
        assert shown["none"][0].startswith("49.8 [") and shown["none"][1] == "the control"


def test_everything_is_labelled_and_every_link_leads_somewhere(page):
    # a contest per classifier, the flagged pairs, one gallery
    assert len(page.all("table")) == len(page.all("caption")) == 2 + 1 + 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(head["scope"] for head in page.all("th"))
    ids = [element["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for attribute in ("href", "aria-labelledby"):
        for element in page.all():
            target = element.get(attribute) or ""
            if target.startswith("#") or attribute != "href" and target:
                assert target.removeprefix("#") in ids


def test_flagged_pairs_are_shown_and_the_clean_value_beside_the_value(contest, page):
    for classifier in CLASSIFIERS:
        accuracy = {name: row["Accuracy, %"] for name, row in table(page, classifier).items()}
        assert accuracy["find"].endswith("] clean 74.7")  # the mean of 299, 298, 297 of 399
        assert "clean" not in accuracy["paint"] + accuracy["none"]  # equal values once
    (pairs,) = flagged_pairs(read_results(contest[1])).values()
    assert pairs.total == 1 and pairs.rows[0].trials == 3  # one image, on three seeds
    assert (pairs.rows[0].image, pairs.rows[0].test_id) == ("clip-art/0", "test/0")
    shown = page.one("details", class_="flagged")
    assert shown.one("summary").text == "1 flagged pair of an added image and a test image"
    assert cells(shown) == [
        ["find", "clip-art/0, mirrored", "test/0", "perceptual", "2", "0.070", "0.980", "3"]
    ]


def test_titles_prompts_and_reasons_are_escaped(page):
    titles = [each.text for each in page.one("section", id="tables").all("span", class_="title")]
    assert titles.count("<script>alert(1)</script>") == len(CLASSIFIERS)
    assert "alert(1)" not in page.one("script").text  # there is one, the page's own
    prompts = [told for told in thumbs(page) if "prompt" in told]
    assert len(prompts) == 12 and all('a "red" <b>circle</b>' in each for each in prompts)
    assert not [each for each in page.all("b") if each.text == "circle"]
    assert not page.all("valueerror")


def test_a_failed_trial_is_shown_with_its_reason(page):
    notes = page.one("dl", class_="notes-of")
    assert notes.one("dt").text == "Repeated shots"
    assert notes.one("dd").text == "failed it raised <ValueError> & stopped (split 1)"
    assert facts(page)["Records"] == "19 (1 without a score)"


def test_the_same_records_give_the_same_bytes(contest, site, tmp_path):
    root, folder = contest
    again = build_site(folder, root, tmp_path / "again").parent
    first, second = (
        {path.name: path.read_bytes() for path in out.iterdir()} for out in (site, again)
    )
    assert first == second and set(first) == {"index.html", "records.csv", "records.json"}


def test_the_date_is_the_newest_records_unless_it_is_given(contest, page, tmp_path):
    root, folder = contest
    assert page.one("time")["datetime"] == "2026-11-22"
    given = build_site(folder, root, tmp_path / "b", date="2030-01-02").read_text()
    assert parse(given).one("time")["datetime"] == "2030-01-02" and "2026-11-22" not in given


def test_the_page_needs_nothing_but_itself(page, text):
    for element in page.all():
        if "src" in element.attributes:
            assert element["src"].startswith("data:image/png;base64,"), element.tag
        if "href" in element.attributes:
            assert element.tag == "a", f"<{element.tag} href> would be fetched"
        assert not any(name.startswith("on") for name in element.attributes)
    policy = page.one("meta", http_equiv="Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    assert "@import" not in text and "url(" not in text


def test_the_rows_lie_beside_the_page(contest, site):
    root, folder = contest
    records = [stored.record for stored in read_results(folder)]
    rows = json.loads((site / "records.json").read_text())
    assert [read_record(json.dumps(values), "json") for values in rows] == records
    table = pd.read_csv(site / "records.csv")
    assert table["record_id"].tolist() == records_frame(records)["record_id"].tolist()


def test_the_gallery_shows_shots_and_what_was_added(page):
    assert "Real shots: red circle, 3 images" in sheets(page)
    assert "Found in the corpus: blue square, 4 images" in sheets(page)
    assert len(sheets(page)) == 3 * 3  # classes x (shots, find, paint)
    told = thumbs(page)
    assert (
        told.count('generated · prompt “a "red" <b>circle</b>” · seed 5 · guidance 3 · 40 NFE')
        == 12
    )
    assert any(words.startswith("retrieved · clip-art/0 · found by") for words in told)
    near = [words for words in told if "very near to test image test/0 (perceptual" in words]
    assert near == [thumb["title"] for thumb in page.all("i", class_="near")]
    assert len(near) == 1 and len(told) == 9 + 12 + 12


def test_sheets_hold_the_pixels_that_were_trained_on(page):
    image = page.one("img", alt="Found in the corpus: red circle, 4 images")
    sheet = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    assert sheet.size == (96, 64)
    pixels = np.asarray(sheet.convert("RGBA"))
    assert pixels[:32, ::32, 0][0].tolist() == [0, 60, 120]  # images 0, 3, 6
    assert pixels[40, 10].tolist() == [180, 180, 180, 255]  # image 9
    assert pixels[40, 50, 3] == 0  # no fifth image


def test_credits_name_collections_and_licences(page):
    credits = page.one("div", class_="gallery").all("p", class_="quiet")[-1]
    assert credits.text == (
        "Real images: The tests (2026), CC0-1.0. From the corpus: clip-art (CC-BY-4.0). "
        "All reduced in size and colours."
    )
    assert [(link.text, link["href"], link["rel"]) for link in credits.all("a")] == [
        ("The tests (2026)", "https://example.org/shapes", "noreferrer"),
        ("CC0-1.0", "https://spdx.org/licenses/CC0-1.0.html", "noreferrer"),
        ("CC-BY-4.0", "https://spdx.org/licenses/CC-BY-4.0.html", "noreferrer"),
    ]


def test_images_that_are_gone_are_told_and_the_rest_is_shown(contest, tmp_path):
    root, folder = contest
    for path in folder.rglob("find/*/augment/images.parquet"):
        path.write_bytes(b"x")
    page = build(root, folder, tmp_path / "site")
    notes = [note for note in gallery_notes(page) if note.startswith("Found in the corpus")]
    assert len(notes) == 1 and notes[0].startswith("Found in the corpus: not shown: ")
    assert {alt.partition(":")[0] for alt in sheets(page)} == {
        "Real shots",
        "<script>alert(1)</script>",
    }


@pytest.mark.parametrize("digit", ["0", "f"])
def test_images_of_an_older_version_are_not_shown(contest, tmp_path, page, digit):
    root, folder = contest
    old = {"method_hash": digit * 64, "record_id": digit * 64, "trial_id": digit * 64}
    write_trial(folder, root, "find", 0, 300, **old)
    for path in folder.rglob(f"find/{digit * 16}/augment/images.parquet"):
        path.write_bytes(b"x")
    older = build(root, folder, tmp_path / "site")
    told = [note.text for note in older.one("section", id="tables").all("dd")]
    assert sum("another version of the method" in note for note in told) == 1
    assert not any("not shown:" in note for note in gallery_notes(older))
    assert thumbs(older) == thumbs(page)
    assert cells(older.one("details", class_="flagged")) == cells(page.one("details"))


def test_shots_of_other_data_are_not_shown(contest, tmp_path, change_rows):
    root, folder = contest
    change_rows(root, lambda rows: rows.reverse())
    change_rows(root, lambda rows: [row.update(id=row["id"] + "x") for row in rows])
    page = build(root, folder, tmp_path / "site")
    assert any("draw another split" in note for note in gallery_notes(page))
    assert len(sheets(page)) == 2 * 3 and not any(
        alt.startswith("Real shots") for alt in sheets(page)
    )


def test_methods_and_tasks_that_are_gone_keep_their_rows(contest, tmp_path):
    root, folder = contest
    (root / "methods" / "find.py").unlink()
    (root / "tasks" / "shapes.toml").unlink()
    page = build(root, folder, tmp_path / "site")
    assert page.one("div", class_="task").one("h3").text == "shapes-3shot shapes-3shot"
    for classifier in CLASSIFIERS:
        assert table(page, classifier)["find"]["Gain, points"].startswith("+25.0 [")


def test_without_the_control_there_is_no_gain_and_no_contest(contest, tmp_path):
    root, folder = contest
    for path in folder.rglob("none/*/*/*/record.json"):
        path.unlink()
    page = build(root, folder, tmp_path / "site")
    assert verdict(page).startswith("No contest yet")
    for classifier in CLASSIFIERS:
        figure = page.one("figure", data_classifier=classifier)
        assert figure.one("p").text.startswith("No gain to draw") and not figure.all("svg")
        row = table(page, classifier)["find"]
        assert row["Accuracy, %"].startswith("74.8 [") and row["Gain, points"] == "–"


@pytest.mark.parametrize("missing", [True, False])
def test_without_results_the_page_says_how_to_make_some(shapes, tmp_path, missing):
    folder = tmp_path / "results"
    if not missing:
        folder.mkdir()
    page = build(shapes, folder, tmp_path / "site")
    assert verdict(page).startswith("No results yet")
    commands = page.one("section", aria_labelledby="empty-title").one("code").text
    assert "bench sweep --methods all" in commands
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    assert not page.all("table") and not page.all("a", href="records.csv")


def test_predictions_that_were_changed_are_refused(contest, tmp_path):
    root, folder = contest
    path = next(folder.rglob("paint/*/linear-probe/*/predictions.parquet"))
    made_predictions(N_TEST).to_parquet(path, index=False)
    with pytest.raises(RecordError, match="predictions_hash"):
        build(root, folder, tmp_path / "site")


def test_a_folder_that_cannot_be_written_is_named(shapes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/site"):
        build(shapes, tmp_path / "results", tmp_path / "file" / "site")


def test_the_switch_offers_what_there_is(page):
    offered = [(each["name"], each["value"]) for each in page.all("input")]
    assert offered == [("classifier", "linear-probe"), ("classifier", "resnet-scratch")]
    lone = parse(render(board(section(*BOTH, difference=gain(3, 2, 4))), (), ""))
    assert not lone.all("form")


@pytest.mark.parametrize("name", ["m" * 60, "prompt_simple[a=1,b=2,c=3,d=4,e=5,f=6]", "ü<&>\"'"])
def test_odd_names_are_drawn_and_escaped(name):
    rows = (row(name, "retrieve", 9, tflops=1.0), row("g", "prompt", 6, tflops=1.0), BOTH[2])
    page = parse(render(board(section(*rows, difference=gain(3, 2, 4))), (), ""))
    assert name in table(page, "probe")
    chart = page.one("section", id="contrast").all("svg", role="img")[0]
    assert f"The {name} +9.0" in chart["aria-label"]


def test_extreme_numbers_are_drawn():
    rows = [
        row("r", "retrieve", 0, gain=gain(0, 0, 0), tflops=1e-9),
        row("g", "personalize", -100, gain=gain(-100, -100, -100), tflops=1e9),
        row("x", "oracle", 100, gain=gain(100, 100, 100), tflops=3.0),
    ]
    text = render(board(section(*rows, difference=gain(100, 100, 100))), (), "")
    shown = table(parse(text), "probe")
    assert shown["g"]["Gain, points"].startswith("−100.0 [")
    assert shown["x"]["Gain, points"].startswith("+100.0 [")
    assert not re.search(r"\bNaN\b", text)


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
    page = parse(render(board(section(BOTH[0], BOTH[2])), (), "2026-11-22"))
    figure = page.one("section", id="contrast").all("figcaption")[0]
    for told in (verdict(page), figure.text):
        assert "no diffusion method has a gain" in told


def test_many_classes_are_folded_away_and_very_many_left_out(contest, tmp_path, monkeypatch):
    root, folder = contest
    monkeypatch.setattr(gallery, "PER_TABLE", 1)
    folded = build(root, folder, tmp_path / "a").one("div", class_="gallery").one("details")
    assert folded.one("summary").text == "2 more classes" and len(folded.all("table")) == 2
    monkeypatch.setattr(gallery, "PER_TABLE", 2)
    monkeypatch.setattr(gallery, "MAX_SHEETS", 1)
    page = build(root, folder, tmp_path / "b")
    assert gallery_notes(page)[0].startswith("1 more class is not shown")
    assert sheets(page) and not any("blue square" in alt for alt in sheets(page))
