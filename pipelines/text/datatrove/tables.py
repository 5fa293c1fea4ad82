"""Character classes and special cases of spaCy's blank English tokenizer (3.8) and of datatrove 0.10.1.

The lists are facts about the behaviour of spaCy (MIT) and datatrove (Apache-2.0). tokenizer.py uses them.

spaCy's symbols are category So of Unicode 11 (2018). It handles newer emoji like letters.
"""

import unicodedata
from functools import cache

import numpy as np

# Bits of a character class.
ALPHA = 1  # a letter between which infixes split
LOWER = 2  # lower case, or of a script without case
UPPER = 4  # upper case, or of a script without case
QUOTE = 8
PREFIX = 16  # a prefix by itself
SUFFIX = 32  # a suffix by itself
ICON = 64  # split off at any position
BEFORE_STOP = 128  # a full stop after it is a suffix
NON_PUNCTUATION = 256  # not in datatrove's PUNCTUATION_SET: a token with such a character counts as a word
PUNCTUATION = 512  # Unicode category P
SENTENCE_END = 1024  # spaCy's sentencizer ends a sentence at a token that is this character alone
TERMINAL = 2048  # datatrove's TERMINAL_PUNCTUATION: FineWeb's line ends
LETTER = 4096  # str.isalpha()
ALPHANUMERIC = 8192  # str.isalnum(), or an underscore: \w of a URL's scheme
SPACE = 16384  # str.isspace()
MAY_SPLIT = 32768  # an affix begins with it: a chunk without such a character is one token or a special case

