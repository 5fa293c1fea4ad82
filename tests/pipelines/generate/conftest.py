"""Seeds, and the settings of a generation from them."""

import pytest

SENTENCES = (
    "The lamp of the router is green when it is ready.",
    "Hold the button for nine seconds to reset it.",
    "A reset deletes the name of the network and its password.",
    "The plug has to be dry before it is put in again.",
    "Ask the help desk if the lamp stays red after a minute.",
)


@pytest.fixture
def seeds(tmp_path):
    """Twelve documents of three sentences each."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(12):
        said = [SENTENCES[(number + at) % 5] for at in range(3)]
        (folder / f"{number:02}.md").write_text(f"Guide number {number} is about the router.\n\n" + "\n".join(said))
    return folder


@pytest.fixture
def settings(server, seeds, tmp_path):
    """Those of the documents' example."""
    return {
        "inputs": [{"source": "docs", "path": f"{seeds}/*.md", "licence": "CC-BY-4.0"}],
        "model": {"endpoint": server.url, "name": "small", "prices": {"input": 0.10, "output": 0.40}},
        "make": {"template": "qa", "per_document": 3},
        "sampling": {"temperature": 0.7, "max_tokens": 400, "seed": 1},
        "budget": 5.0,
        "output": str(tmp_path / "out"),
    }
