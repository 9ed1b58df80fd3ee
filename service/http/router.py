"""Every route of the service in one router."""

from fastapi import APIRouter

from service.http.document_routes import DocumentRoutes
from service.http.operation_routes import OperationRoutes
from service.http.playground_routes import PlaygroundRoutes
from service.http.rerank_routes import RerankRoutes
from service.http.route_registration import check_routes
from service.http.route_table import RouteTable


def build_router(
    table: RouteTable,
    *,
    rerank: RerankRoutes,
    documents: DocumentRoutes,
    operation: OperationRoutes,
    playground: PlaygroundRoutes | None = None,
) -> APIRouter:
    """playground: None where it is off. Raises RuntimeError where the routes are not those of the table."""
    router = APIRouter()
    rerank.add_to(router, table)
    documents.add_to(router)
    operation.add_to(router)
    if playground is not None:
        playground.add_to(router)
    check_routes(router, table)
    return router
