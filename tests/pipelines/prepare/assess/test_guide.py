"""The guide has every metric that an assessment can have."""

import ast
import inspect
import re

from raymill.pipelines.prepare.assess import score
from raymill.pipelines.prepare.assess.labels import SCORES
from raymill.pipelines.prepare.assess.score import PREFIX
from tests.support.guides import ROOT

TABLE = re.findall(r"^\| (`[^|]*) \|", (ROOT / "pipelines/prepare/assess/README.md").read_text(), re.MULTILINE)
NAMES = {name for cell in TABLE for name in re.findall(r"`(\w+)`", cell)}


def names_of_metrics() -> set[str]:
    """The first argument of each call of `_metric`; `{` stands for what an f-string fills in."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(score))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_metric":
            name = node.args[0]
            parts = name.values if isinstance(name, ast.JoinedStr) else [name]
            found.add("".join(part.value if isinstance(part, ast.Constant) else "{" for part in parts))
    return found


def test_every_metric_of_the_code_is_in_the_table_of_the_guide():
    fixed = {name for name in names_of_metrics() if "{" not in name}
    assert len(fixed) > 15 and fixed - NAMES == set()
    filled = names_of_metrics() - fixed
    # f"{PREFIX}{name}" and f"extrinsic_{score}"; the others are of a field.
    assert filled - {"{{", "extrinsic_{"} == {name.replace("FIELD", "{") for name in NAMES if "FIELD" in name}
    assert {f"extrinsic_{one}" for one in SCORES} | {f"{PREFIX}accuracy"} <= NAMES


def test_every_metric_of_the_guide_is_one_of_the_code():
    fixed, shown = names_of_metrics(), {name for name in NAMES if not name.startswith(("extrinsic_", PREFIX))}
    assert {name.replace("FIELD", "{") for name in shown} - fixed == {"representation_source"}
