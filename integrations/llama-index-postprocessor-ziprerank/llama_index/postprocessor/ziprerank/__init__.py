"""A LlamaIndex node postprocessor that ranks texts, images and pages of registered documents on a ZipRerank service."""

from llama_index.postprocessor.ziprerank.base import ZipRerank

__all__ = ["ZipRerank"]
