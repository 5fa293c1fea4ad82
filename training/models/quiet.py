"""Keeping what torch, transformers, peft and DeepSpeed print out of a command's own lines."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars, no log lines below errors and no Python warnings of libraries inside. On the CPU alone."""
    # Where peft finds DeepSpeed it imports it, and DeepSpeed prints which accelerator it chose unless one is named.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from transformers.utils import logging  # takes a second: not when the verb is only listed

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
