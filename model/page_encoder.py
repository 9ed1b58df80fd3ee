"""Turns pages into visual tokens: from the feature cache if possible, else by the vision tower.

A page that occurs several times in a batch is encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.attention import AttentionKernel
from model.compilation import RunLayer
from model.config import ModelConfig
from model.dataflow import Observe, PreparedPage, VisualTokens
from model.device import Compute, upload
from model.feature_cache import FeatureCache
from model.image_processor import to_patches
from model.qwen3_vl.vision_encoder import VisionEncoder, lay_out_patches


@dataclass(frozen=True, slots=True, kw_only=True)
class PageEncoder:
    """The vision tower joined with the feature cache. Use it only in the thread that scores."""

    visual: VisionEncoder
    model_config: ModelConfig
    compute: Compute
    kernel: AttentionKernel
    run_block: RunLayer
    cache: FeatureCache

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        """The visual tokens (V, D) of `pages` end to end.

        With a cache their DeepStack features are merged. Without one, `finish` merges those of the kept tokens alone.
        """
        cached = {key: found for key in _unique_pages(pages) if (found := self.cache.get(key)) is not None}
        missing = [page for key, page in _unique_pages(pages).items() if key not in cached]
        if missing:
            encoded = self._run_vision_tower(missing, observe)
            if len(missing) == len(pages):
                self._put_in_cache(pages, encoded)
                return encoded
            counts = [page.visual_token_count for page in missing]
            cached |= zip((page.content_hash for page in missing), encoded.split(counts), strict=True)
        joined = VisualTokens.join([cached[page.content_hash] for page in pages])
        self._put_in_cache(pages, joined)
        return joined

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        """Merge the DeepStack features of the kept tokens (K, D), unless `encode` did."""
        if self.cache.is_on:
            return tokens
        with observe("vision"):
            return self.visual.merge_deepstack(tokens)

    def patches_to_encode(self, pages: Sequence[PreparedPage]) -> int:
        """The cost of the vision pass: patches of the pages that are not in the cache."""
        unknown = sum(page.visual_token_count for key, page in _unique_pages(pages).items() if key not in self.cache)
        return unknown * self.model_config.vision.merge_unit

    def _run_vision_tower(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        with observe("upload"):
            pixels = [upload(page.host_pixels, self.compute.device) for page in pages]  # each (height, width, 3)
            layout = lay_out_patches(pages, self.model_config.vision).upload(self.compute.device)
        with observe("vision"):
            image, dtype = self.model_config.image, self.compute.dtype
            patches = torch.cat([to_patches(page, image, dtype) for page in pixels])  # (P, patch values)
            tokens: VisualTokens = self.visual(patches, layout, self.kernel, self.run_block)
            return self.visual.merge_deepstack(tokens) if self.cache.is_on else tokens

    def _put_in_cache(self, pages: Sequence[PreparedPage], tokens: VisualTokens) -> None:
        """Put the pages into the cache. This moves pages that were found in host memory to the device."""
        counts = [page.visual_token_count for page in pages]
        for page, features in zip(pages, tokens.split(counts), strict=True):
            self.cache.put(page.content_hash, features)


def _unique_pages(pages: Sequence[PreparedPage]) -> dict[bytes, PreparedPage]:
    """The different pages by content hash, in order of first occurrence."""
    return {page.content_hash: page for page in pages}
