"""The scripts that make the pocket: training lowers the loss, resumes, and starts from weights."""

import inspect
import os
import signal

import numpy as np
import pytest

from benchmark.home import cache_folder

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


def test_a_run_continues_given_weights_and_their_curve(script, tmp_path):
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


def test_weight_decay_excludes_biases(script):
    import torch

    matrices, vectors = script("_training").decay_groups(torch.nn.Linear(3, 2), 0.1)
    assert [p.shape for p in matrices["params"]] == [(2, 3)]
    assert [p.shape for p in vectors["params"]] == [(2,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


def test_states_are_kept_in_the_cache_by_default(script):
    for name in ("train_clip", "train_vae", "train_unet"):
        work = inspect.signature(script(name).train).parameters["work"].default
        assert work.is_relative_to(cache_folder())


# --- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "capabilities", "expected"),
    [
        ("auto", {}, False),
        ("auto", {"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ("auto", {"avx512_bf16": True}, True),
        ("auto", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("auto", {"neon": True, "bf16": True}, True),
        ("bf16", {"avx512_bf16": False}, True),
        ("fp32", {"avx512_bf16": True}, False),
    ],
)
def test_bf16_is_used_where_the_processor_has_units_or_it_is_forced(
    script, precision, capabilities, expected
):
    import torch

    training = script("_training")
    chosen = training.uses_bf16(training.Precision(precision), torch.device("cpu"), capabilities)
    assert chosen is expected


@pytest.mark.parametrize("bf16", [True, False])
def test_the_unet_computes_in_the_chosen_precision(script, bf16):
    from types import SimpleNamespace

    import torch

    dtypes = []

    class Linear(torch.nn.Linear):
        def forward(self, noisy, timesteps, embeddings):
            predicted = super().forward(noisy)
            dtypes.extend([predicted.dtype, embeddings.dtype])
            return SimpleNamespace(sample=predicted)

    unet_script = script("train_unet")
    batch = unet_script.Batch(
        latents=torch.zeros(2, 4, 8, 8),
        noise=torch.ones(2, 4, 8, 8),
        embeddings=torch.zeros(2, 32, 3, dtype=torch.float16),
        timesteps=torch.tensor([0, 999]),
    )
    loss = unet_script.Denoising(torch.device("cpu"), bf16)(Linear(8, 8), batch)
    assert dtypes == [torch.bfloat16 if bf16 else torch.float32, torch.float32]
    assert loss.dtype == torch.float32


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


def test_standardized_latents_decode_to_the_same_pictures(script):
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
    batch = unet_script.sample_batch(data, 2000, torch.Generator().manual_seed(0))
    mirrored = batch.latents.mean((1, 2, 3))
    dropped = 1 - batch.embeddings.mean((1, 2))
    assert mirrored.mean().item() == pytest.approx(unet_script.MIRROR_RATE, abs=0.04)
    assert dropped.mean().item() == pytest.approx(unet_script.UNCONDITIONAL_RATE, abs=0.03)
    assert (batch.timesteps.min() < 20, batch.timesteps.max() > 980) == (True, True)
    fixed = unet_script.Latents(
        data.images, data.prompts, data.embeddings, data.cumulative, ~data.mirrorable
    )
    batch = unet_script.sample_batch(fixed, 200, torch.Generator().manual_seed(0))
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
def test_training_lowers_the_loss_and_resumes_exactly(script, name, steps, lr, tmp_path):
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


@pytest.fixture
def earlier_training(script, tmp_path):
    """The weights of a training to continue, without its optimizer: options of train_unet."""
    import torch
    from safetensors.torch import save_file

    unet_script = script("train_unet")
    torch.manual_seed(0)
    unet = unet_script.UNet2DConditionModel(**unet_script.UNET).half()
    unet.save_pretrained(tmp_path / "unet_ema")
    raw = {name: value * 1.01 for name, value in unet.state_dict().items()}
    save_file(raw, tmp_path / "unet_raw.safetensors")
    curve = [(20, "training", 0.3), (40, "training", 0.2), (60, "training", 0.1)]
    script("_training").write_history(curve, tmp_path / "loss.csv")
    return {
        "init": tmp_path / "unet_ema",
        "init_raw": tmp_path / "unet_raw.safetensors",
        "init_log": tmp_path / "loss.csv",
        "init_step": 40,
    }


def test_a_start_from_weights_warms_up_again(script, earlier_training, tmp_path):
    import torch
    from safetensors.torch import load_file

    names = ("init", "init_raw", "init_step", "init_log")
    start = script("train_unet").Start(*(earlier_training[name] for name in names))
    recipe = script("_training").Recipe(4e-4, until_step=1000)
    run = start.run(recipe, tmp_path / "work", 0, torch.device("cpu"))
    raw = load_file(earlier_training["init_raw"])
    averaged = load_file(earlier_training["init"] / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(x, raw[name].float()) for name, x in run.model.state_dict().items())
    assert all(
        torch.equal(x, averaged[name].float()) for name, x in run.averaged.state_dict().items()
    )
    assert run.history == [(20, "training", 0.3), (40, "training", 0.2)]
    assert run.step == 40
    assert run.learning_rate() == pytest.approx(4e-4 / 300)
    run.step = 339
    assert run.learning_rate() == pytest.approx(4e-4)


def test_a_training_from_weights_resumes_exactly(script, earlier_training, tmp_path):
    import torch

    def train_until(step, work):
        script("train_unet").train(
            work=tmp_path / work,
            until_step=step,
            decay_steps=0,
            batch=4,
            limit=8,
            evaluation_images=8,
            threads=1,
            **earlier_training,
        )
        return torch.load(tmp_path / work / "state.pt", weights_only=True)

    whole = train_until(42, "whole")
    assert train_until(41, "cut")["step"] == 41
    resumed = train_until(42, "cut")
    assert whole["step"] == resumed["step"] == 42
    for weights in ("raw", "ema"):
        assert all(torch.equal(x, resumed[weights][name]) for name, x in whole[weights].items())
    lines = (tmp_path / "cut/training-loss.csv").read_text().splitlines()
    assert lines[:3] == ["step,series,loss", "20,training,0.30000", "40,training,0.20000"]
    assert [line.partition(",")[0] for line in lines[3:]] == ["40"] * 6 + ["41"] * 7 + ["42"] * 7


@pytest.mark.parametrize("options", [{"raw": "raw.safetensors"}, {"step": 40}, {"log": "loss.csv"}])
def test_what_describes_initial_weights_is_refused_without_them(script, options):
    with pytest.raises(Exception, match="add --init FOLDER"):
        script("train_unet").Start(**options)


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
