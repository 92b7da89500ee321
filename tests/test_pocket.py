"""The shipped data and models are what their cards say."""

import hashlib
import re
from pathlib import Path

import pytest

POCKET = Path(__file__).parents[1] / "pocket"
CORPUS = "corpus/train.parquet"
OPENMOJI = "heldout/openmoji.parquet"
EMOJIONE = "heldout/emojione-v1.parquet"
SHOTS = "heldout/fashion-mnist-train.parquet"
TEST = "heldout/fashion-mnist-test.parquet"

CAPTIONED = ["id", "image", "caption", "source", "license"]
DESIGN = ["id", "image", "caption", "subgroup", "source", "license"]
LABELLED = ["id", "image", "label", "class_name", "source", "license"]
FILES = {
    CORPUS: (24_679, CAPTIONED),
    OPENMOJI: (2_531, DESIGN),
    EMOJIONE: (1_259, DESIGN),
    SHOTS: (2_000, LABELLED),
    TEST: (3_000, LABELLED),
}
SOURCES = {
    "emojione": (1_406, "CC-BY-4.0"),
    "fashion-mnist": (12_000, "MIT"),
    "fluent-emoji": (1_591, "MIT"),
    "fluent-emoji-flat": (1_591, "MIT"),
    "fxemoji": (1_034, "Apache-2.0"),
    "noto": (1_766, "Apache-2.0"),
    "noto-v1": (1_257, "Apache-2.0"),
    "openclipart": (1_933, "CC0-1.0"),
    "twemoji": (2_101, "CC-BY-4.0"),
}
HELDOUT_LICENSES = {
    OPENMOJI: "CC-BY-SA-4.0",
    EMOJIONE: "CC-BY-SA-4.0",
    SHOTS: "MIT",
    TEST: "MIT",
}
CLASSES = [
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]
MAX_FILE_BYTES = 30_000_000


def read(file, columns=None):
    import pandas as pd

    return pd.read_parquet(POCKET / file, columns=columns)


@pytest.mark.parametrize("file", FILES)
def test_rows_and_columns(file):
    frame = read(file)
    rows, columns = FILES[file]
    assert frame.columns.tolist() == columns
    assert len(frame) == rows
    assert frame.drop(columns="subgroup", errors="ignore").notna().all(axis=None)


@pytest.mark.parametrize("file", FILES)
def test_data_card_names_the_rows_columns_and_digest(file):
    card = (POCKET / "DATA_CARD.md").read_text()
    row = re.search(rf"\| `{re.escape(file)}` \| (\d+) \| (.+?) \| `([0-9a-f]{{64}})` \|", card)
    assert row, f"DATA_CARD.md has no row for {file}"
    rows, columns = FILES[file]
    digest = hashlib.sha256((POCKET / file).read_bytes()).hexdigest()
    assert row.groups() == (str(rows), ", ".join(columns), digest)


def test_corpus_sources_and_licenses():
    corpus = read(CORPUS, ["source", "license", "caption"])
    facts = corpus.groupby("source").license.agg(["size", "unique"])
    assert {name: (row["size"], *row["unique"]) for name, row in facts.iterrows()} == SOURCES
    assert corpus.caption.nunique() == 4_248


@pytest.mark.parametrize("file", HELDOUT_LICENSES)
def test_heldout_licenses(file):
    assert read(file, ["license"]).license.unique().tolist() == [HELDOUT_LICENSES[file]]


def test_every_source_is_attributed():
    licenses = (POCKET / "LICENSES.md").read_text()
    card = (POCKET / "DATA_CARD.md").read_text()
    named = {row for file in FILES for row in read(file, ["source"]).source.unique()}
    assert named >= {"openmoji", "emojione-v1"}
    assert [source for source in named if f"`{source}`" not in licenses] == []
    for source, (rows, license_) in SOURCES.items():
        assert f"| `{source}` | corpus | {rows} | {license_} |" in card


def test_ids_are_unique_over_all_files():
    ids = [identity for file in FILES for identity in read(file, ["id"]).id]
    assert len(ids) == len(set(ids)) == sum(rows for rows, _ in FILES.values())


def test_no_heldout_picture_is_in_the_corpus():
    seen = {image["bytes"] for image in read(CORPUS, ["image"]).image}
    for file in HELDOUT_LICENSES:
        assert not seen & {image["bytes"] for image in read(file, ["image"]).image}, file


def test_shots_are_balanced_and_labels_name_the_classes():
    shots, test = read(SHOTS), read(TEST)
    assert shots.label.value_counts().to_dict() == dict.fromkeys(range(10), 200)
    for frame in (shots, test):
        assert frame.groupby("label").class_name.unique().str[0].tolist() == CLASSES
        assert (frame.class_name == frame.label.map(dict(enumerate(CLASSES)))).all()


