"""Prompts as the denoiser reads them: a base with other text encoders is a change of this file and of `denoiser`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adabldm.core.errors import InputError
from adabldm.core.stages import stage
from adabldm.models.components import Components


@dataclass(frozen=True)
class TextConditioning:
    """What the denoiser reads of B prompts.

    Attributes:
        embeddings: last hidden states of the text encoder, BxTxC.
    """

    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.embeddings)

    def pick(self, indices: Tensor | Sequence[int]) -> TextConditioning:
        """The prompts of these indices, in their order; an index may be repeated."""
        return TextConditioning(self.embeddings[torch.as_tensor(indices, device=self.embeddings.device)])

    def to(self, place: torch.device | torch.dtype) -> TextConditioning:
        """The same on a device, or in a precision."""
        return TextConditioning(self.embeddings.to(place))

    def repeat(self, times: int) -> TextConditioning:
        """All prompts in their order, so many times."""
        return join([self] * times)


def join(parts: Sequence[TextConditioning]) -> TextConditioning:
    """The prompts of all parts, one after the other."""
    return TextConditioning(torch.cat([part.embeddings for part in parts]))


def encode_prompts(components: Components, prompts: Sequence[str]) -> TextConditioning:
    """Encode prompts.

    Raises:
        InputError: a prompt is longer than the text encoder reads.
    """
    check_prompts(components, prompts)
    tokenizer: Any = components.tokenizer
    tokens = tokenizer(list(prompts), padding="max_length", max_length=_limit(components), return_tensors="pt")
    encoder: Any = components.text_encoder
    with stage("text"):
        embeddings: Tensor = encoder(tokens.input_ids.to(next(encoder.parameters()).device)).last_hidden_state
    return TextConditioning(embeddings)


def check_prompts(components: Components, prompts: Sequence[str]) -> None:
    """Refuse a prompt that is longer than the text encoder reads; the tokenizer alone tells.

    Raises:
        InputError: the prompt, its number of tokens and the largest one.
    """
    tokenizer: Any = components.tokenizer
    limit = _limit(components)
    for prompt in prompts:
        length = len(tokenizer(prompt).input_ids)
        if length > limit:
            raise InputError(
                f'prompt "{prompt[:60]}…" has {length} tokens, but the text encoder reads at most {limit}; shorten it.'
            )


def _limit(components: Components) -> int:
    """Largest number of tokens of a prompt."""
    config: Any = components.text_encoder.config
    return min(int(components.tokenizer.model_max_length), int(config.max_position_embeddings))
