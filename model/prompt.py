"""Builds the prompt that the checkpoint was trained with, as token ids around the page images.

Ids and turn markers come from the checkpoint's tokenizer and chat template. Markers inside a query are tokenised as ordinary
text, so a query can neither end the turn nor add an image.
Source: arXiv 2605.11864 (prompt of RankGPT, arXiv 2304.09542).
"""

import re
import string
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer

from model.config import MAX_WINDOW_SIZE
from model.dataflow import Prompt
from model.errors import CheckpointError, QueryError

LETTERS = string.ascii_uppercase[:MAX_WINDOW_SIZE]

_ANSWER_START = "["
_TEXT_SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"  # placeholder for the text while the template is rendered
_INSTRUCTION = """\
You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.

I will provide you with {count} passages as images.
Rank the passages based on their relevance to the search query.

The images are provided in order: {pictures}.

Search Query: {query}

Rank the passages above based on their relevance to the search query.
The passages should be listed in descending order using identifiers.
The most relevant passages should be listed first.
The output format should be [A] > [B], etc.
Only output the ranking results, do not say anything else."""


class ChatTokenizer(Protocol):
    """The used part of a checkpoint's tokenizer (transformers `PreTrainedTokenizerFast`)."""

    @property
    def backend_tokenizer(self) -> Tokenizer: ...

    def apply_chat_template(
        self, conversation: list[dict[str, object]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str: ...


class PromptBuilder:
    """Builds prompts. Thread-safe."""

    def __init__(self, tokenizer: ChatTokenizer, *, image_token_id: int, vision_start_token_id: int) -> None:
        """Raises: CheckpointError for a letter that is not one token, or a template that does not render text and images."""
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.encode_special_tokens = True  # tokenise markers inside texts as ordinary characters
        self.letter_ids = tuple(self._single_token(letter) for letter in LETTERS)
        self._vision_start_token_id = vision_start_token_id
        self._before, self._between, self._after = self._template_pieces(tokenizer, image_token_id)
        self._after = [*self._after, self._single_token(_ANSWER_START)]

    def build(self, query: str, page_count: int) -> Prompt:
        """Build the prompt for `page_count` pages, 1 to 20. Raises: QueryError."""
        text = instruction(query, page_count)
        opening = self._encode(self._before, text)
        segments = [opening, *[self._encode(self._between)] * (page_count - 1), self._encode(self._after)]
        markers = 1 if opening[-1] == self._vision_start_token_id else 0
        return Prompt(
            segments=tuple(np.array(segment, dtype=np.int64) for segment in segments),
            context_length=len(opening) - markers,
        )

    def max_prompt_tokens(self, page_count: int, query_characters: int) -> int:
        """Upper bound of `Prompt.token_count`. A token covers at least one byte, and a character has at most four bytes."""
        return self.build("?", page_count).token_count + 4 * query_characters

    def _encode(self, parts: Sequence[int | str], text: str = "") -> list[int]:
        """Ids of a template piece with `text` in its slot. The slot is tokenised together with the text around it."""
        ids: list[int] = []
        for part in parts:
            ids += [part] if isinstance(part, int) else self._text_ids(part.replace(_TEXT_SLOT, text))
        return ids

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _single_token(self, text: str) -> int:
        ids = self._text_ids(text)
        if len(ids) != 1:
            raise CheckpointError(f"The tokenizer splits {text!r} into {len(ids)} tokens; it must be a single token.")
        return ids[0]

    def _template_pieces(
        self, tokenizer: ChatTokenizer, image_token_id: int
    ) -> tuple[list[int | str], list[int | str], list[int | str]]:
        """The chat template before, between and after two images, as marker ids and text. Raises: CheckpointError."""
        content = [{"type": "text", "text": _TEXT_SLOT}, {"type": "image"}, {"type": "image"}]
        turn: list[dict[str, object]] = [{"role": "user", "content": content}]
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        pieces: list[list[int | str]] = [[]]
        for part in self._split_markers(rendered):
            if part == image_token_id:
                pieces.append([])
            else:
                pieces[-1].append(part)
        slots = [sum(_TEXT_SLOT in part for part in piece if isinstance(part, str)) for piece in pieces]
        if slots != [1, 0, 0]:
            raise CheckpointError(
                "The chat template must render the text once, before the images, and each image once."
            )
        return pieces[0], pieces[1], pieces[2]

    def _split_markers(self, rendered: str) -> list[int | str]:
        markers = {
            token.content: token_id
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        if not markers:
            return [rendered]
        pattern = "|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True))
        return [markers.get(part, part) for part in re.split(f"({pattern})", rendered) if part]


def instruction(query: str, page_count: int) -> str:
    """The text part of the prompt, with the query unchanged. Raises: QueryError."""
    check_query(query)
    pictures = ", ".join(f"Picture {index + 1} is passage [{LETTERS[index]}]" for index in range(page_count))
    return _INSTRUCTION.format(count=page_count, pictures=pictures, query=query)


def check_query(query: str) -> None:
    """Raises: QueryError for a query that is empty, only white space, or not valid Unicode."""
    if not query.strip():
        raise QueryError("The query is empty. Enter the text to rank the pages by.")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"The query has a lone surrogate at character {error.start}. Send valid Unicode.") from error
