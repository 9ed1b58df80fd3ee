"""The words that the demo model can read, and a tokenizer in which each of them is one token.

Case is ignored. Any other word is split into bytes, which the model does not learn to find on a page.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from model.prompt import LETTERS, instruction

MARKERS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@lru_cache
def words() -> tuple[str, ...]:
    """Two thousand common English words of 3 to 12 letters, the most common first (frequencies: wordfreq, 2021)."""
    return tuple(files(__package__).joinpath("words.txt").read_text().split())


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the demo model. The token id of a word is its place in `words()`."""
    pieces = dict.fromkeys([*words(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *_prompt_words()])
    model = models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # type: ignore[no-untyped-call]
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def _prompt_words() -> Iterator[str]:
    """The words of the prompt template, which are one token each, too."""
    text = instruction("query", len(LETTERS)).lower() + " user assistant"
    return (word for word in re.findall("[a-z]+", text) if len(word) > 1)


def word_ids(text: str) -> Sequence[int]:
    """The places in `words()` of the known words in `text`, in order."""
    places = _places()
    return [places[word] for word in re.findall("[a-z]+", text.lower()) if word in places]


@lru_cache
def _places() -> dict[str, int]:
    return {word: place for place, word in enumerate(words())}
