"""Eight frequent function words of each of 26 languages written with spaces.

English is Gopher's list (Rae et al. 2021, appendix A.1.1, https://arxiv.org/abs/2112.11446). The other lists were made
for this project in the same way: almost every page of running text has at least two of the words.
"""

STOP_WORDS: dict[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "ar": ("في", "من", "على", "إلى", "أن", "التي", "عن", "هذا"),
    "ca": ("el", "la", "de", "i", "que", "en", "per", "amb"),
    "cs": ("a", "v", "na", "se", "je", "že", "s", "z"),
    "da": ("og", "i", "at", "det", "er", "en", "til", "af"),
    "de": ("der", "die", "und", "das", "in", "zu", "den", "nicht"),
    "el": ("και", "το", "να", "του", "η", "της", "με", "για"),
    "es": ("el", "la", "de", "que", "y", "en", "los", "con"),
    "fa": ("و", "در", "به", "از", "که", "این", "را", "با"),
    "fi": ("ja", "on", "ei", "se", "että", "oli", "hän", "mutta"),
    "fr": ("le", "la", "de", "et", "les", "des", "est", "que"),
    "hi": ("के", "में", "की", "है", "और", "से", "का", "को"),
    "hu": ("a", "az", "és", "hogy", "nem", "is", "egy", "van"),
    "id": ("yang", "dan", "di", "ini", "untuk", "dengan", "dari", "dalam"),
    "it": ("di", "e", "il", "la", "che", "in", "per", "non"),
    "ko": ("이", "그", "수", "있는", "것은", "및", "있다", "것이다"),
    "nl": ("de", "het", "een", "van", "en", "in", "is", "dat"),
    "no": ("og", "i", "det", "er", "på", "til", "som", "en"),
    "pl": ("i", "w", "na", "się", "z", "do", "nie", "że"),
    "pt": ("de", "a", "o", "que", "e", "do", "da", "em"),
    "ro": ("de", "și", "în", "la", "a", "cu", "nu", "care"),
    "ru": ("и", "в", "не", "на", "что", "с", "как", "по"),
    "sv": ("och", "i", "att", "det", "som", "en", "på", "är"),
    "tr": ("ve", "bir", "bu", "için", "da", "de", "ile", "olarak"),
    "uk": ("і", "в", "на", "не", "що", "з", "та", "до"),
    "vi": ("và", "của", "là", "các", "có", "không", "được", "cho"),
}

# Other labels of the same languages: ISO 639-3, as in GlotLID and FLORES, and the two written standards of Norwegian.
OTHER_LABELS = {
    "eng": "en", "arb": "ar", "ara": "ar", "cat": "ca", "ces": "cs", "dan": "da", "deu": "de", "ell": "el", "spa": "es",
    "pes": "fa", "fas": "fa", "fin": "fi", "fra": "fr", "hin": "hi", "hun": "hu", "ind": "id", "ita": "it", "kor": "ko",
    "nld": "nl", "nob": "no", "nno": "no", "nor": "no", "nb": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru",
    "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


def language_of(label: str) -> str | None:
    """Key in STOP_WORDS of a language label such as `de`, `de-AT` or `deu_Latn`; None without a list."""
    language = label.replace("-", "_").split("_")[0].lower()
    language = OTHER_LABELS.get(language, language)
    return language if language in STOP_WORDS else None
