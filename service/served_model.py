"""The model that a process serves, which its parts are handed before it is loaded."""

from model import Reranker


class ServedModel:
    """Empty until `startup` has loaded the model; full before the first request is admitted. Belongs to the event loop."""

    def __init__(self) -> None:
        self.reranker: Reranker | None = None

    @property
    def loaded(self) -> Reranker:
        """The model, for code that runs only in admitted requests."""
        assert self.reranker is not None, "admission refuses requests before the model is loaded"
        return self.reranker
