"""Damage to files, drawn by a seeded generator: a file that decoders still begin to read is more dangerous than noise."""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

_MOST_BYTES = 1 << 20  # of a mutated file: duplication may not go on for ever
_MOST_STEPS = 4
_ODD_NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32_767, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
_PDF_NUMBER = re.compile(rb"(?<![\w.])\d{1,10}(?![\w.])")
_PDF_OBJECT = re.compile(rb"\d+ 0 obj.*?endobj\n?", re.DOTALL)
_PNG_CHUNK = 12  # bytes of a chunk beside its data: length, name, checksum

Mutation = Callable[[bytes, Random], bytes]


def mutated(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """`data` after one to four steps of damage. others: files of which pieces may be taken."""
    for _ in range(random.randint(1, _MOST_STEPS)):
        if random.random() < 0.15:
            data = splice(data, random.choice(others), random)
        else:
            data = random.choice(_choices(data))(data, random)
        data = data[:_MOST_BYTES] or b"\0"
    return data


def _choices(data: bytes) -> tuple[Mutation, ...]:
    """Half of the damage knows the format of the file."""
    general: tuple[Mutation, ...] = (flip_bits, truncate, duplicate_chunk, remove_chunk, overwrite_number, swap_chunks)
    if data.startswith(b"%PDF"):
        return (
            *general,
            damage_cross_references,
            change_pdf_number,
            change_pdf_number,
            duplicate_object,
            remove_object,
        )
    if data.startswith(b"\x89PNG"):
        return (*general, duplicate_png_chunk, damage_png_chunk, damage_png_chunk)
    return general


def flip_bits(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def truncate(data: bytes, random: Random) -> bytes:
    cut = random.randrange(len(data))
    return data[:cut] if random.random() < 0.8 else data[cut:]


def _range(data: bytes, random: Random) -> tuple[int, int]:
    """A piece of at most a quarter, more often a short one."""
    start = random.randrange(len(data))
    return start, min(len(data), start + 1 + int(len(data) / 4 * random.random() ** 3))


def duplicate_chunk(data: bytes, random: Random) -> bytes:
    start, end = _range(data, random)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 50)) + data[end:]


def remove_chunk(data: bytes, random: Random) -> bytes:
    start, end = _range(data, random)
    return data[:start] + data[end:]


def swap_chunks(data: bytes, random: Random) -> bytes:
    start, end = _range(data, random)
    other = random.randrange(len(data) - (end - start) + 1)
    piece, rest = data[start:end], data[:start] + data[end:]
    return rest[:other] + piece + rest[other:]


def overwrite_number(data: bytes, random: Random) -> bytes:
    """A 16- or 32-bit number at some place: sizes and offsets are such."""
    value = random.choice(_ODD_NUMBERS)
    width, order = random.choice((2, 4)), random.choice("<>")
    number = struct.pack(f"{order}{'H' if width == 2 else 'I'}", value % (1 << 8 * width))
    start = random.randrange(min(len(data), random.choice((64, 512, len(data)))))
    return data[:start] + number + data[start + width :]


def splice(data: bytes, other: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of another, or a piece of it in the middle."""
    start, end = _range(other, random)
    place = random.randrange(len(data))
    return data[:place] + (other[start:] if random.random() < 0.5 else other[start:end] + data[place:])


def change_pdf_number(data: bytes, random: Random) -> bytes:
    """A number as PDF writes it: a size, a count, a reference to an object, an operand."""
    places = list(_PDF_NUMBER.finditer(data))
    if not places:
        return flip_bits(data, random)
    place = random.choice(places)
    value = random.choice((*_ODD_NUMBERS, random.randrange(40), int(place[0]) * 1000, 10**18))
    return data[: place.start()] + str(value).encode() + data[place.end() :]


def damage_cross_references(data: bytes, random: Random) -> bytes:
    """The table by which a reader finds objects: offsets, its place, its end, and the trailer."""
    kind = random.randrange(5)
    if kind == 0:
        entries = list(re.finditer(rb"\d{10} \d{5} [nf]", data))
        if entries:
            place = random.choice(entries)
            entry = b"%010d %05d %c" % (
                random.randrange(2 * len(data)),
                random.choice((0, 65_535)),
                random.choice(b"nf"),
            )
            return data[: place.start()] + entry + data[place.end() :]
    if kind == 1:
        return re.sub(rb"startxref\s+\d+", b"startxref\n%d" % random.choice((0, 9, len(data) // 2, 2**31, 2**63)), data)
    if kind == 2:
        return data.replace(b"xref\n", random.choice((b"", b"xref\n0 0\n", b"xref\n0 1000000\n")), 1)
    if kind == 3:
        return re.sub(rb"/Size \d+", b"/Size %d" % random.choice((0, 1, 2**31 - 1)), data)
    # A chain of tables that leads back to itself.
    return re.sub(rb"trailer\s*<<", b"trailer\n<</Prev %d" % max(0, data.rfind(b"xref")), data)


def duplicate_object(data: bytes, random: Random) -> bytes:
    objects = list(_PDF_OBJECT.finditer(data))
    if not objects:
        return duplicate_chunk(data, random)
    source, target = random.choice(objects), random.choice(objects)
    number = re.match(rb"\d+", target[0]) or target
    renamed = re.sub(rb"^\d+", number[0], source[0])
    return data[: target.end()] + renamed + data[target.end() :]


def remove_object(data: bytes, random: Random) -> bytes:
    objects = list(_PDF_OBJECT.finditer(data))
    if not objects:
        return remove_chunk(data, random)
    gone = random.choice(objects)
    return data[: gone.start()] + data[gone.end() :]


def _png_chunks(data: bytes) -> list[tuple[int, int]]:
    """Beginning and end of each chunk that is whole."""
    chunks, start = [], 8
    while start + _PNG_CHUNK <= len(data):
        end = start + _PNG_CHUNK + int(struct.unpack_from(">I", data, start)[0])
        if end > len(data):
            break
        chunks.append((start, end))
        start = end
    return chunks


def duplicate_png_chunk(data: bytes, random: Random) -> bytes:
    chunks = _png_chunks(data)
    if not chunks:
        return duplicate_chunk(data, random)
    (start, end), (_, place) = random.choice(chunks), random.choice(chunks)
    return data[:place] + data[start:end] * random.choice((1, 2, 100)) + data[place:]


def damage_png_chunk(data: bytes, random: Random) -> bytes:
    """Data of a chunk, with a checksum that is right: the decoder does not stop at it."""
    chunks = [(start, end) for start, end in _png_chunks(data) if end - start > _PNG_CHUNK]
    if not chunks:
        return flip_bits(data, random)
    start, end = random.choice(chunks)
    content = flip_bits(data[start + 8 : end - 4], random)
    checked = data[start + 4 : start + 8] + content
    return data[: start + 4] + checked + struct.pack(">I", zlib.crc32(checked)) + data[end:]
