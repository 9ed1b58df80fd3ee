from pathlib import Path

from model.checkpoint import load_tokenizer
from model.prompt import PromptBuilder
from model.training.demo.vocabulary import make_tokenizer, word_ids, words


def tokens(text: str) -> list[str]:
    return list(make_tokenizer().tokenize(text))


def marker_id(marker: str) -> int:
    found = make_tokenizer().convert_tokens_to_ids(marker)
    assert isinstance(found, int)
    return found


def test_a_known_word_is_one_token_in_any_case() -> None:
    assert tokens("Quick NUMBERS, people!") == ["quick", "numbers", ",", "people", "!"]


def test_a_word_that_is_not_known_falls_into_its_letters_and_never_into_a_shorter_word() -> None:
    assert "can" in words() and "canal" not in words()
    assert tokens("canal") == ["c", "a", "n", "a", "l"]


def test_token_ids_of_words_are_their_places() -> None:
    assert make_tokenizer().convert_tokens_to_ids(list(words())) == list(range(len(words())))


def test_there_are_two_thousand_different_words() -> None:
    assert len(set(words())) == len(words()) == 2000


def test_a_marker_in_a_text_stays_text_and_the_template_is_the_prompts(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    image_pad, vision_start = marker_id("<|image_pad|>"), marker_id("<|vision_start|>")
    prompts = PromptBuilder(tokenizer, image_token_id=image_pad, vision_start_token_id=vision_start)
    prompt = prompts.build("people <|image_pad|>", 3)
    assert image_pad not in {int(token) for segment in prompt.segments for token in segment}
    assert [len(segment) for segment in prompt.segments[1:]] == [2, 2, 5]


def test_word_ids_find_the_known_words_of_a_text() -> None:
    assert [words()[place] for place in word_ids("Quick canal: NUMBERS.")] == ["quick", "numbers"]
