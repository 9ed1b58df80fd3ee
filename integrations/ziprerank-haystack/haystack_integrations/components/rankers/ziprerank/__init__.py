"""A Haystack ranker for texts, images and pages of registered documents on a ZipRerank service."""

from haystack_integrations.components.rankers.ziprerank.ranker import ZipRerankRanker

__all__ = ["ZipRerankRanker"]
