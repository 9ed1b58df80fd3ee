import numpy as np

from model.training.demo.page_lists import ListShape, deal_list
from model.training.demo.page_pool import PagePool
from model.training.demo.reading_labels import ReadingLabels
from model.training.demo.vocabulary import words


def pool(*known: set[int]) -> PagePool:
    empty = np.zeros((len(known), 1))
    labels = ReadingLabels(words=empty, spelling=empty, letters=empty, token_words=empty, token_shares=empty)
    return PagePool(
        pixels=np.zeros((len(known), 32, 32), np.uint8), labels=labels, known_words=tuple(map(frozenset, known))
    )


def test_only_the_right_page_has_all_words_of_the_query() -> None:
    pages = pool(*[{number, number + 1, number + 2, 99} for number in range(30)])
    for seed in range(50):
        dealt = deal_list(ListShape(pages=10, query_words=2, keep_ratio=1), pages, np.random.default_rng(seed))
        have_all = [index for index, page in enumerate(dealt.pages) if set(dealt.query) <= pages.known_words[page]]
        assert have_all == [dealt.right]
        assert len(set(dealt.pages)) == 10


def test_a_page_with_too_few_words_is_never_the_right_one() -> None:
    pages = pool({1}, {2, 3, 4}, set(), {5})
    for seed in range(20):
        dealt = deal_list(ListShape(pages=3, query_words=3, keep_ratio=1), pages, np.random.default_rng(seed))
        assert dealt.pages[dealt.right] == 1


def test_near_pages_have_some_words_of_the_query() -> None:
    pages = pool({1, 2}, *[{1, 100 + number} for number in range(10)], *[{200 + number} for number in range(200)])
    shape = ListShape(pages=11, query_words=2, keep_ratio=1, near_share=0.5)
    for seed in range(300):
        dealt = deal_list(shape, pages, np.random.default_rng(seed))
        if dealt.pages[dealt.right] == 0:
            near = [page for page in dealt.pages if 1 in pages.known_words[page]]
            assert len(near) >= 1 + 5
            assert len(set(dealt.pages)) == 11
            return
    raise AssertionError("no list was about the page in question")


def test_strange_words_stand_among_the_known_ones() -> None:
    pages = pool(set(range(50)), set(range(50, 100)))
    shape = ListShape(pages=2, query_words=3, keep_ratio=1, strange_words=2)
    dealt = deal_list(shape, pages, np.random.default_rng(0))
    text = dealt.text.split()
    assert len(text) == 5
    assert [word for word in text if word in [words()[place] for place in dealt.query]] == [
        words()[place] for place in dealt.query
    ]
