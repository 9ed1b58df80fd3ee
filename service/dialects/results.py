"""The results of an answer: all pages, or for some documents their best page alone."""

from service.records import RankedPage, RerankAnswer, RerankQuery


def results_of(query: RerankQuery, answer: RerankAnswer) -> list[RankedPage]:
    """Best first, at most `max_results`. Of a document that yields one result, the best page stands for it."""
    results: list[RankedPage] = []
    shown: set[int] = set()
    for page in answer.pages:
        if query.max_results is not None and len(results) == query.max_results:
            break
        if not query.documents[page.document_index].yields_one or page.document_index not in shown:
            results.append(page)
            shown.add(page.document_index)
    return results
