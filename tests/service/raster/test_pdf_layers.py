"""Which layers are drawn. The truth is computed here from the standard's words, not by the product's code."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from service.raster.page import PagePixels
from service.raster.pdf_engine import PdfDocument
from tests.broken_pdfs import sheet, write_pdf
from tests.documents import stream

MARK = b"1 0 0 rg 50 80 200 200 re f"
STATES = list(product((True, False), repeat=2))
POLICIES: dict[str, Callable[[bool, bool], bool]] = {
    "": lambda a, b: a or b,
    "/P/AnyOn": lambda a, b: a or b,
    "/P/AllOn": lambda a, b: a and b,
    "/P/AnyOff": lambda a, b: not (a and b),
    "/P/AllOff": lambda a, b: not (a or b),
    "/VE[/And @a @b]": lambda a, b: a and b,
    "/VE[/Or @a @b]": lambda a, b: a or b,
    "/VE[/Not @a]": lambda a, b: not a,
    "/VE[/Or @a[/Not @b]]": lambda a, b: a or not b,
    "/VE[/Not[/And[/Or @a @b][/Not @b]]]/P/AllOn": lambda a, b: not ((a or b) and not b),
}
CASES = [(keys, truth, a, b) for keys, truth in POLICIES.items() for a, b in STATES]


def has_mark(page: PagePixels) -> bool:
    pixels = np.frombuffer(page.data, np.uint8).reshape(page.height, page.width, 3)
    return bool((pixels[page.height // 2, page.width // 2] != 255).any())


def layered(membership: bytes, configuration: bytes, *, how: str = "content", group_keys: bytes = b"") -> bytes:
    """A page whose mark is on a layer: by its instructions, or as a form, an image or an annotation.

    membership: a dictionary, or b"@a": the group itself.
    """
    form = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/OC @m", MARK)
    image = b"/Type/XObject/Subtype/Image/Width 1/Height 1/BitsPerComponent 8/ColorSpace/DeviceGray/OC @m"
    objects = {
        "content": lambda: sheet(b"/OC /M BDC " + MARK + b" EMC", b"/Properties<</M @m>>"),
        "form": lambda: sheet(b"/X Do", b"/XObject<</X @form>>", form=form),
        "image": lambda: sheet(
            b"q 200 0 0 200 50 80 cm /X Do Q", b"/XObject<</X @image>>", image=stream(image, b"\x40")
        ),
        "annotation": lambda: sheet(
            b"",
            page_keys=b"/Annots[<</Subtype/Square/Rect[50 80 250 280]/F 4/OC @m/AP<</N @look>>>>]",
            look=stream(b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]", b"1 0 0 rg 0 0 300 300 re f"),
        ),
    }[how]()
    properties = b"/OCProperties<</OCGs[@a @b @c]/D<<" + configuration + b">>>>"
    if membership == b"@a":
        objects = {name: value.replace(b"@m", b"@a") for name, value in objects.items()}
    return write_pdf(
        {
            **objects,
            "catalog": b"<</Type/Catalog/Pages @pages" + properties + b">>",
            "m": membership,
            "a": b"<</Type/OCG/Name(a)" + group_keys + b">>",
            "b": b"<</Type/OCG/Name(b)>>",
            "c": b"<</Type/OCG/Name(c)>>",
        }
    )


def off_list(*, a: bool, b: bool) -> bytes:
    return b"/OFF[" + (b"" if a else b"@a ") + (b"" if b else b"@b") + b"]"


@pytest.mark.parametrize("how", ["content", "form", "image", "annotation"])
@pytest.mark.parametrize(("keys", "truth", "a", "b"), CASES)
def test_membership_decides_as_the_standard_says(
    keys: str, truth: Callable[[bool, bool], bool], a: bool, b: bool, how: str
) -> None:
    membership = b"<</Type/OCMD/OCGs[@a @b]" + keys.encode() + b">>"
    page = PdfDocument(layered(membership, off_list(a=a, b=b), how=how)).render(1)
    assert has_mark(page) == truth(a, b)
    assert page.degraded_reasons == ()


ANY_NUMBER: dict[bytes, Callable[[Sequence[bool]], bool]] = {
    b"": any,
    b"/P/AnyOn": any,
    b"/P/AllOn": all,
    b"/P/AnyOff": lambda states: not all(states),
    b"/P/AllOff": lambda states: not any(states),
    b"/P/Nonsense": any,
}


@pytest.mark.parametrize("how", ["content", "form", "image", "annotation"])
@pytest.mark.parametrize("absent", [b"", b" null", b" @gone"])
def test_policy_counts_the_groups_that_are_there(absent: bytes, how: str) -> None:
    names = (b"@a", b"@b", b"@c")
    wrong = []
    for count in range(4):
        for keys, states in product(ANY_NUMBER, product((True, False), repeat=count)):
            off = b" ".join(name for name, is_on in zip(names, states, strict=False) if not is_on)
            membership = b"<</Type/OCMD/OCGs[" + b" ".join(names[:count]) + absent + b"]" + keys + b">>"
            page = PdfDocument(layered(membership, b"/OFF[" + off + b"]", how=how)).render(1)
            truth = ANY_NUMBER[keys](states) if states else True
            if (has_mark(page), page.degraded_reasons) != (truth, ()):
                wrong.append((keys, states))
    assert wrong == []


@pytest.mark.parametrize(
    ("expression", "truth"),
    [
        (b"[/And @a null]", {(True, True): None, (False, True): False}),
        (b"[/Or @a null]", {(True, True): True, (False, True): None}),
        (b"[/Or[/And @a @b][/And[/Not @a][/Not @b]]]", {(a, b): a == b for a, b in STATES}),
        (b"[/And @a[/Or @b[/Not @a]]]", {(a, b): a and (b or not a) for a, b in STATES}),
    ],
)
def test_expression_is_flagged_only_where_its_unknown_part_matters(
    expression: bytes, truth: dict[tuple[bool, bool], bool | None]
) -> None:
    for (a, b), shown in truth.items():
        page = PdfDocument(layered(b"<</Type/OCMD/VE" + expression + b">>", off_list(a=a, b=b))).render(1)
        assert page.degraded_reasons == (("layers",) if shown is None else ())
        assert shown is None or has_mark(page) == shown


@pytest.mark.parametrize("groups", [b"/OCGs @a", b"/OCGs[@a null]", b"/OCGs[@a @gone]"])
def test_groups_that_are_not_there_do_not_count(groups: bytes) -> None:
    membership = b"<</Type/OCMD/P/AllOn" + groups + b">>"
    assert has_mark(PdfDocument(layered(membership, off_list(a=True, b=False))).render(1))
    assert not has_mark(PdfDocument(layered(membership, off_list(a=False, b=True))).render(1))


@pytest.mark.parametrize("groups", [b"", b"/OCGs[]", b"/OCGs null", b"/OCGs[null]"])
def test_membership_without_groups_shows_its_content(groups: bytes) -> None:
    membership = b"<</Type/OCMD/P/AllOff" + groups + b">>"
    assert has_mark(PdfDocument(layered(membership, off_list(a=False, b=False))).render(1))


GROUP = b"<</Type/OCMD/OCGs @a>>"
VIEWING = b"/AS[<</Event/View/OCGs[@a]/Category[/View]>>]"
HIDDEN, SHOWN = b"/Usage<</View<</ViewState/OFF>>>>", b"/Usage<</View<</ViewState/ON>>>>"


@pytest.mark.parametrize(
    ("configuration", "group_keys", "shown"),
    [
        (b"", b"", True),
        (b"/BaseState/ON", b"", True),
        (b"/BaseState/Unchanged", b"", True),
        (b"/BaseState/OFF", b"", False),
        (b"/BaseState/OFF/ON[@a]", b"", True),
        (b"/BaseState/OFF/ON[@b]", b"", False),
        (b"/OFF[@a]", b"", False),
        (VIEWING, HIDDEN, False),
        (b"/OFF[@a]" + VIEWING, SHOWN, True),
        (b"", HIDDEN, True),  # usage that no entry of the configuration applies
        (b"/OFF[@a]", SHOWN, False),
        (VIEWING.replace(b"/Event/View", b"/Event/Print"), HIDDEN, True),
        (VIEWING, b"/Usage<</Print<</PrintState/OFF>>>>", True),
        (b"/OFF[@a]", b"/Intent/Design", True),
        (b"/OFF[@a]/Intent/All", b"/Intent[/Design]", False),
        (b"/OFF[@a]/Intent/Design", b"/Intent[/View/Design]", False),
    ],
)
@pytest.mark.parametrize("membership", [GROUP, b"@a"])
def test_the_default_configuration_is_that_for_viewing(
    configuration: bytes, group_keys: bytes, shown: bool, membership: bytes
) -> None:
    data = layered(membership, configuration, group_keys=group_keys)
    page = PdfDocument(data).render(1)
    assert (has_mark(page), page.degraded_reasons) == (shown, ())


@pytest.mark.parametrize(
    "keys",
    [
        b"/VE[/Xor @a @b]",
        b"/VE[]",
        b"/VE[/And]",
        b"/VE[/Not @a @b]",
        b"/VE[/And @a 7]",
        b"/VE" + b"[/Not " * 60 + b"@a" + b"]" * 60,
    ],
)
def test_expression_that_means_nothing_is_flagged(keys: bytes) -> None:
    page = PdfDocument(layered(b"<</Type/OCMD/OCGs[@a @b]" + keys + b">>", off_list(a=True, b=True))).render(1)
    assert page.degraded_reasons == ("layers",)


def test_expression_that_repeats_a_part_of_itself_is_bounded() -> None:
    """2 ** 30 operands in a kilobyte."""
    levels = {f"e{level}": b"[/Or @e%d @e%d]" % (level + 1, level + 1) for level in range(30)}
    objects = {
        **sheet(b"/OC /M BDC " + MARK + b" EMC", b"/Properties<</M<</Type/OCMD/VE @e0>>>>", **levels, e30=b"[/Not @a]"),
        "catalog": b"<</Type/Catalog/Pages @pages/OCProperties<</OCGs[@a]/D<<>>>>>>",
        "a": b"<</Type/OCG/Name(a)>>",
    }
    document = PdfDocument(write_pdf(objects))
    assert [document.render(1).degraded_reasons for _ in range(2)] == [("layers",)] * 2


def test_layer_that_depends_on_the_viewer_is_flagged() -> None:
    usage = b"/Usage<</Zoom<</min 2>>>>"
    applied = VIEWING.replace(b"[/View]", b"[/View/Zoom]")
    for membership in (GROUP, b"<</Type/OCMD/OCGs[@a @b]/P/AllOn>>"):
        page = PdfDocument(layered(membership, applied, group_keys=usage)).render(1)
        assert page.degraded_reasons == ("layers",)
    assert PdfDocument(layered(b"<</Type/OCMD/OCGs @b>>", applied, group_keys=usage)).render(1).degraded_reasons == ()


@pytest.mark.parametrize("depth", [1, 7])
def test_layers_of_nested_forms_are_resolved(depth: int) -> None:
    levels = {
        f"level{level}": stream(
            b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Resources<</XObject<</X @level%d>>>>" % (level + 1), b"/X Do"
        )
        for level in range(depth)
    }
    levels[f"level{depth}"] = stream(
        b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Resources<</Properties<</M @m>>>>",
        b"/OC /M BDC " + MARK + b" EMC",
    )
    objects = sheet(b"/X Do", b"/XObject<</X @level0>>", **levels)
    catalog = b"<</Type/Catalog/Pages @pages/OCProperties<</OCGs[@a @b]/D<</OFF[@b]>>>>>>"
    groups = {"m": b"<</Type/OCMD/OCGs[@a @b]/P/AllOn>>", "a": b"<</Type/OCG/Name(a)>>", "b": b"<</Type/OCG/Name(b)>>"}
    page = PdfDocument(write_pdf({**objects, **groups, "catalog": catalog})).render(1)
    assert not has_mark(page) or page.degraded_reasons == ("layers",)


def test_forms_too_deep_to_look_at_are_flagged() -> None:
    levels = {
        f"level{level}": stream(
            b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/Resources<</XObject<</X @level%d>>>>" % (level + 1), b"/X Do"
        )
        for level in range(12)
    }
    levels["level12"] = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]", MARK)
    objects = sheet(b"/X Do", b"/XObject<</X @level0>>", **levels)
    assert PdfDocument(write_pdf(objects)).render(1).degraded_reasons == ()
    catalog = b"<</Type/Catalog/Pages @pages/OCProperties<</OCGs[@a]/D<<>>>>>>"
    layers = {**objects, "catalog": catalog, "a": b"<</Type/OCG/Name(a)>>"}
    assert PdfDocument(write_pdf(layers)).render(1).degraded_reasons == ("layers",)


def test_page_whose_only_content_is_hidden_is_ordinary() -> None:
    form = stream(b"/Type/XObject/Subtype/Form/BBox[0 0 300 300]/OC @a", MARK)
    objects = {
        **sheet(b"", b"/XObject<</X @form>>", form=form, a=b"<</Type/OCG/Name(a)>>"),
        "content": stream(b"", b"/X Do"),
        "catalog": b"<</Type/Catalog/Pages @pages/OCProperties<</OCGs[@a]/D<</OFF[@a]>>>>>>",
    }
    page = PdfDocument(write_pdf(objects)).render(1)
    assert page.degraded_reasons == () and set(page.data) == {255}
