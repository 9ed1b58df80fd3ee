"""How a fetch fails: the error for the client, and for the operator the outcome in the metrics and the reason in the log.

The client reads nothing about a network that it cannot see itself: no addresses, and the same message for a name that has none
and a name that has an address inside. The log has no URLs, whose paths and queries may carry names and tokens of a client.
"""

import ssl
from typing import Literal

import httpcore2

from service.errors import ServiceError, TooLargeError, UnusableDocumentError

Outcome = Literal["refused", "address", "unreachable", "timeout", "too_large", "media", "overloaded"]

_REMEDY = "Check the URL, or send the document itself."


class FetchFailure(Exception):
    """A document that could not be fetched."""

    def __init__(self, error: ServiceError, *, outcome: Outcome, reason: str) -> None:
        """reason: of our own words and of names of errors, never of an answer's content."""
        super().__init__(reason)
        self.error = error
        self.outcome: Outcome = outcome
        self.reason = reason


def no_public_address(host: str, reason: str) -> FetchFailure:
    """Without telling a name that does not exist from one that has other addresses."""
    error = _unreachable(f"no public address was found for the host {host}. {_REMEDY}")
    return FetchFailure(error, outcome="address", reason=reason)


def refused_redirect(host: str, reason: str) -> FetchFailure:
    message = f"{host} redirects to a URL that is not fetched. Send the document itself."
    return FetchFailure(UnusableDocumentError("url_refused", message), outcome="refused", reason=reason)


def unreachable(host: str, complaint: str, reason: str | None = None) -> FetchFailure:
    """complaint: the rest of a sentence that begins with the host."""
    error = _unreachable(f"{host} {complaint}. {_REMEDY}")
    return FetchFailure(error, outcome="unreachable", reason=reason or complaint)


def idle(host: str, seconds: float) -> FetchFailure:
    message = f"{host} sent nothing for {seconds:g} s. Send the document itself."
    return FetchFailure(UnusableDocumentError("url_timeout", message), outcome="timeout", reason="idle")


def too_slow(seconds: float) -> FetchFailure:
    message = (
        f"the documents of the request could not be fetched in {seconds:g} s. Send them, or some of them, yourself."
    )
    return FetchFailure(UnusableDocumentError("url_timeout", message), outcome="timeout", reason="total time")


def too_large(size: str, limit: int) -> FetchFailure:
    message = f"{size} bytes at the URL, and the limit is {limit}. Send fewer pages or smaller images."
    return FetchFailure(TooLargeError("file_too_large", message), outcome="too_large", reason=f"{size} bytes")


def from_client_error(error: Exception, host: str, *, idle_seconds: float) -> FetchFailure:
    """The failure by an error of the HTTP client."""
    if isinstance(error, httpcore2.TimeoutException):
        return idle(host, idle_seconds)
    causes = [error, error.__cause__, error.__context__]
    certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        reason = f"certificate: {certificate.verify_message}"
        return unreachable(host, "has a certificate that could not be verified", reason)
    names = ", ".join(dict.fromkeys(type(cause).__name__ for cause in causes if cause is not None))
    if isinstance(error, httpcore2.ProtocolError):
        return unreachable(host, "sent no whole document by the rules of HTTP", names)
    return unreachable(host, "could not be connected to, or broke the connection off", names)


def _unreachable(message: str) -> UnusableDocumentError:
    return UnusableDocumentError("url_unreachable", message)
