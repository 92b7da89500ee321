"""The scripts that make the pocket: their pure parts, from sources to packed rows."""

import gzip
import io

import numpy as np
import pytest

ICONS = {
    "icons": {
        "flag-for-flag-italy": {"body": "<path id='f'/>"},
        "red_heart": {"body": "<path id='h'/>", "width": 20, "left": -2},
        "waving-hand-medium-dark": {"body": "<path/>"},
        "ear-skin-tone-2": {"body": "<path/>"},
    },
    "width": 32,
    "height": 24,
}


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("grinning-cat", "grinning cat"),
        ("flag-for-italy", "flag italy"),
        ("flag-for-flag-italy", "flag italy"),
        ("a__b--c_", "a b c"),
    ],
)
def test_captions_are_words(script, name, caption):
    assert script("_sources").clean_caption(name) == caption


def test_icon_drawings_leave_out_skin_tones_and_keep_order(script):
    drawings = list(script("_sources").icon_drawings("noto", ICONS))
    assert [(d.id, d.caption) for d in drawings] == [
        ("noto/flag-for-flag-italy", "flag italy"),
        ("noto/red_heart", "red heart"),
    ]


def test_icon_svg_takes_the_size_of_the_icon_then_of_the_set(script):
    svg = script("_sources").icon_svg
    assert 'viewBox="0 0 32 24" width="32" height="24"' in svg(ICONS, "flag-for-flag-italy")
    assert 'viewBox="-2 0 20 24" width="20" height="24"' in svg(ICONS, "red_heart")
    assert svg(ICONS, "red_heart").endswith("><path id='h'/></svg>")
    with pytest.raises(KeyError, match="no-such-icon"):
        svg(ICONS, "no-such-icon")


def test_clip_art_caption_is_title_and_six_keywords(script):
    caption = script("_sources").clip_art_caption
    keywords = "".join(f"<rdf:li> k{i} </rdf:li>" for i in range(9))
    titled = f"<dc:title>Old_Car </dc:title>{keywords}"
    assert caption(titled, "car_01") == "old car k0 k1 k2 k3 k4 k5"
    assert caption("<dc:title>Open Clip Art Library</dc:title>", "red-car_01") == "red car 01"
    assert caption("", "x" * 500) == "x" * 120


def test_clip_art_folders_and_sizes(script, tmp_path):
    sources = script("_sources")
    for name in ("animals/cat.svg", "shapes/star.svg", "tools/saw.svg", "tools/weapons/gun.svg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"<svg><dc:title>{name}</dc:title></svg>")
    (tmp_path / "animals/huge.svg").write_text("x" * (sources.CLIP_ART_MAX_CHARACTERS + 1))
    names = [drawing.name for drawing in sources.clip_art_drawings(tmp_path)]
    assert names == ["animals/cat", "tools/saw"]


def test_unicode_subgroups_by_icon_name(script):
    emoji = [
        {"hexcode": "2764-FE0F", "subgroup": 7},
        {"hexcode": "1F1EE-1F1F9", "subgroup": 9},
        {"hexcode": "1F3FB"},
    ]
    names = {"7": "emotion", "9": "country-flag"}
    first = {"2764": "red-heart", "1f1ee-1f1f9": "flag-for-flag-italy", "1f3fb": "light"}
    second = {"1f1ee-1f1f9": "red-heart", "2764-fe0f": "heart"}
    assert script("_sources").unicode_subgroups(emoji, names, [first, second]) == {
        "red-heart": "emotion",
        "flag-italy": "country-flag",
        "heart": "emotion",
    }


def test_read_fashion_mnist(script, tmp_path):
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for kind, header, data in (("images-idx3", 16, pixels), ("labels-idx1", 8, np.uint8([9, 0]))):
        content = gzip.compress(bytes(header) + data.tobytes())
        (tmp_path / f"t10k-{kind}-ubyte.gz").write_bytes(content)
    images, labels = script("_sources").read_fashion_mnist(tmp_path, "t10k")
    assert (images == pixels).all()
    assert labels.tolist() == [9, 0]
    content = gzip.compress(bytes(8) + bytes([10, 0]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="t10k"):
        script("_sources").read_fashion_mnist(tmp_path, "t10k")


def test_render_draws_on_white_and_refuses_nothing_and_nonsense(script):
    pytest.importorskip("resvg_py")
    render = script("_sources").render
    frame = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4" width="4" height="4">{}</svg>'
    )
    image = render(frame.format('<rect x="1" y="1" width="2" height="2" fill="#f00"/>'))
    assert (image.size, image.mode) == ((32, 32), "RGB")
    red, green, blue = image.getpixel((16, 16))
    assert red > 240
    assert max(green, blue) < 20
    assert min(image.getpixel((1, 1))) > 240
    assert render(frame.format("")) is None
    assert render("this is no drawing") is None


def test_encode_is_lossless(script):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for array in (pixels, np.full_like(pixels, 200)):
        file = script("_sources").encode(Image.fromarray(array))
        assert (np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) == array).all()


