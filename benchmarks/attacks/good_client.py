"""A client as it should be: small requests one after the other, and a probe of /livez on a new connection 20 times a second.

    python -m benchmarks.attacks.good_client HOST PORT SECONDS

It comes from another loopback address than the attackers, as clients do: the service shares its time among callers.

The last line of output is a JSON object: answers a second, the times of all probes in ms, and refusals by status.
"""

import json
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException

_OWN_ADDRESS = ("127.0.0.2", 0)
_PROBE_PAUSE_SECONDS = 0.05
_PATIENCE_SECONDS = 30
_RETRY_PAUSE_SECONDS = 0.1
_TEXTS = ["the tide tables of the harbour", "the ferry leaves at noon"]


def main() -> None:
    _, host, port, seconds = sys.argv
    ends_at = time.monotonic() + float(seconds)
    probes: list[float] = []
    failures: Counter[str] = Counter()
    prober = threading.Thread(target=_probe, args=(host, int(port), ends_at, probes, failures))
    prober.start()
    started = time.monotonic()
    answers = _rerank(host, int(port), ends_at, failures)
    lasted = time.monotonic() - started
    prober.join()
    print(json.dumps({"answers_per_second": answers / lasted, "livez_ms": probes, "failures": dict(failures)}))


def _rerank(host: str, port: int, ends_at: float, failures: "Counter[str]") -> int:
    """The number of answers with status 200."""
    connection = HTTPConnection(host, port, timeout=_PATIENCE_SECONDS, source_address=_OWN_ADDRESS)
    answers = 0
    for number in range(sys.maxsize):
        if time.monotonic() >= ends_at:
            break
        body = json.dumps({"query": f"when does ferry {number} leave", "documents": _TEXTS})
        try:
            connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        except (OSError, HTTPException) as error:
            failures[type(error).__name__] += 1
            connection.close()
            time.sleep(_RETRY_PAUSE_SECONDS)
            continue
        if response.status == 200:
            answers += 1
        else:
            failures[str(response.status)] += 1
            time.sleep(_RETRY_PAUSE_SECONDS)
    connection.close()
    return answers


def _probe(host: str, port: int, ends_at: float, probes: list[float], failures: "Counter[str]") -> None:
    """A probe that fails counts with the whole time that it took."""
    while time.monotonic() < ends_at:
        started = time.perf_counter()
        connection = HTTPConnection(host, port, timeout=_PATIENCE_SECONDS, source_address=_OWN_ADDRESS)
        try:
            connection.request("GET", "/livez")
            if connection.getresponse().status != 200:
                failures["livez"] += 1
        except (OSError, HTTPException):
            failures["livez"] += 1
        finally:
            connection.close()
        probes.append((time.perf_counter() - started) * 1000)
        time.sleep(_PROBE_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
