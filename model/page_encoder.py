"""Pages to visual tokens: looked up where the cache knows them, else encoded, each page once however often it occurs.

The one place that joins the vision tower with the feature cache. Knows neither queries nor prompts.
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
from model.qwen3_vl.vision_encoder import PatchLayout, VisionEncoder, lay_out_patches


@dataclass(frozen=True, slots=True, kw_only=True)
class PageEncoder:
    """Used by the one thread that scores."""

    visual: VisionEncoder
    model_config: ModelConfig
    compute: Compute
    kernel: AttentionKernel
    run_block: RunLayer
    cache: FeatureCache

    def encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        """The visual tokens (V, D) of `pages` end to end.

        Where a cache keeps them, their DeepStack features are merged; else `finish` does it, for the few that are kept.
        """
        known = {key: found for key in _unique(pages) if (found := self.cache.get(key)) is not None}
        missing = [page for key, page in _unique(pages).items() if key not in known]
        if missing:
            fresh = self._encode(missing, observe)
            if len(missing) == len(pages):
                self._remember(pages, fresh)
                return fresh
            counts = [page.visual_token_count for page in missing]
            known |= zip((page.content_hash for page in missing), fresh.split(counts), strict=True)
        joined = VisualTokens.join([known[page.content_hash] for page in pages])
        self._remember(pages, joined)
        return joined

    def finish(self, tokens: VisualTokens, observe: Observe) -> VisualTokens:
        """Merge the DeepStack features of the tokens that are kept, where `encode` has left that open."""
        if self.cache.is_on:
            return tokens
        with observe("vision"):
            return self.visual.merge_deepstack(tokens)

    def patches_to_encode(self, pages: Sequence[PreparedPage]) -> int:
        """Patches of the pages that the cache does not know: what their vision pass costs."""
        unknown = sum(page.visual_token_count for key, page in _unique(pages).items() if key not in self.cache)
        return unknown * self.model_config.vision.merge_unit

    def _encode(self, pages: Sequence[PreparedPage], observe: Observe) -> VisualTokens:
        with observe("upload"):
            pixels = [upload(page.host_pixels, self.compute.device) for page in pages]
            layout = self._lay_out_patches(pages)
        with observe("vision"):
            image, dtype = self.model_config.image, self.compute.dtype
            patches = torch.cat([to_patches(page, image, dtype) for page in pixels])
            tokens: VisualTokens = self.visual(patches, layout, self.kernel, self.run_block)
            return self.visual.merge_deepstack(tokens) if self.cache.is_on else tokens

    def _lay_out_patches(self, pages: Sequence[PreparedPage]) -> PatchLayout:
        return lay_out_patches(pages, self.model_config.vision).upload(self.compute.device)

    def _remember(self, pages: Sequence[PreparedPage], tokens: VisualTokens) -> None:
        """Into the cache, or to the front of it: also what came from host memory, which moves to the device by this."""
        counts = [page.visual_token_count for page in pages]
        for page, features in zip(pages, tokens.split(counts), strict=True):
            self.cache.put(page.content_hash, features)


def _unique(pages: Sequence[PreparedPage]) -> dict[bytes, PreparedPage]:
    """By content, in order of first occurrence."""
    return {page.content_hash: page for page in pages}
