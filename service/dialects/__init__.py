"""Wire formats of rerank requests, one module each."""

from service.dialects.dialect import Dialect
from service.dialects.ziprerank import ZipRerankDialect

DIALECTS: tuple[Dialect, ...] = (ZipRerankDialect(),)
"""Those that the service speaks."""
