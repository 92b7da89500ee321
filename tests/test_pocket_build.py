"""The scripts that make the pocket: their pure parts, and that training lowers the loss."""

import gzip
import importlib
import io
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

POCKET = Path(__file__).parents[1] / "pocket"
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


@pytest.fixture(scope="module", autouse=True)
def build_scripts_importable():
    """The scripts import one another by name, as they do when one of them is run."""
    folder = str(POCKET / "build")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture
def script():
    return importlib.import_module


@pytest.fixture
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


# --- training runs -------------------------------------------------------------------------------


def line_run(script, work, **recipe):
    """A run that fits y = 2x with one weight, and its loss and evaluation."""
    import torch

    training = script("_training")
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    recipe = training.Recipe(**{"learning_rate": 0.05, "until_step": 12, "decay_steps": 4} | recipe)

    def loss(network, generator):
        x = torch.rand(8, 1, generator=generator)
        return (network(x) - 2 * x).pow(2).mean()

    def evaluate(network):
        return {"line": (network(torch.ones(1, 1)) - 2).pow(2).item()}

    return training.Run(model, recipe, work, seed=3), loss, evaluate


def test_learning_rate_warms_up_stays_and_decays(script, tmp_path):
    run, _, _ = line_run(script, tmp_path, warmup_steps=4, until_step=20, decay_steps=10)
    rates = []
    for run.step in range(20):
        rates.append(run.learning_rate() / run.recipe.learning_rate)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:11] == pytest.approx([1.0] * 7)
    assert rates[15] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[19] < 0.03


def test_an_interrupted_run_ends_as_an_uninterrupted_one(script, tmp_path):
    whole, loss, evaluate = line_run(script, tmp_path / "whole")
    whole.fit(loss, evaluate, log_every=5)

    cut, _, _ = line_run(script, tmp_path / "cut")

    def interrupted(network, generator):
        if cut.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(network, generator)

    assert not cut.resume()
    cut.fit(interrupted, evaluate, log_every=5)
    assert cut.step == 7
    resumed, _, _ = line_run(script, tmp_path / "cut")
    assert resumed.resume()
    resumed.fit(loss, evaluate, log_every=5)

    assert resumed.step == whole.step == 12
    assert resumed.history == whole.history
    for ours, theirs in ((resumed.model, whole.model), (resumed.averaged, whole.averaged)):
        assert {k: v.tolist() for k, v in ours.state_dict().items()} == {
            k: v.tolist() for k, v in theirs.state_dict().items()
        }
    curves = [(tmp_path / name / "training-loss.csv").read_text() for name in ("whole", "cut")]
    assert curves[0] == curves[1]


def test_finish_file_begins_the_decay_and_ends_the_run(script, tmp_path):
    run, loss, evaluate = line_run(script, tmp_path, until_step=100_000, decay_steps=50)
    (tmp_path / "FINISH").write_text("6\n")
    run.fit(loss, evaluate)
    assert (run.step, run.decay_from, run.decay_until) == (6, 0, 6)

    again, _, _ = line_run(script, tmp_path, until_step=100_000, decay_steps=50)
    again.resume()
    again.fit(loss, evaluate)
    assert again.step == 6


def test_a_run_goes_on_from_given_weights_and_their_curve(script, tmp_path):
    training = script("_training")
    old = [(0, "training", 3.0), (40, "training", 1.5), (60, "training", 1.0)]
    training.write_history(old, tmp_path / "old.csv")
    history = training.read_history(tmp_path / "old.csv", 40)
    first, loss, evaluate = line_run(script, tmp_path, until_step=45, warmup_steps=10)
    run = training.Run(first.model, first.recipe, tmp_path / "new", start_step=40, history=history)
    assert run.learning_rate() == pytest.approx(0.05 / 10)
    run.fit(loss, evaluate)
    assert run.step == 45
    assert run.history[:2] == old[:2]
    assert run.history[2][:2] == (40, "line (raw)")


