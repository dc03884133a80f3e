"""The letters of names of classes, files and folders: drawn in a font that has them, or put into words.

Matplotlib's own font has Latin, Greek, Cyrillic, Hebrew, Arabic and many symbols. For other letters, installed fonts
are searched, each letter once in a process; what no font has is named by its Unicode name or number instead of drawn
as a box. The same letter gets the same font whatever else is drawn.
"""

import re
import unicodedata
from contextlib import suppress
from functools import cache

import matplotlib
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontProperties, fontManager
from matplotlib.ft2font import FT2Font

FONT = "DejaVu Sans"  # comes with matplotlib, so the font that is measured is the one that is drawn
RIGHT_TO_LEFT = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]"
NAMED = 3  # letters of a name that no font has
_used: set[int] = set()  # ranks of the installed fonts that have been needed


def families() -> list[str]:
    """Returns the fonts of a text in the order in which a letter is looked for."""
    return [FONT, *(_installed()[rank] for rank in sorted(_used))]


def drawable(text: str) -> str:
    """Returns text with only such letters as a font has; marks that have no picture of their own are left out."""
    if text.isascii() and text.isprintable():
        return text
    text = "".join(map(_printable, unicodedata.normalize("NFC", text)))
    missing = "".join(letter for letter in sorted(set(text)) if not letter.isspace() and not _has_font(letter))
    return re.sub(f"[{re.escape(missing)}]+", lambda run: _in_words(run[0]), text) if missing else text


def left_to_right(line: str) -> str:
    """Returns a line with marks around Hebrew and Arabic words, so that what follows them stays to their right."""
    return line if line.isascii() else re.sub(rf"{RIGHT_TO_LEFT}+(?: +{RIGHT_TO_LEFT}+)*", "\u200e\\g<0>\u200e", line)


def _printable(letter: str) -> str:
    if letter.isspace():
        return letter if letter == "\n" else " "
    if unicodedata.category(letter) == "Cf" or unicodedata.name(letter, "").startswith("VARIATION SELECTOR"):
        return ""
    return letter if letter.isprintable() else "?"


def _in_words(letters: str) -> str:
    """Returns `[dog face]` for symbols, and `[no font for U+732B U+72AC and 2 more letters]`."""
    names, others = [unicodedata.name(letter, "").lower() for letter in letters[:NAMED]], len(letters) - NAMED
    if all(names) and all(unicodedata.category(letter).startswith("S") for letter in letters):
        return f"[{', '.join(names)}{f' and {others} more' if others > 0 else ''}]"
    numbers = " ".join(f"U+{ord(letter):04X}" for letter in letters[:NAMED])
    more = f" and {others} more letter{'s' if others > 1 else ''}" if others > 0 else ""
    return f"[no font for {numbers}{more}]"


@cache
def _has_font(letter: str) -> bool:
    """Says whether a font has a letter in both weights, and remembers that font."""
    if _draws(FONT, letter):
        return True
    for rank, family in enumerate(_installed()):
        if ord(letter) >> 8 in _pages(family) and _draws(family, letter):
            _used.add(rank)
            return True
    return False


@cache
def _installed() -> list[str]:
    """Returns the families of the system's fonts, the plainest first. Matplotlib's list may lack the newest."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in sorted({*font_manager.findSystemFonts()} - known):
        with suppress(Exception):  # a damaged font: whatever its tables lead to
            fontManager.addfont(path)
    own = matplotlib.get_data_path()  # formulas, and the boxes of Last Resort
    fonts = [each for each in fontManager.ttflist if each.style == "normal" and not each.fname.startswith(own)]
    names = dict.fromkeys(each.name for each in sorted(fonts, key=_plainness))
    return [name for name in names if not re.match(r"\.|dejavu|last ?resort", name, re.IGNORECASE)]


def _plainness(font: FontEntry) -> tuple[bool, bool, bool, int, str]:
    name = font.name
    return "Mono" in name, "Serif" in name, not name.startswith("Noto Sans"), getattr(font, "index", 0), name


@cache
def _pages(family: str) -> frozenset[int]:
    """Returns which blocks of 256 letters a font has any of."""
    with suppress(OSError, RuntimeError, ValueError):
        return frozenset(code >> 8 for code in _font(family, "normal").get_charmap())
    return frozenset()


def _draws(family: str, letter: str) -> bool:
    """Says whether a font has an outline for a letter: those of coloured emoji have none."""
    with suppress(OSError, RuntimeError, ValueError):
        for weight in ("normal", "bold"):
            font = _font(family, weight)
            if not font.get_char_index(ord(letter)):
                return False
            font.set_size(12, 72)
            font.load_char(ord(letter))
            if not len(font.get_path()[0]):
                return False
        return True
    return False


def _font(family: str, weight: str) -> FT2Font:
    path = font_manager.findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False)
    return font_manager.get_font(path)
