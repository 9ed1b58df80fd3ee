"""The fetcher against servers, names and redirects that mean it harm. All of them are on loopback, with real sockets."""

import asyncio
import gzip
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from service.errors import ServiceError
from service.fetching.fetcher import UrlFetcher
from service.logs import configure_logging
from tests.documents import make_image, make_pdf
from tests.patience import until
from tests.service.fetching.sites import (
    LOOPBACK,
    Answer,
    Names,
    Site,
    fetch,
    make_fetcher,
    recorded_sockets,
    redirect,
    response,
    running_site,
    trusting_context,
)

PDF, PNG = make_pdf(1), make_image()
METADATA = "169.254.169.254"


async def refusal(fetcher: UrlFetcher, *urls: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await fetch(fetcher, *urls)
    error = caught.value
    assert error.field == "content"
    assert (fetcher.requests, fetcher.held_bytes) == (0, 0)
    return error


def refused_by(answer: Answer, **limits: Any) -> tuple[ServiceError, Site]:
    """The error for a document that a site answers for in this way."""

    async def scenario() -> tuple[ServiceError, Site]:
        async with running_site({"/a": answer}) as site:
            fetcher = make_fetcher(f"http://files.test:{site.port}", **limits)
            error = await refusal(fetcher, f"http://files.test:{site.port}/a")
            await until(lambda: site.open_connections == 0)
            return error, site

    return asyncio.run(scenario())


def addresses_of(record: Sequence[tuple[str, Any]]) -> list[Any]:
    """Of the connections; no name may have been looked up."""
    assert all(event == "socket.connect" for event, _ in record)
    return [address for _, address in record]


class TestNames:
    """Names and addresses: the check is of the very addresses that are connected to."""

    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.2"], [METADATA], ["10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["64:ff9b::a00:1"], ["2002:7f00:1::"],
            [LOOPBACK, "10.0.0.1"], ["8.8.8.8", "fd00:ec2::254"], [],
        ],
    )  # fmt: skip
    def test_a_name_with_an_address_inside_is_refused_like_a_name_that_does_not_exist(
        self, addresses: list[str]
    ) -> None:
        async def scenario() -> None:
            names, outcomes = Names(files_test=[addresses]), list[str]()
            fetcher = make_fetcher("files.test,gone.test", names, outcomes=outcomes)
            with recorded_sockets() as record:
                inside = await refusal(fetcher, "https://files.test/a")
                gone = await refusal(fetcher, "https://gone.test/a")
            assert record == []
            assert (inside.code, gone.code) == ("url_unreachable", "url_unreachable")
            assert inside.message.replace("files.test", "gone.test") == gone.message
            assert outcomes == ["address", "address"] and not any(address in inside.message for address in addresses)

        asyncio.run(scenario())

    def test_a_name_is_looked_up_once_and_that_address_is_connected_to(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": response(PDF)}) as site:
                names = Names(files_test=[[LOOPBACK], [METADATA]])
                fetcher = make_fetcher(f"http://files.test:{site.port}", names)
                with recorded_sockets() as record:
                    assert await fetch(fetcher, f"http://files.test:{site.port}/a") == [PDF]
                assert names.lookups == ["files.test"]
                assert addresses_of(record) == [(LOOPBACK, site.port)]

        asyncio.run(scenario())

    def test_a_redirect_to_the_same_name_is_looked_up_and_checked_again(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": redirect("/b"), "/b": response(PDF)}) as site:
                names = Names(files_test=[[LOOPBACK], [METADATA]])
                fetcher = make_fetcher(f"http://files.test:{site.port}", names)
                with recorded_sockets() as record:
                    error = await refusal(fetcher, f"http://files.test:{site.port}/a")
                assert error.code == "url_unreachable" and names.lookups == ["files.test"] * 2
                assert addresses_of(record) == [(LOOPBACK, site.port)] and site.paths == ["/a"]

        asyncio.run(scenario())

    def test_the_next_address_is_tried_where_one_does_not_answer(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": response(PDF)}) as site:
                names = Names(files_test=[["::1", LOOPBACK]])  # where nobody listens
                fetcher = make_fetcher(f"http://files.test:{site.port}", names, may_connect=lambda address: True)
                assert await fetch(fetcher, f"http://files.test:{site.port}/a") == [PDF]

        asyncio.run(scenario())

    @pytest.mark.parametrize("host", ["127.0.0.9", METADATA, "[::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a00:1]"])
    def test_an_address_as_the_host_is_checked_too(self, host: str) -> None:
        async def scenario() -> None:
            names = Names()
            with recorded_sockets() as record:
                assert (await refusal(make_fetcher("public", names), f"https://{host}/")).code == "url_unreachable"
            assert (record, names.lookups) == ([], [])

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "url",
        [
            "https://other.test/a", "http://files.test/a", "https://files.test:8443/a", "https://user:secret@files.test/a",
            "https://other.test\\@files.test/a", "https://files.test@other.test/", "ftp://files.test/a", "https://localhost/a",
            "https://files.test./a", "https://2130706433/", "https://files.test/a#view", "https://ﬁles.test/a", "",
        ],
    )  # fmt: skip
    def test_a_url_that_is_not_allowed_is_refused_before_anything_is_looked_up(self, url: str) -> None:
        async def scenario() -> None:
            names, outcomes = Names(files_test=[[LOOPBACK]]), list[str]()
            with recorded_sockets() as record:
                error = await refusal(make_fetcher("files.test", names, outcomes=outcomes), "https://files.test/", url)
            assert (error.code, error.document_index) == ("url_refused", 1)
            assert (record, names.lookups, outcomes) == ([], [], ["refused"]) and "secret" not in error.message

        asyncio.run(scenario())

    def test_without_the_setting_nothing_is_fetched(self) -> None:
        async def scenario() -> None:
            names = Names(files_test=[[LOOPBACK]])
            with recorded_sockets() as record:
                error = await refusal(make_fetcher("off", names), "https://files.test/a")
            assert error.code == "url_not_supported" and "ZIPRERANK_URL_FETCH" in error.message
            assert (record, names.lookups) == ([], [])

        asyncio.run(scenario())


class TestRedirects:
    """Every redirect goes through the whole check again."""

    @pytest.mark.parametrize(
        ("location", "code"),
        [
            ("http://127.0.0.1/latest", "url_refused"),
            (f"http://{METADATA}/latest/meta-data/", "url_refused"),
            ("http://[::1]/", "url_refused"),
            ("http://[::ffff:169.254.169.254]/", "url_refused"),
            ("http://other.test/", "url_refused"),
            ("//other.test/", "url_refused"),
            ("http://files.test/", "url_refused"),  # another port
            ("https://user:secret@inside.test/", "url_refused"),
            ("https://other.test\\@inside.test/", "url_refused"),
            ("file:///etc/passwd", "url_refused"),
            ("gopher://inside.test/", "url_refused"),
            ("https://2130706433/", "url_refused"),
            ("http://inside.test/", "url_refused"),  # from https, or not, to http that is not listed
            ("https://inside.test/", "url_unreachable"),  # listed, with an address inside
            ("https://gone.test/", "url_unreachable"),
        ],
    )
    def test_a_redirect_elsewhere_is_not_followed(self, location: str, code: str) -> None:
        async def scenario() -> None:
            async with running_site({"/a": redirect(location)}) as site:
                names = Names(files_test=[[LOOPBACK]], inside_test=[["10.0.0.1"]], other_test=[[LOOPBACK]])
                fetcher = make_fetcher(f"http://files.test:{site.port},inside.test,gone.test", names)
                with recorded_sockets() as record:
                    error = await refusal(fetcher, f"http://files.test:{site.port}/a")
                assert error.code == code
                assert not any(
                    hidden in error.message for hidden in ("secret", "10.0.0.1", "127.0.0.1", METADATA, "other")
                )
                assert "other.test" not in names.lookups
                assert addresses_of(record) == [(LOOPBACK, site.port)]

        asyncio.run(scenario())

    def test_from_https_to_http_only_where_the_host_is_listed_with_http(self) -> None:
        async def scenario(listed: str) -> tuple[list[bytes], list[str]]:
            async with running_site({"/b": response(PDF)}) as plain:
                answers: dict[str, Answer] = {"/a": redirect(f"http://files.test:{plain.port}/b")}
                async with running_site(answers, with_tls=True) as secure:
                    policy = f"files.test:{secure.port}{listed.format(port=plain.port)}"
                    fetcher = make_fetcher(policy, ssl_context=trusting_context())
                    url = f"https://files.test:{secure.port}/a"
                    if not listed:
                        return [], [(await refusal(fetcher, url)).code, *plain.paths]
                    return await fetch(fetcher, url), plain.paths

        assert asyncio.run(scenario("")) == ([], ["url_refused"])
        assert asyncio.run(scenario(",http://files.test:{port}")) == ([PDF], ["/b"])

    def test_ten_thousand_redirects_end_after_three(self) -> None:
        async def scenario() -> None:
            answers: dict[str, Answer] = {f"/{number}": redirect(f"/{number + 1}") for number in range(10_000)}
            async with running_site(answers) as site:
                fetcher = make_fetcher(f"http://files.test:{site.port}")
                error = await refusal(fetcher, f"http://files.test:{site.port}/0")
                assert (error.code, site.paths) == ("url_unreachable", ["/0", "/1", "/2", "/3"])

        asyncio.run(scenario())

    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
    def test_three_redirects_are_followed_without_cookies(self, status: str) -> None:
        async def scenario() -> None:
            answers: dict[str, Answer] = {f"/{number}": redirect(f"/{number + 1}", status) for number in range(3)}
            async with running_site({**answers, "/3": response(PDF)}) as site:
                fetcher = make_fetcher(f"http://files.test:{site.port}")
                assert await fetch(fetcher, f"http://files.test:{site.port}/0") == [PDF]
                assert site.paths == ["/0", "/1", "/2", "/3"]
                assert not any(b"cookie" in head.lower() for head in site.heads)

        asyncio.run(scenario())

    def test_a_redirect_without_a_target(self) -> None:
        error, _ = refused_by(response(b"", status="302 Found"))
        assert error.code == "url_unreachable" and "302" in error.message


def write_for_ever(*pieces: bytes, pause: float = 0.0) -> Answer:
    """The first piece, then the others again and again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pieces[0])
        while True:
            for piece in pieces[1:]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)

    return answer


def write_and_wait(begun: bytes) -> Answer:
    """Until the client closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await reader.read()

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class TestBodies:
    """Bodies that are too long, too slow, too small, compressed, or no documents."""

    def test_an_endless_body_ends_at_the_limit(self) -> None:
        error, _ = refused_by(write_for_ever(HEAD, b"%PDF-1.7\n" + bytes(1 << 14)), max_file_bytes=1 << 18)
        assert (error.code, error.status) == ("file_too_large", 413) and str(1 << 18) in error.message

    def test_an_endless_body_in_chunks_ends_at_the_limit(self) -> None:
        chunk = b"2000\r\n" + b"%PDF-1.7\n".ljust(0x2000) + b"\r\n"
        error, _ = refused_by(write_for_ever(CHUNKED, chunk), max_file_bytes=1 << 18)
        assert error.code == "file_too_large"

    def test_a_declared_length_over_the_limit_is_refused_before_the_body(self) -> None:
        error, _ = refused_by(write_and_wait(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"))
        assert error.code == "file_too_large" and "99999999999" in error.message

    def test_an_endless_body_of_no_document_ends_at_once(self) -> None:
        error, _ = refused_by(write_for_ever(HEAD, bytes(1 << 10)), max_file_bytes=1 << 30, max_request_bytes=1 << 30)
        assert (error.code, error.status) == ("unsupported_media_type", 415)

    def test_a_slow_drip_ends_with_the_total_time(self) -> None:
        error, _ = refused_by(write_for_ever(HEAD + b"%PDF-1.7\n", b" ", pause=0.005), seconds=0.2)
        assert (error.code, error.status) == ("url_timeout", 422)

    def test_headers_that_drip_end_with_the_total_time(self) -> None:
        drip = write_for_ever(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", pause=0.005)
        assert refused_by(drip, seconds=0.2)[0].code == "url_timeout"

    def test_interim_answers_for_ever_end_with_the_total_time(self) -> None:
        interim = write_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.005)
        assert refused_by(interim, seconds=0.2)[0].code == "url_timeout"

    @pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n", HEAD, HEAD + PDF[:200]])
    def test_silence_ends_with_the_idle_time(self, begun: bytes) -> None:
        error, _ = refused_by(write_and_wait(begun), idle_seconds=0.1)
        assert error.code == "url_timeout" and "0.1 s" in error.message

    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "identity, gzip"])
    def test_a_compressed_body_is_not_unpacked(self, encoding: str) -> None:
        bomb = gzip.compress(PDF + bytes(50 << 20))
        assert len(bomb) < 1 << 20
        error, _ = refused_by(response(bomb, f"Content-Encoding: {encoding}"))
        assert error.code == "url_unreachable" and "compressed" in error.message

    def test_a_bomb_that_says_nothing_is_no_document(self) -> None:
        error, _ = refused_by(response(gzip.compress(PDF + bytes(50 << 20))))
        assert error.code == "unsupported_media_type"

    def test_a_compressed_transfer_is_refused(self) -> None:
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + gzip.compress(PDF)
        assert refused_by(answer)[0].code == "url_unreachable"

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + PDF[:500],
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + PDF,
            b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n" + PDF,
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Length: 501\r\n\r\n" + PDF,
            CHUNKED + b"1f4\r\n" + PDF[:100],
            CHUNKED + b"zz\r\n" + PDF,
            CHUNKED + b"f" * 100,
            b"",
            b"\0" * 100,
            PDF,
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (1 << 14) + b"\r\n",
            b"HTTP/1.1 200 OK\r\na: " + b"b" * (1 << 16) + b"\r\n\r\n" + PDF,
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + PDF,
        ],
        ids=range(13),
    )
    def test_an_answer_with_a_wrong_length_or_against_the_rules_of_http(self, answer: bytes) -> None:
        assert refused_by(answer)[0].code == "url_unreachable"

    def test_bytes_after_the_declared_length_are_not_read(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": response(PDF) + b"HTTP/1.1 200 OK\r\n\r\nmore"}) as site:
                fetcher = make_fetcher(f"http://files.test:{site.port}")
                assert await fetch(fetcher, f"http://files.test:{site.port}/a") == [PDF]

        asyncio.run(scenario())

    def test_a_body_in_tiny_pieces_ends_early(self) -> None:
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in PDF[:1024]) + b"1\r\n \r\n" * 4096
        error, _ = refused_by(write_for_ever(CHUNKED, pieces))
        assert error.code == "url_unreachable" and "pieces" in error.message

    @pytest.mark.parametrize(
        "status", ["401 Unauthorized", "404 Not Found", "206 Partial Content", "204 No Content", "500 X"]
    )
    def test_another_status_is_named_and_the_body_is_not(self, status: str) -> None:
        body = b"" if status.startswith("204") else b"%PDF-1.7 secret"
        error, _ = refused_by(response(body, "X-Secret: secret", status=status))
        assert error.code == "url_unreachable" and status[:3] in error.message and "secret" not in error.message


