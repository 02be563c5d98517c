"""Full Stable Diffusion 1.5 size with random weights: the loading path, memory and shapes of fit and generate.

    python benchmarks/sd15_size.py [--size 512] [--fit-steps 1] [--folder DIR]

Writes a base folder of the real size (4.3 GB in single precision, 2.1 GB with --half), loads it as `--base` would,
adds a control branch, runs `--fit-steps` control steps and edits one picture, and prints parameters, floating-point
operations of each network, time and peak memory. The pictures are noise: the weights are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from adabldm.core.precision import mixed
from adabldm.core.settings.edit import PRESETS
from adabldm.core.settings.fit import LoopSettings
from adabldm.models import tiny
from adabldm.models.components import Components, decode_latents, encode_images, in_half, moved, new_controlnet
from adabldm.models.conditioning import TextConditioning
from adabldm.models.denoiser import Denoiser
from adabldm.models.store import load_base, save_components
from adabldm.pipeline import AdaBLDMPipeline
from adabldm.training.loop import _State


def sd15_components() -> Components:
    """The published configurations of Stable Diffusion 1.5, with random weights (and the tiny tokenizer)."""
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=0.18215,
    )
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            projection_dim=768,
        )
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Components(vae, text, tiny.tokenizer(), unet, scheduler)


def peak_mb(device: torch.device) -> float:
    """Peak memory so far: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tflop(call: Any) -> float:
    """Floating-point operations of a call, in units of 10¹²."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return round(counter.get_total_flops() / 1e12, 3)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="window in px")
    parser.add_argument("--fit-steps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of the one edit")
    parser.add_argument("--folder", type=Path, help="keep the base here")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts: dict[str, Any] = {"device": str(device), "size": options.size, "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "base"
        if not (folder / "unet").is_dir():
            save_components(sd15_components(), folder)
        began = time.perf_counter()
        components = load_base(str(folder))
        facts["load_seconds"] = round(time.perf_counter() - began, 1)
    components.freeze()
    components.controlnet = new_controlnet(components)
    facts["million_parameters"] = {
        name: round(sum(p.numel() for p in module.parameters()) / 1e6, 1)
        for name, module in components.modules().items()
    }
    for module in components.modules().values():
        module.to(device)
    side = options.size // 8
    latents = torch.randn(1, 4, side, side, device=device)
    text = torch.randn(1, 77, 768, device=device)
    trimap = torch.ones(1, 1, options.size, options.size, device=device) / 2
    image = torch.zeros(1, 3, options.size, options.size, device=device)
    facts["tflop"] = {
        "unet": tflop(lambda: components.unet(latents, 1, encoder_hidden_states=text)),
        "controlnet": tflop(lambda: components.controlnet(latents, 1, text, trimap)),  # type: ignore[misc]
        "encode": tflop(lambda: encode_images(components.vae, image)),
        "decode": tflop(lambda: decode_latents(components.vae, latents)),
    }
    facts["fit"] = fit_steps(components, options.fit_steps, latents, text, trimap)
    facts["fit"]["peak_mb"] = round(peak_mb(device))
    components.freeze()
    pipeline = AdaBLDMPipeline(**vars(components), object_name="part", defects=["dent"], resolution=options.size)
    fast = PRESETS["fast"]
    stages = {"latent_stage": (1, options.steps), "image_stage": (1, options.steps)}
    preset = fast.model_copy(
        update={
            "plan": fast.plan.changed(steps=options.steps, **stages),
            "guidance": fast.guidance.changed(steps=(1, options.steps)),
            "look": None,
        }
    )
    picture = np.full((2 * options.size, 2 * options.size, 3), 120, np.uint8)
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[100:150, 100:150] = 1
    began = time.perf_counter()
    result = pipeline(picture, mask=mask, defect="dent", preset=preset, output_type="np")
    facts["edit"] = {
        "steps": options.steps,
        "seconds": round(time.perf_counter() - began, 1),
        "shape": list(result.images[0].shape),
        "peak_mb": round(peak_mb(device)),
    }
    print(json.dumps(facts, indent=2))


def fit_steps(
    components: Components,
    steps: int,
    latents: torch.Tensor,
    text: torch.Tensor,
    trimap: torch.Tensor,
    *,
    half: bool | None = None,
    micro_batch: int | None = None,
) -> dict[str, Any]:
    """Control steps as `fit` makes them: gradient checkpointing, gradients in the control branch only.

    With `half` (as on a GPU, the default there) the frozen networks are bfloat16, and computing is under autocast. On a
    GPU those that are not needed wait in the host's memory, and with `micro_batch` the moving average too.
    """
    idle = [components.vae, components.text_encoder] if latents.is_cuda else []
    half = latents.is_cuda if half is None else half
    control: Any = components.controlnet
    control.requires_grad_(True).train()
    control.enable_gradient_checkpointing()
    components.unet.enable_gradient_checkpointing()
    settings = LoopSettings(steps=steps, batch_size=len(latents), learning_rate=1e-5)
    short = latents.is_cuda and micro_batch is not None
    state = _State(dict(control.named_parameters()), settings, torch.device("cpu") if short else None)
    denoiser = Denoiser(components)
    began = time.perf_counter()
    size = micro_batch or len(latents)
    with in_half([components.unet, *idle] if half else []), moved(idle, "cpu"):
        for _ in range(steps):
            for noisy, prompts, given in zip(latents.split(size), text.split(size), trimap.split(size), strict=True):
                with mixed(latents.device, enabled=half, cache=False):
                    texts = TextConditioning(prompts)
                    noise = denoiser.predict(noisy, 500, texts, denoiser.control(noisy, 500, texts, given))
                    loss = noise.float().pow(2).mean() * len(noisy) / len(latents)
                loss.backward()  # type: ignore[no-untyped-call]
            state.advance()
    return {"steps": steps, "seconds": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    main()