def test_subgroups_large_enough_for_a_task():
    openmoji = read(OPENMOJI, ["subgroup"]).subgroup
    counts = openmoji.value_counts()
    assert openmoji.isna().sum() == 617
    assert counts["animal-mammal"] == 66
    assert counts["country-flag"] == 259


@pytest.mark.parametrize("file", FILES)
def test_datasets_reads_the_pictures(file, tmp_path):
    import datasets

    rows = datasets.load_dataset(
        "parquet", data_files=str(POCKET / file), split="train", cache_dir=str(tmp_path)
    ).cast_column("image", datasets.Image())
    for i in (0, len(rows) // 2, len(rows) - 1):
        image = rows[i]["image"].convert("RGB")
        assert image.size == (32, 32)
        assert any(low < high for low, high in image.getextrema())


def test_every_picture_is_32x32_rgb():
    import io

    from PIL import Image

    for file in FILES:
        headers = [Image.open(io.BytesIO(x["bytes"])) for x in read(file, ["image"]).image]
        assert {image.size for image in headers} == {(32, 32)}, file
        assert {image.mode for image in headers} <= {"RGB", "P", "L"}, file


def test_no_file_is_too_large_for_a_repository():
    large = [str(f) for f in POCKET.rglob("*") if f.is_file() and f.stat().st_size > MAX_FILE_BYTES]
    assert large == []


@pytest.fixture(scope="module")
def clip():
    """The shipped CLIP, its preprocessing and its tokenizer, as any OpenCLIP folder is read."""
    import open_clip

    folder = f"local-dir:{POCKET / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(folder)
    return model.eval(), preprocess, open_clip.get_tokenizer(folder)


@pytest.fixture(scope="module")
def pipeline():
    """The shipped Stable Diffusion, as any diffusers folder is read."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(POCKET / "stable-diffusion")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def name_images(clip, images):
    """Zero-shot class [N] of PIL images."""
    import torch

    model, preprocess, tokenizer = clip
    with torch.no_grad():
        texts = model.encode_text(tokenizer([f"a photo of a {c}" for c in CLASSES]), normalize=True)
        batch = torch.stack([preprocess(image.convert("RGB")) for image in images])
        return (model.encode_image(batch, normalize=True) @ texts.T).argmax(1)


def test_clip_names_clothes_it_never_saw(clip):
    import io

    import torch
    from PIL import Image

    test = read(TEST, ["image", "label"]).head(500)
    images = [Image.open(io.BytesIO(x["bytes"])) for x in test.image]
    labels = torch.tensor(test.label.tolist())
    assert (name_images(clip, images) == labels).float().mean() > 0.8


def test_tokenizers_of_both_models_agree(clip, pipeline):
    texts = ["a photo of a coat", "an emoji of flag côte d'ivoire", "", "word " * 60]
    ids = pipeline.tokenizer(
        texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
    ).input_ids
    assert clip[2](texts).tolist() == ids.tolist()


def test_text_encoder_is_the_text_tower_of_the_clip(clip, pipeline):
    import torch

    model, _, tokenizer = clip
    ids = tokenizer(["a photo of a coat", "an emoji of red heart", "flag italy", ""])
    with torch.no_grad():
        expected = model.encode_text(ids)
        pooled = pipeline.text_encoder(ids).pooler_output
        difference = (pooled @ model.text_projection - expected).abs().max()
    assert difference < 1e-4 * expected.abs().max()


def test_pipeline_loads_in_single_precision_and_has_unit_latents(pipeline):
    import torch

    parts = (pipeline.vae, pipeline.unet, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 32


def test_autoencoder_keeps_heldout_pictures(pipeline):
    import io

    import torch
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    rows = read(TEST, ["image"]).head(64).image
    images = [Image.open(io.BytesIO(x["bytes"])).convert("RGB") for x in rows]
    batch = torch.stack([to_tensor(image) for image in images]) * 2 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(batch).latent_dist.mean
        decoded = pipeline.vae.decode(latents).sample
    blank = (batch - batch.mean()).abs().mean()
    assert latents.shape == (64, 4, 8, 8)
    assert (decoded - batch).abs().mean() < 0.1 * blank


def test_generated_clothes_are_what_was_asked_for(clip, pipeline):
    import torch

    images = pipeline(
        [f"a photo of a {c}" for c in CLASSES for _ in range(2)],
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    ).images
    asked = torch.arange(len(CLASSES)).repeat_interleave(2)
    assert {image.size for image in images} == {(32, 32)}
    assert (name_images(clip, images) == asked).float().mean() > 0.7
