"""The extras of the package: optional libraries, each installed by `pip install 'raymill[NAME]'`."""

import sys
from importlib.util import find_spec

from cluster.errors import ConfigError

# extra -> import names of the libraries that are looked for; pyproject.toml has all that an extra installs.
EXTRAS = {
    "train": ("torch", "transformers", "tokenizers", "peft", "safetensors"),
    "sql": ("sqlalchemy",),
    "qlora": ("bitsandbytes",),
    "embeddings": ("sentence_transformers",),
    "k8s": ("kubernetes",),
}


def require_extra(extra: str, user: str, otherwise: str = "") -> None:
    """Verify that the libraries of an extra are installed. None of them is imported.

    Args:
        user: the verb or setting that needs them. otherwise: a sentence with what else can be done.

    Raises:
        ConfigError: one is not installed.
    """
    if lacking := [name for name in EXTRAS[extra] if find_spec(name) is None]:
        raise ConfigError(
            f"{user}: {', '.join(lacking)} not installed for {sys.executable}. Run: pip install 'raymill[{extra}]'."
            f"{otherwise and ' '}{otherwise}"
        )