class TestConnections:
    """Sockets: nobody listens, certificates, proxies, and the end of connections."""

    def test_nobody_listens(self) -> None:
        async def scenario() -> None:
            async with running_site({}) as site:
                port = site.port
            outcomes: list[str] = []
            error = await refusal(
                make_fetcher(f"http://files.test:{port}", outcomes=outcomes), f"http://files.test:{port}/"
            )
            assert (error.code, outcomes) == ("url_unreachable", ["unreachable"])

        asyncio.run(scenario())

    def test_the_certificate_is_that_of_the_name_although_an_address_is_connected_to(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": response(PDF)}, with_tls=True) as site:
                names = Names(files_test=[[LOOPBACK]], other_test=[[LOOPBACK]])
                policy = f"files.test:{site.port},other.test:{site.port}"
                fetcher = make_fetcher(policy, names, ssl_context=trusting_context())
                with recorded_sockets() as record:
                    assert await fetch(fetcher, f"https://files.test:{site.port}/a") == [PDF]
                assert addresses_of(record) == [(LOOPBACK, site.port)] and site.server_names == ["files.test"]
                error = await refusal(fetcher, f"https://other.test:{site.port}/a")
                assert error.code == "url_unreachable" and "certificate" in error.message
                assert site.server_names == ["files.test", "other.test"] and site.paths == ["/a"]

        asyncio.run(scenario())

    def test_a_certificate_of_an_unknown_authority_is_refused(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": response(PDF)}, with_tls=True) as site:
                fetcher = make_fetcher(f"files.test:{site.port}")  # with the system's authorities
                error = await refusal(fetcher, f"https://files.test:{site.port}/a")
                assert "certificate" in error.message and site.paths == []

        asyncio.run(scenario())

    def test_a_server_that_answers_in_plain_is_not_listened_to(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(response(PDF))
            await reader.read(1)
            writer.close()

        async def scenario() -> None:
            async with await asyncio.start_server(answer, LOOPBACK, 0) as server:
                port = server.sockets[0].getsockname()[1]
                fetcher = make_fetcher(f"files.test:{port}", ssl_context=trusting_context())
                assert (await refusal(fetcher, f"https://files.test:{port}/a")).code == "url_unreachable"

        asyncio.run(scenario())

    def test_a_handshake_that_stalls_ends_with_the_idle_time(self) -> None:
        async def scenario() -> None:
            async with running_site({}) as site:  # which waits for a request
                fetcher = make_fetcher(f"files.test:{site.port}", idle_seconds=0.1, ssl_context=trusting_context())
                assert (await refusal(fetcher, f"https://files.test:{site.port}/")).code == "url_timeout"
                await until(lambda: site.open_connections == 0)

        asyncio.run(scenario())

    def test_neither_proxies_nor_headers_of_anyone_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.3:1")

        async def scenario() -> None:
            async with running_site({"/a?token=b": response(PNG)}) as site:
                fetcher = make_fetcher(f"http://files.test:{site.port}")
                with recorded_sockets() as record:
                    assert await fetch(fetcher, f"http://files.test:{site.port}/a?token=b") == [PNG]
                assert addresses_of(record) == [(LOOPBACK, site.port)]
                lines = site.heads[0].decode().split("\r\n")
                assert lines[:2] == ["GET /a?token=b HTTP/1.1", f"Host: files.test:{site.port}"]
                names = {line.partition(":")[0] for line in lines[1:] if line}
                assert names == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
                assert "Accept-Encoding: identity" in lines and "Connection: close" in lines

        asyncio.run(scenario())

    def test_cancelling_closes_the_connection(self) -> None:
        async def scenario() -> None:
            async with running_site({"/a": write_and_wait(HEAD + PDF[:200])}) as site:
                outcomes: list[str] = []
                fetcher = make_fetcher(f"http://files.test:{site.port}", outcomes=outcomes)
                task = asyncio.create_task(fetch(fetcher, f"http://files.test:{site.port}/a"))
                await until(lambda: fetcher.held_bytes > 0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (fetcher.requests, fetcher.held_bytes, outcomes) == (0, 0, ["cancelled"])
                await until(lambda: site.open_connections == 0)

        asyncio.run(scenario())

    def test_the_log_has_the_reason_and_neither_path_nor_query(self, capsys: pytest.CaptureFixture[str]) -> None:
        async def scenario() -> None:
            await refusal(
                make_fetcher("files.test", Names(files_test=[[METADATA]])), "https://files.test/secret?a=secret"
            )
            answers: dict[str, Answer] = {"/secret?a=secret": redirect("/?secret"), "/?secret": response(PDF)}
            async with running_site(answers) as site:
                fetcher = make_fetcher(f"http://files.test:{site.port}")
                await fetch(fetcher, f"http://files.test:{site.port}/secret?a=secret")

        handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
        try:
            configure_logging("debug")
            asyncio.run(scenario())
        finally:
            logging.getLogger().handlers[:] = handlers
            logging.getLogger().setLevel(level)
        text = capsys.readouterr().err
        [line] = [line for line in text.splitlines() if "service.fetching" in line]
        assert "https://files.test" in line and METADATA in line and "rerank-1" in line
        assert "secret" not in text
