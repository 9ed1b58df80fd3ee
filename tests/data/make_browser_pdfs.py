"""Writes `town-guide.pdf`, `club-calendar.pdf` and `licence.pdf` with a browser: `python -m tests.data.make_browser_pdfs`.

The text of the first two was written for this project, the third is its licence. Such pages the demo model has never seen:
sentences, set by a browser, in print of 28 points.
"""

import html
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
GUIDE = FOLDER.parents[1] / "service" / "demo" / "town-guide.pdf"
CALENDAR = FOLDER / "club-calendar.pdf"
LICENCE = FOLDER / "licence.pdf"
_LICENCE_TEXT = FOLDER.parents[1] / "LICENSE"

GUIDE_PAGES = {
    "school": "The new school stands on the hill behind the church. Every teacher knows the name of each student, and the "
    "classes are small. In the morning the children read and write, after lunch they learn science and art. Parents are "
    "welcome on the last Friday of the month. The library is open until six and holds many books in english, french and "
    "german. The board has asked the council for money to build a second floor.",
    "hospital": "Our hospital has eighty beds and a modern building for emergency care. A doctor is on duty through the "
    "night, and a nurse visits patients at home after surgery. The heart department works with the medical college in the "
    "capital. Treatment of cancer began here five years ago. Visitors should wash their hands and leave their phone "
    "outside. Blood is collected on the first Monday of each month.",
    "station": "Trains leave the railway station every hour for the coast and twice a day for the airport. A ticket can be "
    "bought online or from the driver. The journey takes forty minutes and follows the river most of the way. Bikes travel "
    "free outside the busy hours. A bus to the village waits in front of the main gate. Please stand behind the yellow line "
    "until the train has stopped.",
    "football": "The football club won the league title twice and reached the final of the cup last season. Young players "
    "train on the east field, the first team on grass. The coach was born in the town and played for the national side. A "
    "fan may buy a season ticket at half the price before June. When the team scores, the whole street can hear it. The "
    "stadium holds nine thousand people.",
    "bank": "The bank on the square gives a loan to any small business with a good plan. Interest rates fell this spring, "
    "so credit is cheap. A personal account costs nothing for students. Staff explain tax rules and how to invest savings "
    "in shares or gold. The cash machine outside works day and night. Customers who lose a card should call the security "
    "number at once.",
    "kitchen": "The kitchen of the old hotel is famous for fish soup and apple cake. Dinner starts at seven, and there is "
    "wine from the valley. The chef buys eggs, milk and cheese from a farm down the road. Guests with special needs should "
    "tell us before they order. On Sunday a long breakfast with fresh bread, fruit and coffee is served in the garden. "
    "Dogs may sit under the table.",
    "court": "The court sits in the stone house beside the police station. A judge hears criminal cases on Tuesday and "
    "civil cases on Thursday. Each party may bring a lawyer, and evidence must be given in writing. The public can watch "
    "unless the law says otherwise. Last year two men went to prison for the murder of a guard. Appeals go to the supreme "
    "court in the capital.",
    "storm": "The storm of that winter is not forgotten. Wind broke windows and took the roof off the market hall. Snow "
    "closed the bridge for nine days, and the power failed in half of the houses. Fire crews went from door to door with "
    "hot drinks. Nobody died. The weather service now sends a warning to every mobile phone. Keep candles, water and a "
    "radio ready at home.",
    "museum": "The war museum tells how the army crossed the river at night. Its first room shows a weapon, a soldier's "
    "letters and a map of the battle. A film of twenty minutes explains the history of the region from the roman empire to "
    "the present. School groups enter free. The collection of coins and royal silver is on the upper level. Photos are "
    "allowed without flash.",
    "festival": "The music festival begins in July when a band plays on the open stage. Rock, jazz and dance fill three "
    "nights. Singers come from africa, india and spain. A pass for all concerts costs less than a new album. Artists sleep "
    "in family homes, and many return as friends. Sound and light are run by volunteers. Bring a coat, since evenings by "
    "the lake are cold.",
    "university": "A university team has its research station on the island. Its scientists study climate, birds and the "
    "growth of plants under glass. The project is funded by the state and two energy companies. Results appear in a "
    "scientific journal each autumn. Students can apply for a summer job: count eggs, test soil, or repair computer "
    "equipment. The director gives a public talk in May.",
    "election": "In the election next spring the town will vote for a mayor. Four candidates have entered, one of them a "
    "woman who led the labour union. The campaign is about housing, traffic and the price of water. A debate will be shown "
    "on local television. Voters over eighteen must register with the council by March. Democrats and republicans of the "
    "past would smile at how polite it is.",
}

