"""What can be done with a round of annotation: `raymill annotate label | export | import | finish ROUND`."""

from typing import Annotated, get_args

import typer

from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.pipelines.annotate.finish import Method, finish_round
from raymill.pipelines.annotate.round import Round

RoundFolder = Annotated[str, typer.Argument(metavar="ROUND", help="output of `raymill annotate`")]


def finish(
    round: RoundFolder,
    method: Annotated[
        Method, typer.Option(help=f"how one label is made of several votes: {', '.join(get_args(Method))}")
    ] = "dawid_skene",
    posterior: Annotated[
        float, typer.Option(min=0, max=1, help="minimum probability of a label; tasks with less are disputed")
    ] = 0.8,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Make one label of each task, measure the agreement of the annotators, and list what experts have to decide.

    Can be called again whenever further labels have come in.
    """
    with store_for(round, config, override) as place:
        print(finish_round(Round.open(*place), method, posterior).text)
