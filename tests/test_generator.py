"""The generator on the pocket's Stable Diffusion: images, provenance, cost, damaged files."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from benchmark.errors import ConfigError, DataError, MethodError
from benchmark.flops import count_flops
from benchmark.meter import Meter
from benchmark.upstream import Upstream, open_upstream
from benchmark.upstream.adapters import unfrozen
from benchmark.upstream.generator import Generator, to_pixels
from tests.helpers.files import damage
from tests.helpers.trials import budget
from tests.helpers.upstreams import small_spec


@pytest.fixture(scope="module")
def upstream(root) -> Upstream:
    return open_upstream("small", small_spec(root), root, "cpu")


PROMPTS = ["a photo of a dress", "a photo of a bag", "a photo of a sneaker", "a photo of a coat"]


def generate(generator: Generator, count: int = 4, **changes) -> tuple[np.ndarray, list]:
    asked = {"size": 32, "guidance_scale": 3.0, "steps": 2} | changes
    batches = list(
        generator.text_to_image(PROMPTS[:count], range(count), range(10, 10 + count), **asked)
    )
    told = [row for batch in batches for row in batch.provenance]
    assert [label for batch in batches for label in batch.labels] == list(range(count))
    return np.concatenate([batch.pixels for batch in batches]), told


def test_an_image_is_what_the_pipeline_makes_of_its_prompt_and_seed(upstream):
    generator = upstream.generator
    pixels, _ = generate(generator)
    for row, prompt in enumerate(PROMPTS):
        plain = generator.pipeline(
            prompt,
            height=32,
            width=32,
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(10 + row),
        ).images[0]
        difference = np.asarray(plain).astype(int) - pixels[row]
        assert abs(difference).max() <= 1  # rounding: the batch is another


def test_provenance_says_how_to_make_an_image_again(upstream):
    _, told = generate(upstream.generator)
    assert [row.prompt for row in told] == PROMPTS
    assert [row.seed for row in told] == [10, 11, 12, 13]
    assert {(row.origin, row.guidance_scale, row.source) for row in told} == {
        ("generated", 3.0, upstream.generator.name)
    }
    assert upstream.generator.hash[:12] in upstream.generator.name


@pytest.mark.parametrize(("guidance", "nfe"), [(3.0, 4), (1.0, 2)])
def test_guidance_doubles_the_evaluations(upstream, guidance, nfe):
    meter = Meter(budget(), 4)
    with upstream.metered(meter):
        _, told = generate(upstream.generator, 3, guidance_scale=guidance)
    assert [row.nfe for row in told] == [nfe] * 3
    assert (meter.total().nfe, meter.total().images) == (3 * nfe, 3)


def test_sampling_is_the_upstreams_where_a_call_does_not_say(root, upstream):
    """Steps and guidance apart: each is the call's, or the upstream's."""
    sampling = {"steps": 2, "guidance_scale": 1.0}
    spec = small_spec(root, generator={"sampling": sampling}).generator
    generator = Generator(spec, root)
    both = [{}, {"steps": 4}, {"guidance_scale": 3.0}, {"steps": 4, "guidance_scale": 3.0}]
    for given in both:
        explicit = {"steps": 2, "guidance_scale": 1.0} | given
        asked = {"steps": None, "guidance_scale": None} | given
        pixels, rows = generate(generator, 2, **asked)
        expected, known = generate(upstream.generator, 2, **explicit)
        assert np.array_equal(pixels, expected)
        assert [(row.nfe, row.guidance_scale) for row in rows] == [
            (row.nfe, row.guidance_scale) for row in known
        ]
        assert generator.estimate_tflops(3, **given) == upstream.generator.estimate_tflops(
            3, **explicit
        )
    image = np.zeros((1, 32, 32, 3), np.uint8)
    (edited,) = generator.image_to_image(image, ["a bag"], [0], [1], strength=1.0, size=32)
    assert (edited.provenance[0].nfe, edited.provenance[0].guidance_scale) == (2, 1.0)


def test_the_scheduler_is_the_one_that_is_named(root):
    named = {"steps": 2, "guidance_scale": 1.0, "scheduler": "EulerDiscreteScheduler"}
    generator = Generator(small_spec(root, generator={"sampling": named}).generator, root)
    assert type(generator.pipeline.scheduler).__name__ == named["scheduler"]
    generate(generator, 1)
    wrong = {"scheduler": "EulerScheduler"}
    with pytest.raises(ConfigError, match="no 'EulerScheduler'; nearest: .*EulerDiscreteScheduler"):
        Generator(small_spec(root, generator={"sampling": wrong}).generator, root)


def test_other_sizes_and_negative_prompts(upstream):
    pixels, _ = generate(upstream.generator, 2, size=24, negative_prompt="blue")
    plain, _ = generate(upstream.generator, 2)
    assert pixels.shape == (2, 24, 24, 3) and pixels.dtype == np.uint8
    assert not np.array_equal(pixels, plain[:, 4:28, 4:28])


def test_what_is_not_finite_is_refused(upstream):
    broken = torch.zeros(1, 3, 4, 4)
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(MethodError, match="not finite"):
        to_pixels(broken, 4)
    denoiser = upstream.generator.pipeline.unet
    with unfrozen(denoiser, lambda name: name == "conv_out.bias") as (bias,):
        with torch.no_grad():
            bias.fill_(torch.nan)  # as when training diverged
        with pytest.raises(MethodError, match="not finite"):
            generate(upstream.generator, 1)
    generate(upstream.generator, 1)  # whole again


def test_the_cost_of_a_batch_is_exact(upstream):
    pipeline, meter = upstream.generator.pipeline, Meter(budget(), 4)
    with upstream.metered(meter):
        generate(upstream.generator, 4)
    latents, states = torch.zeros(8, 4, 8, 8), torch.zeros(8, 32, 192)
    step = count_flops(pipeline.unet, (latents, 1), {"encoder_hidden_states": states}, False)
    texts = count_flops(pipeline.text_encoder, (torch.zeros(8, 32, dtype=torch.long),), {}, False)
    decoder = pipeline.vae.decoder, pipeline.vae.post_quant_conv
    decoded = sum(count_flops(part, (latents[:4],), {}, False) for part in decoder)
    assert meter.total().tflops * 1e12 == pytest.approx(2 * step + texts + decoded, rel=1e-12)


@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_a_damaged_generator_file_is_named(root, tmp_path, file):
    shutil.copytree(root / "pocket/stable-diffusion", tmp_path / "pocket/stable-diffusion")
    damage(tmp_path / "pocket/stable-diffusion" / file, keep=0.9)
    with pytest.raises(DataError, match=file):
        Generator(small_spec(root).generator, tmp_path)
    (tmp_path / "pocket/stable-diffusion" / file).unlink()
    with pytest.raises(DataError, match="pocket/stable-diffusion"):
        Generator(small_spec(root).generator, tmp_path)


def test_a_generator_that_is_nowhere_is_refused_without_asking_the_network(root, tmp_path):
    with pytest.raises(ConfigError, match="no such file or folder"):
        Generator(small_spec(root).generator, tmp_path)


def test_a_size_that_the_autoencoder_cannot_make_is_refused(root):
    with pytest.raises(ConfigError, match="multiple of 4"):
        Generator(small_spec(root, generator={"size": 30}).generator, root)
