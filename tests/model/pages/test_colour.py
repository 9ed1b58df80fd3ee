"""Images that are not sRGB become what a viewer shows; all others keep their pixels."""

import io

import pytest
from PIL import Image, ImageCms

from model.pages.colour import profile_of_gamma
from model.pages.image import to_page

SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def made_up_profile(gamma: float, chromaticities: tuple[float, ...] = SRGB, *, mode: str = "RGB") -> bytes:
    profile = profile_of_gamma(gamma, chromaticities, mode=mode)
    assert profile is not None
    return profile


ADOBE = made_up_profile(1 / 2.2, ADOBE_RGB)
LINEAR_GREY = made_up_profile(1.0, mode="L")


def saved(image: Image.Image, format: str, **options: object) -> Image.Image:
    """The image as a file of that format holds it."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    loaded = Image.open(stream)
    loaded.load()
    return loaded


def colour(image: Image.Image) -> tuple[int, ...]:
    pixel = to_page(image).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def is_near(actual: tuple[int, ...], expected: tuple[int, ...], *, most: int = 3) -> bool:
    return max(abs(one - other) for one, other in zip(actual, expected, strict=True)) <= most


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_adobe_rgb_becomes_srgb(format: str) -> None:
    image = saved(Image.new("RGB", (16, 16), (100, 160, 90)), format, icc_profile=ADOBE)
    # By the formulas of both spaces: Adobe RGB (1998) with gamma 2.2, IEC 61966-2-1.
    assert is_near(colour(image), (53, 161, 85), most=6)  # JPEG and WebP round


@pytest.mark.parametrize("size", [(40, 30), (1500, 900)])
def test_white_black_and_grey_stay(size: tuple[int, int]) -> None:
    for level in (0, 128, 255):
        image = Image.new("RGB", size, (level,) * 3)
        image.info["icc_profile"] = ADOBE
        page = to_page(image)
        assert max(page.size) <= 1024 and is_near(colour(image), (level,) * 3, most=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("profile", [SRGB_PROFILE, b"", b"no profile" * 40, SRGB_PROFILE[:200], ADOBE + bytes(5 << 20)])
def test_srgb_and_broken_profiles_change_no_pixel(mode: str, profile: bytes) -> None:
    image = Image.effect_noise((50, 40), 90).convert("L").convert(mode)
    plain = to_page(image.copy())
    image.info["icc_profile"] = profile
    assert to_page(image).tobytes() == plain.tobytes()


@pytest.mark.parametrize("place", range(0, len(ADOBE), 9))
def test_no_broken_byte_of_a_profile_costs_the_page(place: int) -> None:
    image = Image.new("RGB", (4, 4), (100, 160, 90))
    for value in (0, 127, 255):
        image.info["icc_profile"] = ADOBE[:place] + bytes([value]) + ADOBE[place + 1 :]
        assert to_page(image).size == (4, 4)


def test_profile_of_another_colour_space_is_ignored() -> None:
    """Pillow keeps the profile of a CMYK image that a caller has converted to RGB."""
    image = Image.new("RGB", (4, 4), (100, 160, 90))
    for profile in (LINEAR_GREY, LAB_PROFILE):
        image.info["icc_profile"] = profile
        assert to_page(image) is image


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_grey_profile_is_applied(format: str) -> None:
    image = saved(Image.new("L", (16, 16), 128), format, icc_profile=LINEAR_GREY)
    assert is_near(colour(image), (188, 188, 188))  # sRGB of half the light


def test_16_bit_grey_with_a_profile() -> None:
    image = Image.frombytes("I;16", (4, 4), b"\x00\x80" * 16)
    image.info["icc_profile"] = LINEAR_GREY
    assert is_near(colour(image), (188, 188, 188))


def test_transparency_is_laid_over_white_after_the_conversion() -> None:
    image = Image.new("RGBA", (4, 4), (100, 160, 90, 0))
    image.info["icc_profile"] = ADOBE
    assert colour(image) == (255, 255, 255)
    image.putalpha(128)
    assert is_near(colour(image), (154, 208, 170))


def test_palette_with_a_profile_and_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([100, 160, 90, 0, 0, 0])
    image.putpixel((1, 0), 1)
    page = to_page(saved(image, "PNG", icc_profile=ADOBE, transparency=1))
    assert is_near(page.getpixel((0, 0)), (53, 161, 85))  # type: ignore[arg-type]
    assert page.getpixel((1, 0)) == (255, 255, 255)


def test_lab_tiff_becomes_srgb() -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 30))
    lab = ImageCms.profileToProfile(
        red, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    for info in ({}, {"icc_profile": LAB_PROFILE}, {"icc_profile": ADOBE}):
        lab.info.clear()
        lab.info.update(info)
        assert is_near(colour(saved(lab, "TIFF")), (200, 30, 30))


def test_cmyk_profile_is_applied() -> None:
    """lcms makes no CMYK profile, so this one is written here: two levels of ink a channel, and paper that is not white."""
    profile = cmyk_profile(ink_to_lab=lambda inks: (100 - 100 * max(inks), 60.0 * inks[1], 0.0))
    image = saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF", icc_profile=profile)
    assert is_near(colour(image), (255, 255, 255))
    plain = colour(Image.new("CMYK", (8, 8), (128, 0, 0, 0)))
    image = saved(Image.new("CMYK", (8, 8), (128, 0, 0, 0)), "TIFF", icc_profile=profile)
    red, green, blue = colour(image)
    assert abs(red - green) < 4 and abs(green - blue) < 4 and plain[0] < 150 < plain[1]  # grey, not cyan


def cmyk_profile(*, ink_to_lab: object) -> bytes:
    import itertools
    import struct

    assert callable(ink_to_lab)
    entries = bytearray()
    for inks in itertools.product((0.0, 1.0), repeat=4):
        lightness, a, b = ink_to_lab(inks)
        entries += bytes((round(lightness * 2.55), round(a) + 128, round(b) + 128))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    curves = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * curves + bytes(entries) + 3 * curves
    table += bytes(-len(table) % 4)
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    start = 128 + 4 + 2 * 12
    tags = struct.pack(">I", 2) + struct.pack(">4sII", b"wtpt", start, len(white))
    tags += struct.pack(">4sII", b"A2B0", start + len(white), len(table))
    size = start + len(white) + len(table)
    header = struct.pack(">I4sI4s4s4s12x4s", size, b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    header = header.ljust(68, b"\0") + white[8:]
    return header.ljust(128, b"\0") + tags + white + table


def png(image: Image.Image, gamma: float, chromaticities: tuple[float, ...] = SRGB) -> Image.Image:
    """As Pillow reads a PNG file with the chunks gAMA and cHRM."""
    image.info.update(gamma=gamma, chromaticity=chromaticities)
    return image


def test_gamma_and_primaries_of_a_png_are_applied() -> None:
    assert is_near(colour(png(Image.new("L", (4, 4), 128), 1.0)), (188, 188, 188))
    assert is_near(colour(png(Image.new("RGB", (4, 4), (128, 0, 0)), 1.0)), (188, 0, 0))
    assert is_near(colour(png(Image.new("RGB", (4, 4), (100, 160, 90)), 1 / 2.2, ADOBE_RGB)), (53, 161, 85))


def test_other_statements_of_a_png_come_before_its_gamma() -> None:
    for info in ({"srgb": 0}, {"icc_profile": SRGB_PROFILE}):
        image = png(Image.new("RGB", (4, 4), (128, 0, 0)), 1.0)
        image.info.update(info)
        assert to_page(image) is image


@pytest.mark.parametrize("gamma", [0.45455, 0.45, 0.46, 0.0, -1.0, 40.0, float("nan")])
def test_the_usual_gamma_and_senseless_ones_change_nothing(gamma: float) -> None:
    image = png(Image.new("RGB", (4, 4), (128, 0, 0)), gamma)
    assert to_page(image) is image


@pytest.mark.parametrize(
    "chromaticities",
    [(0.3, 0.3) * 4, (0.0,) * 8, (40_000.0, 1e-5) * 4, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15), ()],
)
def test_senseless_primaries_change_nothing(chromaticities: tuple[float, ...]) -> None:
    image = png(Image.new("RGB", (4, 4), (128, 0, 0)), 0.45455, chromaticities)
    assert to_page(image) is image
