"""The architecture of the tiny model: standard diffusers classes at a size that two CPU cores can train."""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

RESOLUTION = 128
TOKENS = 48
TEXT_WIDTH = 128

VOCABULARY = """
a an the of with on in at and good bad defect defective normal image photo surface texture object part product
magnetic tile hazelnut toy nut metal steel wood leather carpet grid fabric textile cloth paper glass plastic
ceramic bottle cable capsule pill screw transistor toothbrush zipper casting weld rail gear bearing board
circuit pcb blowhole break crack fray uneven colour color stain scratch hole cut dent bump pit chip spot blob
fold bend bent broken missing contamination print glue thread oil rust corrosion inclusion patch pitted scale
rolled crazing bubble foreign misplaced swap poke squeeze faulty imprint rough burr pore void line mark dirt
dust burn tear wrinkle large small long short thin thick dark bright light deep shallow red blue green black
white grey gray yellow brown
""".split()  # noqa: SIM905 - a list of 140 lines would hide the words


def autoencoder(channels: int = 40, latent_channels: int = 4) -> AutoencoderTiny:
    """Factor 4: B3HW in [-1, 1] to B4(H/4)(W/4); 0.58 M parameters."""
    return AutoencoderTiny(
        encoder_block_out_channels=(channels,) * 3,
        decoder_block_out_channels=(channels,) * 3,
        num_encoder_blocks=(0, 2, 3),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=latent_channels,
        force_upcast=False,
    )


def unet(
    channels: tuple[int, ...] = (48, 96, 160),
    latent_channels: int = 4,
    text_width: int = TEXT_WIDTH,
    pooled_text: bool = False,
) -> UNet2DConditionModel:
    """A UNet of one block a level, attention on the two lower of three levels.

    Args:
        channels: of the levels, from the finest to the coarsest.
        latent_channels: of input and output.
        text_width: of the prompt's embeddings.
        pooled_text: whether the prompt, pooled by attention, is also added to the embedding of the timestep, so that
            it reaches every block (as in DeepFloyd IF).
    """
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text" if pooled_text else None,
        addition_embed_type_num_heads=4,
    )


def scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal SNR (arXiv 2305.08891), so that windows of any brightness can be drawn."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def tokenizer(words: list[str] | None = None) -> CLIPTokenizer:
    """A byte-level BPE tokenizer of the CLIP kind, trained on `words`; any other word is split into letters."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=2,
        initial_alphabet=alphabet,
        # Otherwise these get their numbers in the order of a hash table, another one in every process.
        special_tokens=[f"{letter}</w>" for letter in alphabet],
        show_progress=False,
        end_of_word_suffix="</w>",
    )
    learner.train_from_iterator(4 * (words if words is not None else VOCABULARY), trainer)
    state: dict[str, Any] = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = dict(state["vocab"])
    for symbol in [f"{letter}</w>" for letter in alphabet] + ["<|startoftext|>", "<|endoftext|>"]:
        vocabulary.setdefault(symbol, len(vocabulary))
    merges = [tuple(pair) for pair in state["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def text_encoder(words: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModel:
    """Two transformer layers over the tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=width * 3,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=width,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def new_components(seed: int = 0) -> dict[str, Any]:
    """All components of a tiny model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer()
        return {
            "vae": autoencoder(),
            "text_encoder": text_encoder(words),
            "tokenizer": words,
            "unet": unet(),
            "scheduler": scheduler(),
        }
