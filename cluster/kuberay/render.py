"""The verb `raymill render`: the Kubernetes objects of a config as YAML. Contacts no cluster."""

import sys
from typing import Annotated

import typer
import yaml

from cluster.frame.work import work_of
from cluster.kuberay.profiles import OVERLAYS, Profile, profile_of
from cluster.kuberay.rayjob import as_documents, build_config_map, build_rayjob
from cluster.submit.work import Work


def render(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="settings, YAML or JSON, of any kind")],
    overlay: Annotated[str, typer.Option(help=f"{', '.join(OVERLAYS)}, or a YAML file that extends one")],
    override: Annotated[list[str] | None, typer.Option("-o", help="change one setting: key.sub=value")] = None,
    image: Annotated[str | None, typer.Option(help="REPOSITORY@sha256:DIGEST; default: the overlay's image")] = None,
    namespace: Annotated[str | None, typer.Option(help="namespace of the objects; default: the overlay's")] = None,
    within: Annotated[
        str | None, typer.Option(help="wanted duration, as in 90m or 4h; decides how many machines are requested")
    ] = None,
) -> None:
    """Print the ConfigMap and the RayJob of a config, as YAML for `kubectl apply`.

    Lists the inputs, and finds the same run id and machines as `raymill submit --to kuberay`.
    """
    work = work_of(config, override or [], None, within)
    images = {"train_image" if work.kind == "train" else "image": image}
    profile = profile_of(overlay, namespace=namespace, **images)
    if work.finished:
        print(f"note: {work.output} has this result already; the job would do nothing", file=sys.stderr)
    print(rendered(work, profile), end="")


def rendered(work: Work, profile: Profile) -> str:
    """The ConfigMap and the RayJob of a config's first attempt, as YAML."""
    documents = as_documents(
        build_config_map(work, work.run_id, profile),
        build_rayjob(work, work.run_id, profile),
    )
    return as_yaml(documents)


def as_yaml(documents: list[dict]) -> str:
    """YAML documents; text of several lines as blocks."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
