"""A batch job: register the PDFs of a folder, rank the pages of each for many questions, write the rankings as JSONL.

    python examples/batch_folder.py reports questions.jsonl rankings.jsonl

A line of questions.jsonl: {"id": "q1", "query": "bank loan interest", "file": "annual-report.pdf"}
A line of rankings.jsonl:  {"id": "q1", "file": "annual-report.pdf", "pages": [{"page": 5, "score": 0.98}, …]}

Stopped at any moment, it goes on where it was: questions whose ranking was written are not asked again. A question that
the service refuses goes to standard error, and the job ends with 1; the next run asks it again. Needs Python alone.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = os.environ.get("ZIPRERANK_URL", "http://127.0.0.1:8000")
KEY = os.environ.get("ZIPRERANK_KEY", "none")
TRIES = 8
WORTH_ANOTHER_TRY = {408, 429, 500, 502, 503, 504}
LONGEST_WAIT_SECONDS = 60.0


def ask(method: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> Any:
    """The answer's JSON. Waits and asks again where that may help. Raises: HTTPError, OSError, HTTPException."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": content_type}
    for number in range(1, TRIES + 1):
        try:
            request = urllib.request.Request(f"{ROOT}{path}", body, headers, method=method)
            with urllib.request.urlopen(request, timeout=300) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in WORTH_ANOTHER_TRY or number == TRIES:
                raise
            wait = seconds_to_wait(error.headers.get("Retry-After"), number)
            error.close()
        except (OSError, http.client.HTTPException):  # no connection, or one that broke
            if number == TRIES:
                raise
            wait = seconds_to_wait(None, number)
        time.sleep(wait)


def seconds_to_wait(retry_after: str | None, number: int) -> float:
    """At least as long as the service says, longer after each try, with a random part so that jobs do not ask together."""
    least = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return max(least, min(2.0 ** (number - 1), LONGEST_WAIT_SECONDS)) * random.uniform(1.0, 1.25)


def register(file: Path) -> str:
    """The document's id, which changes with its bytes, so a document that the service has is not sent again."""
    data = file.read_bytes()
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem)[:100]
    name = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}"
    try:
        ask("GET", f"/documents/{name}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        ask("PUT", f"/documents/{name}", data, "application/pdf")
    return name


def rank(question: dict[str, str], document: str, top_n: int) -> dict[str, Any]:
    """A line of rankings.jsonl."""
    body = {"query": question["query"], "documents": [{"id": document}], "top_n": top_n}
    results = ask("POST", "/rerank", json.dumps(body).encode())["results"]
    pages = [{"page": result["page"], "score": result["relevance_score"]} for result in results]
    return {"id": question["id"], "file": question["file"], "pages": pages}


def answered(rankings: Path) -> set[str]:
    """The ids in rankings.jsonl. A last line that was cut off by a kill is removed."""
    if not rankings.exists():
        return set()
    data = rankings.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(rankings, len(whole))
    return {json.loads(line)["id"] for line in whole.splitlines()}


def reason(error: Exception) -> str:
    """In the service's words where it answered."""
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.read().decode(errors='replace')}"
    return str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("rankings", type=Path)
    parser.add_argument("--top-n", type=int, default=10, help="pages of each ranking")
    parser.add_argument("--parallel", type=int, default=4, help="requests at once, which share batches on the device")
    given = parser.parse_args()

    done = answered(given.rankings)
    lines = given.questions.read_text().splitlines()
    questions = [json.loads(line) for line in lines if line.strip()]
    open_questions = [question for question in questions if question["id"] not in done]
    print(f"{len(questions)} questions, {len(open_questions)} of them without a ranking", flush=True)
    failures = 0

    def attempt(work: Any, *arguments: Any) -> Any:
        """The result, or the error as a value, so that one failure does not end the others."""
        try:
            return work(*arguments)
        except (OSError, http.client.HTTPException) as error:  # HTTPError is an OSError
            return error

    def answer(question: dict[str, str]) -> Any:
        document = documents[question["file"]]
        return document if isinstance(document, Exception) else attempt(rank, question, document, given.top_n)

    threads = ThreadPoolExecutor(given.parallel)
    try:
        files = sorted({question["file"] for question in open_questions})
        registered = threads.map(lambda file: attempt(register, given.folder / file), files)
        documents = dict(zip(files, registered, strict=True))
        answers = threads.map(answer, open_questions)
        with given.rankings.open("a") as output:
            for question, line in zip(open_questions, answers, strict=True):
                if isinstance(line, Exception):
                    failures += 1
                    print(f"{question['id']}: {question['file']}: {reason(line)}", file=sys.stderr)
                else:
                    print(json.dumps(line), file=output, flush=True)
    finally:
        threads.shutdown(cancel_futures=True)  # after Ctrl-C, requests that were not sent are not waited for
    print(f"{len(open_questions) - failures} rankings written, {failures} questions failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