MONTHS: dict[str, tuple[str, Sequence[str], Sequence[tuple[str, str]]]] = {
    "January": (
        "The year opens with cold mornings, so we walk late and keep it short.",
        ("Call every member about the new rules", "Repair the old boat", "Buy paint for the wall"),
        (("first week", "walk round the island"), ("third week", "talk on computer safety")),
    ),
    "February": (
        "Bring a friend: this month is free for anybody who has never been here.",
        ("Clean the kitchen before guests arrive", "Print the photo book", "Choose a movie"),
        (("second week", "film about the moon"), ("last week", "dinner with live piano")),
    ),
    "March": (
        "The bird group counts again. A small camera is enough, patience matters more.",
        ("Open the garden gate", "Plant two trees", "Test the smoke alarm"),
        (("first week", "birds by the river"), ("fourth week", "vote for the treasurer")),
    ),
    "April": (
        "Rain is likely. Wear proper shoes, and do not cross the bridge when water covers it.",
        ("Check every bike", "Order fresh bread for the race", "Thank the sponsor"),
        (("second week", "bike race to the coast"), ("third week", "first aid course")),
    ),
    "May": (
        "Our language evening returns with a Chinese teacher and plenty of tea.",
        ("Learn ten phrases", "Invite the new neighbours", "Cook rice"),
        (("first week", "tea and Chinese letters"), ("last week", "visit from Japan")),
    ),
    "June": (
        "Long days. The tennis court is ours until nine, and the roof is open for star watching.",
        ("Mow the grass", "Mend the net", "Borrow a telescope"),
        (("second week", "tennis for beginners"), ("fourth week", "stars above the roof")),
    ),
    "July": (
        "School is over, so the children run the shop and keep the profit for their summer camp.",
        ("Count the money", "Sell cold drinks", "Pack the tents"),
        (("first week", "summer camp begins"), ("third week", "letter to parents")),
    ),
    "August": (
        "A quiet month. The office is closed, but the phone is answered and the dog is fed.",
        ("Feed the dog", "Water the flowers", "Answer the phone"),
        (("second week", "fishing at sunrise"), ("last week", "barbecue on the beach")),
    ),
    "September": (
        "Harvest. The apples are weighed, washed and pressed, and each family takes six bottles home.",
        ("Wash the bottles", "Borrow a truck", "Weigh the apples"),
        (("first week", "apple harvest"), ("third week", "market stall downtown")),
    ),
    "October": (
        "The engineer explains how the dam makes electric power, and why the valley needed it.",
        ("Reserve seats on the bus", "Read the safety notes", "Take a warm hat"),
        (("second week", "trip to the dam"), ("fourth week", "ghost stories by the fire")),
    ),
    "November": (
        "We remember the soldiers of both wars. The choir sings, then there is soup for all.",
        ("Polish the silver", "Lay flowers at the grave", "Practise the songs"),
        (("first week", "evening of silence"), ("third week", "choir and soup")),
    ),
    "December": (
        "The party needs music, gifts and a magic show. The king of the evening pays for nothing.",
        ("Wrap the gifts", "Decorate the hall", "Hire the magic man"),
        (("second week", "Christmas party"), ("last week", "dancing until midnight")),
    ),
}

_STYLE = """
@page { size: A4; margin: 45pt 50pt }
body { font-size: 28pt; line-height: 1.25; margin: 0 }
h1 { font-size: 36pt; margin: 0 0 12pt }
p, ul { margin: 0 0 14pt }
table { border-collapse: collapse; width: 100% }
td { border: 1pt solid #666; padding: 4pt 8pt }
div { break-after: page; height: 750pt; overflow: hidden }
"""
_FONTS = ("serif", "sans-serif")  # the browser's standard ones, page by page in turn


def write_guide(browser: str) -> None:
    """Paragraphs only."""
    _print_pdf(browser, _as_pages([f"<p>{text}</p>" for text in GUIDE_PAGES.values()]), GUIDE)


def write_calendar(browser: str) -> None:
    """A heading, a sentence, a list and a table a page."""
    _print_pdf(browser, _as_pages([_month(name, *MONTHS[name]) for name in MONTHS]), CALENDAR)


def write_licence(browser: str) -> None:
    """Running text that nobody wrote for a demo, broken into pages by the browser."""
    paragraphs = re.split(r"\n\s*\n", _LICENCE_TEXT.read_text(encoding="utf-8").strip())
    _print_pdf(browser, "".join(f"<p>{html.escape(' '.join(text.split()))}</p>" for text in paragraphs), LICENCE)


def _month(name: str, text: str, tasks: Sequence[str], events: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<li>{task}</li>" for task in tasks)
    rows = "".join(f"<tr><td>{when}</td><td>{what}</td></tr>" for when, what in events)
    return f"<h1>{name}</h1><p>{text}</p><ul>{items}</ul><table>{rows}</table>"


def _as_pages(pages: Sequence[str]) -> str:
    return "".join(
        f'<div style="font-family: {_FONTS[index % len(_FONTS)]}">{page}</div>' for index, page in enumerate(pages)
    )


def _print_pdf(browser: str, body: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "pages.html")
        source.write_text(f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style>{body}', encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={folder}/p"]
        command = [browser, *flags, f"--print-to-pdf={target}", source.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    write_guide(chosen)
    write_calendar(chosen)
    write_licence(chosen)
