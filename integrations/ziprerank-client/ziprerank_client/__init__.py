"""Ranks documents, images and pages of registered documents on a ZipRerank service. The framework packages are built on it."""

from ziprerank_client.client import Ranked, RerankClient, ZipRerankError
from ziprerank_client.documents import MetadataNames, to_document

__all__ = ["MetadataNames", "Ranked", "RerankClient", "ZipRerankError", "to_document"]
