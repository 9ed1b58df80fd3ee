"""Wire formats of rerank requests, one module each."""

from service.dialects.dashscope import DashScopeDialect
from service.dialects.dialect import Dialect
from service.dialects.elastic import ElasticDialect
from service.dialects.nim import NimDialect
from service.dialects.sglang import SglangDialect
from service.dialects.tei import TeiDialect
from service.dialects.vllm_score import VllmScoreDialect
from service.dialects.voyage import VoyageDialect
from service.dialects.weaviate import WeaviateDialect
from service.dialects.ziprerank import ZipRerankDialect

DIALECTS: tuple[Dialect, ...] = (
    ZipRerankDialect(),
    TeiDialect(),
    NimDialect(),
    DashScopeDialect(),
    ElasticDialect(),
    WeaviateDialect(),
    SglangDialect(),
    VoyageDialect(),
    VllmScoreDialect(),
)
"""Those that the service speaks. Of those that share a path the second to last are asked, in this order, whether a body is
theirs; the first takes the others."""
