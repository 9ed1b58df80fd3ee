"""COMPILE=on: the service is ready only when its layers are compiled, says how long that took, and scores the same."""

import pytest

from tests.documents import make_pdf
from tests.servers import RunningService, running_service

TOLERANCE = 3e-4
"""Of logits up to 14: the compiler's kernels round differently, as in tests/model/test_compilation.py."""


def scores(service: RunningService) -> list[float]:
    files = [("file", ("a.pdf", make_pdf(3), "application/pdf"))]
    answer = service.client.post("/rerank", data={"query": "a", "raw_scores": "true"}, files=files).json()
    return [result["relevance_score"] for result in sorted(answer["results"], key=lambda result: result["page"])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_service_warms_up_and_scores_alike() -> None:
    with running_service() as eager, running_service(compile=True) as compiled:
        assert scores(compiled) == pytest.approx(scores(eager), abs=TOLERANCE)
        seconds = {service: service.metric("ziprerank_warm_up_seconds") for service in (eager, compiled)}
        assert 0 < seconds[eager] < seconds[compiled] <= compiled.metric("ziprerank_model_load_seconds")
