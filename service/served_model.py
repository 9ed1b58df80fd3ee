"""The model that a process serves: handed around before it is loaded, because probes are answered meanwhile."""

from model import ModelInfo, RankingModel


class ServedModel:
    """Empty until `startup` has loaded the model; full before the first request is admitted. Belongs to the event loop."""

    def __init__(self) -> None:
        self._model: RankingModel | None = None

    def set(self, model: RankingModel) -> None:
        self._model = model

    def get(self) -> RankingModel:
        """The model, for code that runs only in admitted requests."""
        assert self._model is not None, "admission refuses requests before the model is loaded"
        return self._model

    def describe(self) -> ModelInfo | None:
        """None before the model is loaded."""
        return self._model.describe() if self._model is not None else None