# --- packing -------------------------------------------------------------------------------------


def test_shots_are_balanced_and_not_taken(script):
    labels = np.arange(200) % 10
    taken = range(100)
    shots = script("make_corpus").choose_shots(labels, taken, 3, np.random.default_rng(0))
    assert labels[shots].tolist() == [c for c in range(10) for _ in range(3)]
    assert len(set(shots)) == 30
    assert min(shots) >= 100


def test_written_rows_are_read_as_images(script, tmp_path):
    import datasets

    make = script("make_corpus")
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[:, 9:20, 9:20] = 255
    rows = make.fashion_rows(pixels, np.uint8([4, 9]), "train", [1, 0])
    make.write(rows, make.FASHION_COLUMNS, tmp_path / "a.parquet", 100)
    read = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "a.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    ).cast_column("image", datasets.Image())
    assert read["id"][:] == ["fashion-mnist/train-1", "fashion-mnist/train-0"]
    assert read["class_name"][:] == ["ankle boot", "coat"]
    assert read["license"][:] == ["MIT", "MIT"]
    assert read[0]["image"].size == (32, 32)


def test_caption_weights_temper_frequency(script):
    weights = script("_corpus").caption_weights(["coat"] * 4 + ["cat"], power=0.5)
    assert weights.tolist() == pytest.approx([1 / 6] * 4 + [1 / 3])


@pytest.mark.parametrize("source", ["fashion-mnist", "openclipart", "noto", "unheard-of"])
def test_caption_variants_begin_with_the_caption(script, source):
    variants = script("_corpus").caption_variants("old car", source)
    assert len(variants) == 5
    assert variants[0] == "old car"
    assert all("old car" in variant for variant in variants)


def test_flags_and_letters_are_not_mirrored(script):
    mirrorable = script("_corpus").is_mirrorable
    assert [mirrorable(c) for c in ("flag italy", "input alphabet", "tiger")] == [
        False,
        False,
        True,
    ]


# --- tokenizer -----------------------------------------------------------------------------------


def test_tokenizer_merges_frequent_words_and_keeps_every_byte(script, tmp_path):
    make = script("make_tokenizer")
    texts = ["Red  heart", "red heart", "red car", "heart"] * 5
    vocabulary, merges = make.train_bpe(texts, 530)
    assert (vocabulary, merges) == make.train_bpe(texts, 530)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert list(vocabulary)[-2:] == [make.START, make.END]
    assert len(vocabulary) <= 530
    tokenizer = make.write_tokenizer(vocabulary, merges, tmp_path)
    assert tokenizer.tokenize("RED heart") == ["red</w>", "heart</w>"]
    ids = tokenizer("zebra é 7", padding="max_length", max_length=32).input_ids
    assert tokenizer.unk_token_id not in ids[1 : ids.index(tokenizer.eos_token_id)]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "zebra é 7"
    assert len(ids) == 32
