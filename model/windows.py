"""More pages than one window: which pages to rank next, given the order of the last window.

A strategy is a generator: it yields the page indices of a window and is sent their order (indices into the window, best
first); what it returns is the order of all pages. It knows neither the model nor who scores the windows, or when.
"""

from collections.abc import Generator, Sequence

from model.config import check_window

Windows = Generator[tuple[int, ...], Sequence[int], tuple[int, ...]]


def sliding_windows(page_count: int, *, window_size: int, stride: int) -> Windows:
    """The published procedure: from the back of the list to the front, each window reordered in place.

    The best pages bubble to the front; consecutive windows share `window_size - stride` pages.
    Raises: WindowError.  Source: arXiv 2605.11864, arXiv 2304.09542.
    """
    check_window(window_size, stride)
    order = list(range(page_count))
    end = page_count
    while True:
        start = max(end - window_size, 0)
        window = tuple(order[start:end])
        window_order = yield window
        assert sorted(window_order) == list(range(len(window))), "a window's order must name each of its pages once"
        order[start:end] = [window[index] for index in window_order]
        if start == 0:
            return tuple(order)
        end -= stride