_CASED = (
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x1BF), (0x1C4, 0x2AF), (0x386, 0x386),
    (0x388, 0x38A), (0x38C, 0x38C), (0x38E, 0x38F), (0x391, 0x3A9), (0x3AC, 0x3AF), (0x3B1, 0x3C9), (0x3CC, 0x3CE),
    (0x400, 0x401), (0x403, 0x40A), (0x40C, 0x40D), (0x410, 0x451), (0x453, 0x45A), (0x45C, 0x45D), (0x490, 0x491),
    (0x496, 0x497), (0x4A2, 0x4A3), (0x4AE, 0x4AF), (0x4BA, 0x4BB), (0x4D8, 0x4D9), (0x4E8, 0x4E9), (0x1D00, 0x1D25),
    (0x1D6B, 0x1D77), (0x1D79, 0x1D9A), (0x1E00, 0x1EFF), (0x2C60, 0x2C7B), (0x2C7E, 0x2C7F), (0xA722, 0xA76F),
    (0xA771, 0xA787), (0xA78B, 0xA78E), (0xA790, 0xA7B9), (0xA7FA, 0xA7FA), (0xAB30, 0xAB5A), (0xAB60, 0xAB64),
    (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
)  # fmt: skip
_UNCASED = (
    (0x591, 0x5F4), (0x620, 0x64A), (0x66E, 0x6D5), (0x6E5, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8BD), (0x900, 0x9FF),
    (0xB80, 0xCFF), (0xD80, 0xDFF), (0x1100, 0x137F), (0x2E80, 0x2FDF), (0x2FF0, 0x30FF), (0x31C0, 0x31EF),
    (0x3200, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFB1D, 0xFBB1), (0xFBD3, 0xFD3D),
    (0xFD50, 0xFDC7), (0xFDF0, 0xFDFB), (0xFE30, 0xFE4F), (0xFE70, 0xFEFC), (0x1EE00, 0x1EEBB), (0x1F200, 0x1F2FF),
    (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_LOWER_TOO, _UPPER_TOO = 0x294, 0x3A2

# Category So since Unicode 12, with unassigned code points between them.
_NEW_SYMBOLS = (
    (0x166D, 0x166D), (0x2B97, 0x2B97), (0x2BC9, 0x2BC9), (0x2BFF, 0x2BFF), (0x2E50, 0x2E51), (0x2FFC, 0x2FFF),
    (0x31E4, 0x31EF), (0x32FF, 0x32FF), (0xFD40, 0xFD4F), (0xFDCF, 0xFDCF), (0xFDFE, 0xFDFF), (0x1019C, 0x1019C),
    (0x11FD5, 0x11FF1), (0x1CC00, 0x1CFC3), (0x1D1E9, 0x1D1EA), (0x1E14F, 0x1E14F), (0x1ED2E, 0x1ED2E),
    (0x1F10D, 0x1F10F), (0x1F16C, 0x1F16F), (0x1F1AD, 0x1F1AD), (0x1F6D5, 0x1F6DF), (0x1F6FA, 0x1F6FF),
    (0x1F774, 0x1F77F), (0x1F7D9, 0x1F7FF), (0x1F8B0, 0x1F8FF), (0x1F90C, 0x1F90F), (0x1F93F, 0x1F93F),
    (0x1F971, 0x1F972), (0x1F977, 0x1F979), (0x1F97B, 0x1F97B), (0x1F9A3, 0x1F9AF), (0x1F9BA, 0x1F9BF),
    (0x1F9C3, 0x1F9CF), (0x1FA00, 0x1FA5F), (0x1FA6E, 0x1FBFF),
)  # fmt: skip

_PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
_CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"

# Suffixes of a number. "тбكم" joins two units: spaCy's list lacks the space between them.
_AFTER_DIGITS = (
    "+ US$ C$ A$ km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h "
    "kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм "
    "кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم "
    "كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب اكواب"
)

# datatrove.utils.text: TERMINAL_PUNCTUATION, and the rest of PUNCTUATION_SET.
_TERMINAL = (
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702),
    (0x7F9, 0x7F9), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B), (0x1362, 0x1362),
    (0x1367, 0x1368), (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D6), (0x17D9, 0x17DA), (0x1803, 0x1803),
    (0x1809, 0x1809), (0x1944, 0x1945), (0x1AA8, 0x1AAB), (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7E),
    (0x1C3B, 0x1C3C), (0x1C7E, 0x1C7F), (0x203C, 0x203D), (0x2047, 0x2049), (0x2E2E, 0x2E2E), (0x2E3C, 0x2E3C),
    (0x2E53, 0x2E54), (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F), (0xA6F3, 0xA6F3), (0xA6F7, 0xA6F7),
    (0xA876, 0xA877), (0xA8CE, 0xA8CF), (0xA92F, 0xA92F), (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F), (0xAAF0, 0xAAF1),
    (0xABEB, 0xABEB), (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01), (0xFF0E, 0xFF0E), (0xFF1F, 0xFF1F),
    (0xFF61, 0xFF61), (0x10A56, 0x10A57), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11047, 0x11048),
    (0x110BE, 0x110C1), (0x11141, 0x11143), (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF),
    (0x11238, 0x11239), (0x1123B, 0x1123C), (0x112A9, 0x112A9), (0x1144B, 0x1144C), (0x115C2, 0x115C3),
    (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11944, 0x11944), (0x11946, 0x11946),
    (0x11A42, 0x11A43), (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x11EF7, 0x11EF8), (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5), (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x16E98, 0x16E98),
    (0x1BC9F, 0x1BC9F), (0x1DA88, 0x1DA88),
)  # fmt: skip
_OTHER_PUNCTUATION = (
    (0x0, 0x8), (0xB, 0x1F), (0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x9F), (0xAB, 0xAB), (0xB4, 0xB4),
    (0xBB, 0xBB), (0x2013, 0x2014), (0x2019, 0x2019), (0x201C, 0x201E), (0x2026, 0x2026), (0x2236, 0x2236),
    (0x2501, 0x2501), (0x25BA, 0x25BA), (0x3001, 0x3002), (0x3008, 0x300D), (0x3010, 0x3011), (0xFF01, 0xFF01),
    (0xFF05, 0xFF05), (0xFF08, 0xFF09), (0xFF0C, 0xFF0C), (0xFF0E, 0xFF0E), (0xFF11, 0xFF11), (0xFF1A, 0xFF1B),
    (0xFF1F, 0xFF1F), (0xFF5E, 0xFF5E),
)  # fmt: skip
# Terminal punctuation at which spaCy's sentencizer does not end a sentence.
_NO_SENTENCE_END = (
    (0x61D, 0x61E), (0x837, 0x839), (0x83D, 0x83E), (0x17D4, 0x17DA), (0x1B7D, 0x1B7E), (0x2E53, 0x2E54),
    (0x10F55, 0x10F89), (0x11944, 0x11946), (0x11EF7, 0x11F44), (0x16E98, 0x16E98),
)  # fmt: skip


