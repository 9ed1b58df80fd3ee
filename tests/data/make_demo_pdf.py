"""Writes the PDF that `ziprerank demo` ranks: `python tests/data/make_demo_pdf.py`. The text was written for this project."""

from pathlib import Path

import pymupdf

TARGET = Path(__file__).parents[2] / "service" / "demo" / "observatory-handbook.pdf"

CHAPTERS = {
    "Opening hours and visits": [
        "The observatory receives visitors from Thursday to Sunday, from one hour before sunset until midnight.",
        "Groups of more than twelve people are asked to register a week ahead. School classes have free entry.",
        "In heavy rain or wind above 60 kilometres per hour the dome stays closed; the exhibition remains open.",
    ],
    "The main telescope": [
        "The main telescope is a reflector with a primary mirror of 1.2 metres on an equatorial fork mount.",
        "Its focal length is 9.6 metres. The guide scope carries a small camera that corrects the tracking.",
        "The finder is aligned each evening on a bright star before the first observation.",
    ],
    "Care of the mirror": [
        "The primary mirror is cleaned with carbon dioxide snow every four weeks and washed once a year in August.",
        "It is given a new aluminium coating every third year. Nobody touches the optical surface with bare hands.",
        "Reflectivity is measured after each cleaning and written into the mirror log.",
    ],
    "Electric power": [
        "The site draws at most 40 kilowatts. A diesel generator starts within ten seconds when the grid fails.",
        "Its tank holds fuel for thirty hours. The batteries of the control room last another forty minutes.",
        "The generator is tested under load on the first Monday of every month.",
    ],
    "Safety in the dome": [
        "Before the dome turns, the operator calls out and waits for an answer from everybody inside.",
        "The emergency stop is the red button beside the door. Ladders are secured when they are not in use.",
        "A first-aid box hangs in the corridor; its contents are checked every quarter.",
    ],
    "Income and costs": [
        "Tickets brought in 84,000 euros last year and donations another 31,000 euros.",
        "The largest costs were staff with 62,000 euros, electricity with 14,500 and repairs with 9,200 euros.",
        "The surplus is saved for the new coating plant.",
    ],
}


def make_pdf() -> bytes:
    """One A4 page a chapter."""
    document = pymupdf.open()
    for number, (title, paragraphs) in enumerate(CHAPTERS.items(), start=1):
        page = document.new_page(width=595, height=842)
        page.insert_textbox(pymupdf.Rect(60, 70, 535, 120), title, fontsize=24, fontname="hebo")
        page.insert_textbox(pymupdf.Rect(60, 140, 535, 760), "\n\n".join(paragraphs), fontsize=15, lineheight=1.5)
        page.insert_textbox(pymupdf.Rect(60, 790, 535, 810), f"Observatory handbook, page {number}", fontsize=9)
    return bytes(document.tobytes(deflate=True, garbage=4, no_new_id=True))


if __name__ == "__main__":
    TARGET.write_bytes(make_pdf())
