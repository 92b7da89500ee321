"""Images per second of ``Generator.text_to_image`` against one plain diffusers call per image.

The model, prompts, seeds, steps and guidance are the same.

    python perf/generation.py --images 128 --threads 2
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmark.home import find_root
from benchmark.protocol import load_protocol
from benchmark.upstream import open_upstream

TARGET = 5.0


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    root = find_root()
    spec = load_protocol(root).upstream_named(arguments.upstream)
    generator = open_upstream(arguments.upstream, spec, root, arguments.device).generator
    plain = plain_pipeline(
        str(root / spec.generator.model), generator.device, generator.pipeline.dtype
    )
    guidance = {"guidance_scale": arguments.guidance_scale}
    words = ["dress", "coat", "bag", "sneaker", "horse", "flag of Italy", "smiling face", "pizza"]
    prompts = [f"a photo of a {words[row % len(words)]}" for row in range(arguments.images)]

    def batched(count: int) -> list[np.ndarray]:
        batches = generator.text_to_image(
            prompts[:count], [0] * count, range(count), size=generator.size,
            steps=arguments.steps, **guidance,
        )  # fmt: skip
        return [image for batch in batches for image in batch.pixels]

    def one_by_one(count: int) -> list[np.ndarray]:
        return [
            np.asarray(
                plain(
                    prompt, height=generator.size, width=generator.size,
                    num_inference_steps=arguments.steps,
                    generator=torch.Generator().manual_seed(seed), **guidance,
                ).images[0]
            )
            for seed, prompt in enumerate(prompts[:count])
        ]  # fmt: skip

    few = min(arguments.plain_images, arguments.images)
    # also the warm-up of both
    difference = np.abs(np.subtract(batched(2), one_by_one(2), dtype=int)).max()
    fast, slow = _rate(batched, arguments.images), _rate(one_by_one, few)
    print(f"one call per image      {slow:8.2f} images/s   ({few} images)")
    print(f"batches of {generator.batch_size:<4}         {fast:8.2f} images/s   "
          f"({arguments.images} images)")  # fmt: skip
    print(f"ratio                   {fast / slow:8.2f}            (target {TARGET:g})")
    print(f"largest difference      {difference:8d} of 255")
    facts = {"plain": slow, "batched": fast, "ratio": fast / slow, "target": TARGET}
    print(json.dumps(facts | vars(arguments) | {"batch_size": generator.batch_size}))


def _rate(generate: Callable[[int], list[np.ndarray]], count: int) -> float:
    """Images per second, the better of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        generate(count)
        seconds.append(time.perf_counter() - started)
    return count / min(seconds)


def plain_pipeline(source: str, device: str, dtype: torch.dtype):
    """The pipeline with its defaults, on a device and in a precision."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", default=load_protocol(find_root()).defaults.upstream)
    parser.add_argument("--images", type=int, default=128, help="generated in batches")
    parser.add_argument("--plain-images", type=int, default=16, help="generated one by one")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