def test_weight_decay_spares_biases(script):
    import torch

    matrices, vectors = script("_training").decay_groups(torch.nn.Linear(3, 2), 0.1)
    assert [p.shape for p in matrices["params"]] == [(2, 3)]
    assert [p.shape for p in vectors["params"]] == [(2,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


# --- objectives ----------------------------------------------------------------------------------


def test_multi_positive_loss(script):
    import torch

    loss = script("train_clip").multi_positive_loss
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    same, apart = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    # Both positives of the first caption share the probability: the entropy of two is the floor.
    assert loss(logits, same).item() == pytest.approx(2 / 3 * np.log(2), abs=1e-3)
    plain = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    assert loss(logits, apart).item() == pytest.approx(plain.item())


def test_augmentation_keeps_shape_and_range(script):
    import torch

    clip = script("train_clip")
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(1)
        moved = clip.random_affine(images, torch.tensor([True, False] * 3), generator)
        drawn.append(clip.random_colour(moved, generator))
    assert drawn[0].shape == images.shape
    assert 0 <= drawn[0].min() < drawn[0].max() <= 1
    assert torch.equal(*drawn)
    assert not torch.allclose(drawn[0], images, atol=0.05)


def test_standardized_latents_decode_to_the_same_pictures(script, one_thread):
    import torch

    vae_script = script("train_vae")
    torch.manual_seed(0)
    vae = vae_script.AutoencoderKL(**vae_script.VAE | {"block_out_channels": (16, 16, 16)})
    images = torch.rand(12, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        decoded = vae.decode(before.mean).sample
        deviation = before.mean.std((0, 2, 3))
        vae_script.standardize_latents(vae, images)
        after = vae.encode(images).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    expected = before.std / deviation.view(1, -1, 1, 1)
    assert torch.allclose(after.std, expected, rtol=1e-3)


def test_noise_prediction_is_weighted_by_min_snr(script):
    import torch

    unet_script = script("train_unet")
    objective = unet_script.Denoising(torch.device("cpu"))
    snr = objective.alphas / (1 - objective.alphas)
    assert objective.weights[snr <= 5].unique().tolist() == [1.0]
    assert torch.allclose((objective.weights * snr)[snr > 5], torch.tensor(5.0))


def test_batches_drop_captions_and_mirror_what_may_be_mirrored(script):
    import torch

    unet_script = script("train_unet")
    count = 50
    data = unet_script.Latents(
        images=torch.arange(2.0).view(1, 2, 1, 1, 1).expand(count, 2, 4, 8, 8),
        prompts=torch.zeros(count, 5, dtype=torch.long),
        embeddings=torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 32, 3),
        cumulative=torch.linspace(1 / count, 1, count, dtype=torch.double),
        mirrorable=torch.ones(count, dtype=torch.bool),
    )
    batch = unet_script.draw_batch(data, 2000, torch.Generator().manual_seed(0))
    mirrored = batch.latents.mean((1, 2, 3))
    dropped = 1 - batch.embeddings.mean((1, 2))
    assert mirrored.mean().item() == pytest.approx(unet_script.MIRROR_RATE, abs=0.04)
    assert dropped.mean().item() == pytest.approx(unet_script.UNCONDITIONAL_RATE, abs=0.03)
    assert (batch.timesteps.min() < 20, batch.timesteps.max() > 980) == (True, True)
    fixed = unet_script.Latents(
        data.images, data.prompts, data.embeddings, data.cumulative, ~data.mirrorable
    )
    batch = unet_script.draw_batch(fixed, 200, torch.Generator().manual_seed(0))
    assert batch.latents.abs().max() == 0


# --- the three scripts ---------------------------------------------------------------------------


def run_script(script, name, work, until_step, lr):
    """A few steps on a few pictures at a constant learning rate; the series of one evaluation."""
    script(name).train(
        work=work,
        until_step=until_step,
        decay_steps=0,
        warmup_steps=0,
        lr=lr,
        batch=8,
        limit=16,
        evaluation_images=16,
        log_every=1000,
        threads=1,
    )
    history = script("_training").read_history(work / "training-loss.csv", until_step)
    return [loss for _, series, loss in history if series == "corpus (raw)"]


@pytest.mark.parametrize(
    ("name", "steps", "lr"),
    [("train_clip", 8, 2e-4), ("train_vae", 4, 1e-3), ("train_unet", 4, 1e-3)],
)
def test_training_lowers_the_loss_and_resumes_exactly(
    script, name, steps, lr, tmp_path, one_thread
):
    import torch

    losses = run_script(script, name, tmp_path / "whole", steps, lr)
    assert losses[-1] < losses[0]
    run_script(script, name, tmp_path / "cut", steps // 2, lr)
    run_script(script, name, tmp_path / "cut", steps, lr)
    whole, cut = (
        torch.load(tmp_path / folder / "state.pt", weights_only=True) for folder in ("whole", "cut")
    )
    assert whole["step"] == cut["step"] == steps
    assert all(torch.equal(whole["raw"][key], cut["raw"][key]) for key in whole["raw"])
    assert all(torch.equal(whole["ema"][key], cut["ema"][key]) for key in whole["ema"])

    if name == "train_clip":
        check_clip_folder(tmp_path / "whole")
    elif name == "train_unet":
        check_shipping(script, tmp_path / "whole")


def check_clip_folder(work):
    """The written folder is one that OpenCLIP reads, and the text encoder is its text tower."""
    import open_clip
    import torch
    from transformers import CLIPTextModel

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{work / 'clip'}")
    ids = open_clip.get_tokenizer(f"local-dir:{work / 'clip'}")(["a photo of a coat", ""])
    encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval()
    with torch.no_grad():
        expected = model.eval().encode_text(ids)
        pooled = encoder(ids).pooler_output @ model.text_projection
    assert encoder.dtype == torch.float32
    assert (pooled - expected).abs().max() < 1e-3


def check_shipping(script, work):
    """The shipped folder holds the averaged weights in half precision."""
    import torch
    from safetensors.torch import load_file

    ship = script("ship_unet")
    assert ship.write_unet(work / "state.pt", ship.Weights.ema, work / "shipped") == 4
    shipped = load_file(work / "shipped/diffusion_pytorch_model.safetensors")
    averaged = torch.load(work / "state.pt", weights_only=True)["ema"]
    assert shipped.keys() == averaged.keys()
    assert all(torch.equal(shipped[key], averaged[key].half()) for key in averaged)


def test_loss_chart_has_a_line_for_every_series(script, tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    history = [
        (step, series, 1 / step) for step in (1, 2) for series in ("training", "corpus (ema)")
    ]
    script("_training").write_history(history, tmp_path / "loss.csv")
    script("plot_loss").plot(tmp_path / "loss.csv", tmp_path / "loss.svg")
    svg = (tmp_path / "loss.svg").read_text()
    assert svg.startswith("<svg")
    assert "in training" in svg
    assert "averaged" in svg


def test_sample_sheet_is_a_labelled_grid(script):
    from PIL import Image

    make = script("make_samples")
    tiles = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    sheet = make.sheet([("one", tiles), ("two", tiles[::-1])])
    assert sheet.size == (make.LABEL_WIDTH + 3 * 64, 128)
    assert sheet.getpixel((make.LABEL_WIDTH + 10, 10)) == (255, 0, 0)
    assert sheet.getpixel((make.LABEL_WIDTH + 10, 100)) == (0, 255, 0)
    assert sheet.crop((0, 0, make.LABEL_WIDTH, 64)).getextrema()[0][0] == 0


def test_measurements_replace_those_in_the_card(script, tmp_path):
    measure, card = script("measure"), tmp_path / "CARD.md"
    card.write_text(f"before\n{measure.BEGIN}old\n{measure.END}after\n")
    measure.write_table(measure.table({"loss": 0.09331}, 6300), card)
    lines = card.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "| loss | 0.09331 |" in lines
    assert "| UNet: step | 6300 |" in lines
    assert "old" not in lines
    card.write_text("no marks")
    with pytest.raises(ValueError, match=r"CARD\.md lacks <!-- measured"):
        measure.write_table("", card)
