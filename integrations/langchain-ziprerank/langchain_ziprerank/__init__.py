"""A LangChain document compressor that ranks texts, images and pages of registered documents on a ZipRerank service."""

from langchain_ziprerank.compressor import ZipRerankCompressor

__all__ = ["ZipRerankCompressor"]
