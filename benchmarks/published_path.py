"""The published evaluation code's way from page images to letter logits, re-created on transformers >= 5.17.

Written from what that code does, which itself runs on transformers 4.57 only. Arm R0 has its costs: the library's image
processor on the CPU, float32 patches copied from pageable memory, text tokenised with every image token written out, pruned
sequences built one token at a time, a key/value cache that nobody reads, a head over the whole vocabulary at every position.
Arm R1 leaves out the last three.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from benchmarks.transformers_model import share_weights
from model import LONGEST_PAGE_EDGE, Observe, Reranker, no_observation
from model.checkpoint import BUNDLED
from model.compressor import kept_count
from model.config import ImageConfig
from model.prompt import instruction

_IMAGE_TOKEN = "<|image_pad|>"

ChoosePlaces = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(bool (S,): which places are visual; bool (V,): which visual tokens are kept) to the places int64 (S',) that stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedAnswer:
    logits: tuple[float, ...]  # letter logit of each page
    kept: torch.Tensor  # int64 (K,): the kept visual tokens, pages end to end, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedPages:
    """What the library's image processor makes of pages: P patches."""

    patches: torch.Tensor  # float32 (P, 1536)
    grids: torch.Tensor  # int64 (pages, 3): time, rows and columns, in patches
    visual_tokens: tuple[int, ...]  # by page


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Of V visual tokens, pages end to end."""

    main: torch.Tensor  # (V, D)
    deepstack: tuple[torch.Tensor, ...]  # each (V, D)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageInputs:
    """What the language model is given: S' tokens, K of them visual."""

    embeddings: torch.Tensor  # (1, S', D)
    positions: torch.Tensor  # int64 (3, 1, S')
    is_visual: torch.Tensor  # bool (1, S')
    deepstack: list[torch.Tensor]  # each (K, D)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPath:
    """Scores one query with up to 20 pages. Stages: prepare, upload, vision, compress, language, head."""

    model: Qwen3VLForConditionalGeneration
    image_processor: Qwen2VLImageProcessorPil
    tokenizer: Any
    letter_ids: tuple[int, ...]
    choose_places: ChoosePlaces
    forward_arguments: Mapping[str, Any]  # transformers' own, such as use_cache
    logits_to_keep: int  # transformers' own: how many last positions go through the head; 0: all

    @torch.no_grad()
    def score(
        self, query: str, pages: Sequence[Image.Image], keep_ratio: float, observe: Observe = no_observation
    ) -> PublishedAnswer:
        """Letter logits of `pages` in float32."""
        with observe("prepare"):
            processed = self._process(pages)
            token_ids = torch.tensor([self._tokenise(query, processed.visual_tokens)])
        with observe("upload"):
            device = self.model.device
            token_ids, patches, grids = (x.to(device) for x in (token_ids, processed.patches, processed.grids))
        with observe("vision"):
            features = self._encode(patches, grids)
        with observe("compress"):
            kept = self._choose_tokens(features.main, token_ids, processed.visual_tokens, keep_ratio)
            inputs = self._build_sequence(token_ids, grids, features, kept)
        with observe("language"):
            hidden = self._read(inputs)
        with observe("head"):
            logits = self.model.lm_head(hidden[:, slice(-self.logits_to_keep, None)])[0, -1].float()
        letters = logits[list(self.letter_ids[: len(pages)])]
        return PublishedAnswer(logits=tuple(letters.tolist()), kept=kept.nonzero().flatten())

    def _process(self, pages: Sequence[Image.Image]) -> ProcessedPages:
        images = [_shrink(page.convert("RGB")) for page in pages]
        output = self.image_processor(images=images, return_tensors="pt")
        grids = output["image_grid_thw"]
        merge_unit = self.image_processor.merge_size**2
        return ProcessedPages(
            patches=output["pixel_values"],
            grids=grids,
            visual_tokens=tuple((grids.prod(dim=1) // merge_unit).tolist()),
        )

    def _tokenise(self, query: str, visual_tokens: Sequence[int]) -> list[int]:
        """The whole prompt as one text, every image token written out, as the library's processor does it."""
        images = [{"type": "image"} for _ in visual_tokens]
        turn = [{"role": "user", "content": [{"type": "text", "text": instruction(query, len(images))}, *images]}]
        rendered = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) + "["
        first, *others = rendered.split(_IMAGE_TOKEN)
        text = first + "".join(_IMAGE_TOKEN * count + other for count, other in zip(visual_tokens, others, strict=True))
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _encode(self, patches: torch.Tensor, grids: torch.Tensor) -> Features:
        visual = self.model.model.visual
        output = visual(patches.type(visual.dtype), grid_thw=grids)
        return Features(main=output.pooler_output, deepstack=tuple(output.deepstack_features))

    def _choose_tokens(
        self, visual: torch.Tensor, token_ids: torch.Tensor, visual_tokens: Sequence[int], keep_ratio: float
    ) -> torch.Tensor:
        """bool (V,): per page, the tokens most similar to any text token before the first image."""
        if keep_ratio == 1:
            return torch.ones(len(visual), dtype=torch.bool, device=visual.device)
        first_marker = (token_ids[0] == self.model.config.vision_start_token_id).nonzero()[0].item()
        text = F.normalize(self.model.get_input_embeddings()(token_ids[0, :first_marker]).float(), dim=-1)
        masks = []
        for page in visual.split(list(visual_tokens)):
            similarity = (F.normalize(page.float(), dim=-1) @ text.T).amax(dim=-1)
            best = similarity.topk(kept_count(len(page), keep_ratio)).indices
            masks.append(torch.zeros(len(page), dtype=torch.bool, device=page.device).index_fill(0, best, True))
        return torch.cat(masks)

    def _build_sequence(
        self, token_ids: torch.Tensor, grids: torch.Tensor, features: Features, kept: torch.Tensor
    ) -> LanguageInputs:
        """Embeddings of the whole prompt with the visual tokens in their places, then only the places that stay."""
        is_visual = token_ids[0] == self.model.config.image_token_id
        embeddings = self.model.get_input_embeddings()(token_ids[0])
        embeddings = embeddings.masked_scatter(is_visual[:, None], features.main.to(embeddings.dtype))
        positions, _ = self.model.model.get_rope_index(
            token_ids, is_visual.int()[None], image_grid_thw=grids, attention_mask=torch.ones_like(token_ids)
        )
        whole = LanguageInputs(
            embeddings=embeddings[None],
            positions=positions,
            is_visual=is_visual[None],
            deepstack=list(features.deepstack),
        )
        return whole if bool(kept.all()) else self._pruned(whole, kept)

    def _pruned(self, whole: LanguageInputs, kept: torch.Tensor) -> LanguageInputs:
        places = self.choose_places(whole.is_visual[0], kept)
        return LanguageInputs(
            embeddings=whole.embeddings[:, places],
            positions=whole.positions[:, :, places],
            is_visual=whole.is_visual[:, places],
            deepstack=[level[kept] for level in whole.deepstack],
        )

    def _read(self, inputs: LanguageInputs) -> torch.Tensor:
        """The normalised hidden states (1, S', D)."""
        output = self.model.model.language_model(
            inputs_embeds=inputs.embeddings,
            attention_mask=torch.ones_like(inputs.is_visual, dtype=torch.int64),
            position_ids=inputs.positions,
            visual_pos_masks=inputs.is_visual,
            deepstack_visual_embeds=inputs.deepstack,
            **self.forward_arguments,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


def published_path(reranker: Reranker, tokenizer_folder: Path = BUNDLED["demo"]) -> PublishedPath:
    """Arm R0 on the weights of `reranker`, with the tokenizer that it has."""
    return _path(
        reranker, tokenizer_folder, choose_places=places_token_by_token, forward_arguments={}, logits_to_keep=0
    )


def published_path_without_faults(reranker: Reranker, tokenizer_folder: Path = BUNDLED["demo"]) -> PublishedPath:
    """Arm R1: the library as its documentation would have one use it."""
    return _path(
        reranker,
        tokenizer_folder,
        choose_places=places_at_once,
        forward_arguments={"use_cache": False},
        logits_to_keep=1,
    )


def _path(
    reranker: Reranker,
    tokenizer_folder: Path,
    *,
    choose_places: ChoosePlaces,
    forward_arguments: Mapping[str, Any],
    logits_to_keep: int,
) -> PublishedPath:
    return PublishedPath(
        model=share_weights(reranker.network, reranker.model_config, reranker.compute),
        image_processor=_image_processor(reranker.model_config.image),
        tokenizer=AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True),
        letter_ids=reranker.prompts.letter_ids,
        choose_places=choose_places,
        forward_arguments=forward_arguments,
        logits_to_keep=logits_to_keep,
    )


def _image_processor(image: ImageConfig) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=image.patch_size,
        merge_size=image.merge_size,
        temporal_patch_size=image.temporal_patch_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels},
    )


def _shrink(page: Image.Image) -> Image.Image:
    longest = max(page.size)
    if longest <= LONGEST_PAGE_EDGE:
        return page
    scale = LONGEST_PAGE_EDGE / longest
    return page.resize((int(page.width * scale), int(page.height * scale)), Image.Resampling.LANCZOS)


def places_token_by_token(is_visual: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """One question to the device for every visual token: on a card each of them waits for all work before it."""
    places = []
    visual_index = 0
    for place, place_is_visual in enumerate(is_visual.tolist()):
        if not place_is_visual:
            places.append(place)
            continue
        if kept[visual_index].item():
            places.append(place)
        visual_index += 1
    return torch.tensor(places, device=is_visual.device)


def places_at_once(is_visual: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The same places, in one step."""
    stays = torch.ones_like(is_visual).masked_scatter(is_visual, kept)
    return stays.nonzero().flatten()
