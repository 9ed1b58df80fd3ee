from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.training.errors import DataError
from model.training.page_images import FolderImages, ParquetImages, find_page_images
from tests.documents import encode, make_image

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def store(path: Path, *, colour: str, format: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_image(4, 4, colour=colour, format=format))


def colour(images: FolderImages | ParquetImages, doc_name: str, page_id: str, domain: str = "any") -> object:
    page = images.find(doc_name, page_id, domain=domain)()
    assert page.mode == "RGB"
    return page.getpixel((0, 0))


def test_pages_lie_in_folders_by_document(tmp_path: Path) -> None:
    store(tmp_path / "a" / "3.png", colour="red")
    store(tmp_path / "b.pdf" / "3.png", colour="blue")
    images = FolderImages(tmp_path)
    assert colour(images, "a", "3") == RED
    assert colour(images, "b.pdf", "3") == BLUE


def test_page_ids_that_are_names_may_lie_flat(tmp_path: Path) -> None:
    store(tmp_path / "a_3.png", colour="red")
    assert colour(FolderImages(tmp_path), "a", "a_3") == RED


def test_page_numbers_may_not_lie_flat_because_every_document_has_them(tmp_path: Path) -> None:
    store(tmp_path / "3.png", colour="red")
    with pytest.raises(DataError, match=r"no image a/3\.png"):
        FolderImages(tmp_path).find("a", "3", domain="any")


def test_names_that_lead_out_of_the_folder_lead_nowhere(tmp_path: Path) -> None:
    store(tmp_path / "secret.png", colour="red")
    store(tmp_path / "pages" / "a_1.png", colour="red")
    with pytest.raises(DataError, match="no image"):
        FolderImages(tmp_path / "pages").find("..", "secret", domain="any")


def test_two_images_of_one_page_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "a" / "3.png", colour="red")
    store(tmp_path / "a" / "3.jpg", colour="red", format="JPEG")
    with pytest.raises(DataError, match="both images of page a/3"):
        FolderImages(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match="holds no page images"):
        find_page_images([tmp_path])


def test_a_broken_image_is_told_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a_1.png").write_bytes(make_image()[:40])
    page = FolderImages(tmp_path).find("a", "a_1", domain="any")
    with pytest.raises(DataError, match=r"a_1\.png cannot be read as an image"):
        page()


def test_what_is_neither_a_folder_nor_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing; give one folder that exists, or files that end in \.parquet"):
        find_page_images([tmp_path / "missing"])


def write_parquet(path: Path, *, colours: list[str]) -> None:
    rows = {
        "file_name": ["report"] * len(colours),
        "page": list(range(len(colours))),
        "image": [make_image(4, 4, colour=colour) for colour in colours],
    }
    pq.write_table(pa.table(rows), path)


def test_a_page_comes_from_its_own_domains_file_first(tmp_path: Path) -> None:
    write_parquet(tmp_path / "DUDE_filter.parquet", colours=["red"])
    write_parquet(tmp_path / "TAT-DQA_filter.parquet", colours=["blue", "green"])
    images = find_page_images(sorted(tmp_path.iterdir()))
    assert isinstance(images, ParquetImages)
    assert colour(images, "report", "0", "DUDE") == RED
    assert colour(images, "report", "0", "tat-dqa") == BLUE
    assert colour(images, "report", "1", "DUDE") == GREEN
    with pytest.raises(DataError, match="no page file holds page 2 of report"):
        images.find("report", "2", domain="DUDE")


def deep_grey() -> bytes:
    """Two pixels of 16-bit grey, black and mid-grey; the camera was held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.frombytes("I;16", (2, 1), b"\x00\x00\x00\x80"), "PNG", exif=exif)


def test_training_sees_the_page_that_the_service_would_make_of_the_image(tmp_path: Path) -> None:
    (tmp_path / "a_1.png").write_bytes(deep_grey())
    rows = {"file_name": ["report"], "page": ["a_1"], "image": [deep_grey()]}
    pq.write_table(pa.table(rows), tmp_path / "DUDE_filter.parquet")
    for images in (FolderImages(tmp_path), ParquetImages([tmp_path / "DUDE_filter.parquet"])):
        page = images.find("report", "a_1", domain="DUDE")()
        assert (page.mode, page.size) == ("RGB", (1, 2))
        assert [page.getpixel((0, row)) for row in range(2)] == [(0, 0, 0), (128, 128, 128)]