@cache
def character_classes() -> np.ndarray:
    """uint16[0x110000], read-only: the bits above, by code point. Computed once a process."""
    classes = np.zeros(0x110000, np.uint16)

    def add(bits: int, characters: str) -> None:
        for character in characters:
            classes[ord(character)] |= bits

    for first, last in _UNCASED:
        classes[first : last + 1] |= ALPHA | LOWER | UPPER
    for first, last in _CASED:
        for point in range(first, last + 1):
            lower, upper = chr(point).islower() or point == _LOWER_TOO, chr(point).isupper() or point == _UPPER_TOO
            classes[point] |= ALPHA | LOWER * lower | UPPER * upper
    for point in (*range(0x32400), *range(0xE0000, 0xE0200)):
        character = chr(point)
        category = unicodedata.category(character)
        classes[point] |= (
            PUNCTUATION * (category[0] == "P")
            | (ICON | PREFIX | SUFFIX) * (category == "So")
            | LETTER * character.isalpha()
            | ALPHANUMERIC * (character.isalnum() or character == "_")
            | SPACE * character.isspace()
        )
    for first, last in _NEW_SYMBOLS:
        classes[first : last + 1] &= ~np.uint16(ICON | PREFIX | SUFFIX)
    add(PREFIX | SUFFIX, _PUNCTUATION + _QUOTES + "—–")
    add(PREFIX, "§%=" + _CURRENCY)
    add(QUOTE, _QUOTES)
    classes[(classes & (LOWER | QUOTE)) != 0] |= BEFORE_STOP
    add(BEFORE_STOP, _PUNCTUATION + "0123456789%²-+|(?:)")
    for first, last in _TERMINAL:
        classes[first : last + 1] |= TERMINAL | SENTENCE_END
    for first, last in _NO_SENTENCE_END:
        classes[first : last + 1] &= ~np.uint16(SENTENCE_END)
    classes[(classes & (PREFIX | SUFFIX | ICON)) != 0] |= MAY_SPLIT
    add(MAY_SPLIT, "0123456789.+-*^,:<>=/~")
    punctuation = (classes & TERMINAL) != 0
    for first, last in _OTHER_PUNCTUATION:
        punctuation[first : last + 1] = True
    classes[~punctuation] |= NON_PUNCTUATION
    classes.setflags(write=False)
    return classes


def after_digits() -> list[str]:
    """Strings that are a suffix if a digit 0-9 comes before them."""
    return [*_CURRENCY, *_AFTER_DIGITS.split()]


# Contractions: stems and endings; a space separates tokens. Each stem also stands in title case.
_WILL_WOULD = ("'ll", "ll", "'ll 've", "ll ve", "'d", "d", "'d 've", "d ve")
_NOT = ("n't", "nt")
_NOT_HAVE = ("n't 've", "nt ve")
_HAVE, _ARE, _IS = ("'ve", "ve"), ("'re", "re"), ("'s", "s")
_CONTRACTIONS = (
    ("i", (*_WILL_WOULD, *_HAVE, "'m", "m", "'m a", "m a")),
    ("you we they", (*_WILL_WOULD, *_HAVE, *_ARE)),
    ("he she it", (*_WILL_WOULD, *_IS)),
    ("who what when where why how there", (*_WILL_WOULD, *_IS, *_ARE, *_HAVE)),
    ("that this", (*_WILL_WOULD, *_IS)),
    ("these those", (*_WILL_WOULD, *_ARE, *_HAVE)),
    ("ca could do does did had may might must need ought sha should wo would", (*_NOT, *_NOT_HAVE)),
    ("could might must should would not", _HAVE),
    ("ai are is was were have has dare", _NOT),
    ("can", ("not",)),
    ("gon", ("na",)),
    ("got", ("ta",)),
    ("let", ("'s",)),
    ("c'm", ("on",)),
    ("how", ("'d 'y",)),
)
_NOT_CONTRACTIONS = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"

_WHOLE = r"""
' '' \") <space> C++ \t \n — and/or w/o 'S 's 'd 're 'em em 'll ll 'nuff nuff 'bout ma'am Ma'am o'clock O'clock ol ol'
Ol Ol' 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz
doin doin' Doin Doin' goin goin' Goin Goin' nothin nothin' Nothin Nothin' nuthin nuthin' Nuthin Nuthin'
somethin somethin' Somethin Somethin' lovin lovin' Lovin Lovin' havin havin' Havin Havin'
a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky.
La. Mar. Mass. Mich. Minn. Miss. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep.
Sept. Tenn. Va. Wash. Wis.
a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr.
Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s.
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-((
:((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :*
:-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__-
v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<)
(*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
"""
_SPLIT = ("y' all", "y all", *(f"° {unit} ." for unit in "cfkCFK"))
_LEFT_QUOTED = ("‘S", "‘s")


@cache
def special_cases() -> tuple[tuple[str, ...], ...]:
    """The tokens of each special case: a string, all tokens joined, that is split in this way and in no other."""
    cases = [tuple(word.split()) for word in (*_WHOLE.split(), *_SPLIT, *_LEFT_QUOTED)]
    for stems, endings in _CONTRACTIONS:
        for stem in stems.split():
            cases += [(first, *ending.split()) for first in (stem, _titled(stem)) for ending in endings]
    for hour in range(1, 13):
        cases += [(str(hour), half + rest) for half in "ap" for rest in (".m.", "m")]
    excluded = _NOT_CONTRACTIONS.split()
    cases = [case for case in cases if "".join(case) not in excluded]
    cases += [tuple(token.replace("'", "’") for token in case) for case in cases]
    return tuple(sorted(set(cases)))


def _titled(word: str) -> str:
    return word[0].upper() + word[1:]
