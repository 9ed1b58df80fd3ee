"""Forms as different senders write them, by the headers that they send."""

import pytest

from service.dialects.multipart import Part, parse_multipart
from service.errors import MalformedBodyError


def parsed(*headers: str, data: bytes = b"%PDF", content_type: str = "multipart/form-data; boundary=x") -> Part:
    """The one part of a body. headers: the lines of its head."""
    head = "\r\n".join(headers).encode()
    [part] = parse_multipart([b"--x\r\n", head, b"\r\n\r\n", data, b"\r\n--x--\r\n"], content_type)
    return part


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("filename=\"a.pdf\"; filename*=UTF-8''%C3%A4%20b.pdf", "ä b.pdf"),
        ("filename*=utf-8''%C3%A4.pdf; filename=\"a.pdf\"", "ä.pdf"),
        ("filename*=UTF-8'de'%C3%A4.pdf", "ä.pdf"),
        ("filename*=\"UTF-8''%C3%A4.pdf\"", "ä.pdf"),
        ("filename*=ISO-8859-1''%E4.pdf", "ä.pdf"),
        ("filename=\"a.pdf\"; filename*=UTF-8''%FF", "a.pdf"),
        ("filename=\"a.pdf\"; filename*=koi8-r''%C1.pdf", "a.pdf"),
        ('filename="=?utf-8?B?w6QuIHBkZg==?="', "ä. pdf"),
        ("filename==?utf-8?Q?=C3=A4.pdf?=", "ä.pdf"),
        ('filename="=?utf-8?B?w6Q=?= =?utf-8?B?w7Y=?="', "äö"),
        ('filename="=?no-such-charset?B?w6Q=?="', "=?no-such-charset?B?w6Q=?="),
        ('filename="ä.pdf"', "ä.pdf"),
        ("filename=a b.pdf", "a b.pdf"),
        ("filename=a.pdf ; other=1", "a.pdf"),
        ('FileName = "a.pdf"', "a.pdf"),
        (r'filename="a \"b\" c.pdf"', 'a "b" c.pdf'),
        (r'filename="C:\pages\a.pdf"', r"C:\pages\a.pdf"),
        ('filename="a;b=c.pdf"', "a;b=c.pdf"),
        ('filename=""', ""),
    ],
)
def test_file_names(parameters: str, name: str) -> None:
    part = parsed(f"Content-Disposition: form-data; name=file; {parameters}")
    assert (part.name, part.file_name, part.is_file) == ("file", name, True)


@pytest.mark.parametrize("value", ["UTF-8''%FF", "koi8-r''%C1.pdf", "a.pdf", ""])
def test_an_extended_file_name_alone_that_cannot_be_read_is_refused(value: str) -> None:
    with pytest.raises(MalformedBodyError, match=r"filename\* of a part"):
        parsed(f"Content-Disposition: form-data; name=file; filename*={value}")


def test_a_file_name_in_another_encoding_is_refused() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="\xe4"\r\n\r\na\r\n--x--\r\n'
    with pytest.raises(MalformedBodyError, match="a file name is not UTF-8"):
        parse_multipart([body], "multipart/form-data; boundary=x")


@pytest.mark.parametrize(
    ("headers", "is_file"),
    [
        (['Content-Disposition: form-data; name="file"'], True),
        (['Content-Disposition: form-data; name="document"', "Content-Type: application/pdf"], True),
        (['Content-Disposition: form-data; name="page"', "content-type: Image/PNG"], True),
        (['Content-Disposition: form-data; name="query"', "Content-Type: text/plain; charset=utf-8"], False),
        (['Content-Disposition: form-data; name="ziprerank"', "Content-Type: application/json"], False),
        (['Content-Disposition: form-data; name="query"'], False),
    ],
)
def test_a_part_without_file_name_is_a_file_by_its_field_or_its_media_type(headers: list[str], is_file: bool) -> None:
    part = parsed(*headers)
    assert (part.file_name, part.is_file) == (None, is_file)


@pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable"])
def test_a_part_in_an_encoding_for_mail_is_refused(encoding: str) -> None:
    with pytest.raises(MalformedBodyError, match="Send the bytes as they are"):
        parsed("Content-Disposition: form-data; name=file", f"Content-Transfer-Encoding: {encoding}")


def test_a_part_that_says_it_is_binary_is_taken() -> None:
    assert parsed("Content-Disposition: form-data; name=a", "Content-Transfer-Encoding: binary").data == b"%PDF"


_PART = b'Content-Disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    "preamble", [b"", b"\r\n", b"This is a form.\r\n", b"--xy is no boundary\r\n", b"a --x\r\n\r\n"]
)
@pytest.mark.parametrize("cut", [0, 1, 3, 5])
def test_what_is_before_the_first_boundary_is_passed_over(preamble: bytes, cut: int) -> None:
    body = preamble + b"--x\r\n" + _PART + b"--x--\r\nbehind it"
    [part] = parse_multipart([body[:cut], body[cut:]], "multipart/form-data; boundary=x")
    assert part.text == "1"


def test_a_body_without_its_boundary_is_refused() -> None:
    with pytest.raises(MalformedBodyError, match="not well-formed"):
        parse_multipart([b"a\r\n" * 99_999], "multipart/form-data; boundary=x")


@pytest.mark.parametrize("written", ['"x;:y z"', '"x;:y z"; charset=utf-8'])
def test_a_boundary_in_quotes_may_have_any_characters(written: str) -> None:
    body = b"--x;:y z\r\n" + _PART + b"--x;:y z--\r\n"
    [part] = parse_multipart([body], f"multipart/form-data; Boundary={written}")
    assert part.text == "1"


@pytest.mark.parametrize("content_type", ["multipart/form-data", 'multipart/form-data; boundary=""'])
def test_a_content_type_without_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedBodyError, match="boundary"):
        parse_multipart([b"--x--\r\n"], content_type)
