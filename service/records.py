"""The records that the parts of the service exchange: the caller, the query and the answer. None knows a wire format."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model import KeptTokens, WindowStrategy
from service.degraded_reason import DegradedReason
from service.errors import ServiceError
from service.time_limits import Degradation, OnDeadline

DOCUMENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Ids of registered documents."""

DOCUMENT_ID_RULE = "a registered document's id has 1 to 128 of the characters A-Z a-z 0-9 . _ -"
"""The same in words, for messages."""


MAX_PRIORITY = 999
"""Cohere's and vLLM's requests carry a priority too: 0 is the soonest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """Limits of one caller beside those of the service; None: no limit."""

    max_concurrent_requests: int | None = None
    max_pages_per_minute: int | None = None
    priority: int = 0  # of requests in the queue, 0 to MAX_PRIORITY; a lower number is sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The sender of a request. Made by `http.callers`, once, before anything that depends on it."""

    id: str  # names the key in log lines and metrics without giving it away; empty: the caller sent none
    tenant: bytes  # callers of one tenant share caches and registered documents; empty: all callers are one
    share_id: str = ""  # callers of one share_id have one fair share of the service together; see `http.callers`
    is_known: bool = False  # the key is one of the service's; the ids of other callers have no bound
    limits: CallerLimits = CallerLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A document sent with the query, undecoded."""

    name: str  # of its content in the client's format; its dialect puts it into messages
    content: str | bytearray  # a string is base64, with or without the head of a data URI
    kind: Literal["pdf", "image"] | None  # as the client declared it; None: not declared
    pages: str | None  # page numbers such as 1-3,7, unparsed; None: all
    label: str  # of its pages in the answer
    yields_one: bool = False  # its best page stands for it in the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReference:
    """A registered document, or some of its pages."""

    name: str  # of the reference in the client's format; its dialect puts it into messages
    id: str
    pages: str | None  # page numbers, unparsed; None: all
    yields_one: bool = False  # its best page stands for it in the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDocument:
    """A text sent with the query, to be drawn on pages."""

    name: str  # of the text in the client's format; its dialect puts it into messages
    text: str
    label: str  # of its pages in the answer
    yields_one: bool = False  # its best page stands for it in the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlDocument:
    """The address of a document that the service fetches."""

    name: str  # of the address in the client's format; its dialect puts it into messages
    url: str
    pages: str | None  # page numbers, unparsed; None: all
    label: str  # of its pages in the answer
    yields_one: bool = False  # its best page stands for it in the answer


QueryDocument = Upload | DocumentReference | TextDocument | UrlDocument

ScoreKind = Literal["softmax", "relative", "logit", "rank", "log_odds", "blend"]
"""softmax: of the letter logits of all pages, which sums to 1; relative: exp(logit - best logit); logit: of the page's letter;
rank: (n - place) / n, places from 0; blend: of the first stage and the model together, in [0, 1]; log_odds: ln(p / (1 - p)) of
relative or blend, clipped, from which a sigmoid makes p again."""

DocumentDetail = Literal["none", "hash", "text"]
"""Added to each result: nothing; the hash of the document; or a text that stands for the page, with the hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """Options of the ranking; None stands for the configured value."""

    keep_ratio: float | None = None  # share of each page's visual tokens that is kept
    min_keep_ratio: float | None = None  # the same where the time is short, at most keep_ratio
    window_size: int | None = None  # pages in one forward pass
    stride: int | None = None  # pages by which the window moves
    window_strategy: WindowStrategy | None = None


BlendMethod = Literal["rank", "score"]
"""rank: weighted reciprocal rank fusion; score: weighted sum of the first stage's scores and the model's, both in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """The share of the first stage, which found the documents, in their order."""

    weight: float  # of the first stage, above 0 and at most 1; the rest is the model's
    by: BlendMethod = "rank"
    first_stage_scores: Mapping[int, float] = field(
        default_factory=dict
    )  # of all documents; empty: they are in its order


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankQuery:
    """A request, as a dialect has read it."""

    text: str  # by which the pages are ranked; nothing is stripped or cut
    documents: tuple[QueryDocument, ...]
    options: RankOptions = RankOptions()
    max_results: int | None = None  # None: all
    score: ScoreKind = "softmax"  # of the answer, where its logits compare
    document_detail: DocumentDetail = "none"
    skips_unusable: bool = False  # an unusable document or page is left out; False: it fails the request
    blend: Blend | None = None  # None: the model alone ranks
    priority: int = 0  # in the queue, 0 to MAX_PRIORITY; a lower number is sooner
    timeout_ms: int | None = None  # from the arrival of the request's head; None: not sent
    on_deadline: OnDeadline = "degrade"
    wants_timings: bool = False
    wants_kept_tokens: bool = False
    documents_field: str = "documents"  # the list's name in the client's format, for messages
    metadata: Mapping[int, Any] = field(default_factory=dict)  # by document, for the answer
    warnings: tuple[str, ...] = ()  # about the request, for the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPage:
    """One page of the answer."""

    document_index: int  # in the query's documents
    label: str  # the document's, with #page=N where the document has pages
    number: int | None  # 1-based; None for a single image
    score: float  # in [0, 1]; comparable within this answer alone
    logit: float | None  # of the page's letter; None after several windows, whose logits do not compare, and of a blend
    degraded_reasons: tuple[DegradedReason, ...]  # kinds of content that are missing from the page
    document_sha256: str  # of the document's bytes, hex
    kept: KeptTokens | None = None  # in the last window that ranked the page; None: the query did not ask for it


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Pages and tokens of all windows together."""

    window_pages: int
    cached_pages: int  # those of them whose features were in the cache
    visual_tokens: int  # before pruning
    kept_tokens: int  # after pruning
    prompt_tokens: int  # of the language pass, after pruning


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankAnswer:
    """All pages of the query, best first."""

    request_id: str
    created: int  # seconds since 1970
    model: str
    pages: tuple[RankedPage, ...]
    score_kind: Literal["softmax", "rank", "blend"]  # of one window's logits; by place among pages of several; blended
    windows: int
    tokens: TokenCounts
    stage_seconds: Mapping[str, float]
    total_seconds: float
    degradation: Degradation | None = None  # None: nothing was given up
    skipped: tuple[ServiceError, ...] = ()  # about the documents and pages that were left out, in their order
