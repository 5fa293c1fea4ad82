"""What can be done with a round of annotation: `raymill annotate label | export | import | finish ROUND`."""

from functools import partial
from typing import Annotated, get_args

import typer

from raymill.cluster.frame.calls import config_of, run_of
from raymill.cluster.frame.commands import Address, ConfigFile, Overrides
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.pipelines.annotate.exchange.export import Format, as_names, export_round
from raymill.pipelines.annotate.exchange.importing import import_labels
from raymill.pipelines.annotate.finish import WANTED_WIDTH, Method, finish_round
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.rounds import next_round
from raymill.pipelines.annotate.serve import serve_labels

RoundFolder = Annotated[str, typer.Argument(metavar="ROUND", help="output of `raymill annotate`")]


def round_of(config: ConfigFile, override: Overrides = None, address: Address = None) -> None:
    """Make the next round of active learning in OUTPUT/1, OUTPUT/2 and so on, once the last one is labelled.

    Prints how often the classifier was right on random tasks before they were labelled.
    """
    whole = config_of(config, None, override, "annotate")
    make, train = (partial(run_of, kind, address=address) for kind in ("annotate", "train"))
    print(next_round(whole, make, train).text)


def label(
    round: RoundFolder,
    host: Annotated[
        str, typer.Option(help="address to listen at; another than this machine's own is not encrypted")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="port; 0: any that is free", show_default="one for the round"),
    ] = None,
    annotator: Annotated[str | None, typer.Option(help="the only annotator who may label here")] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="show the labels by the classifier, which influence annotators")
    ] = False,
    open: Annotated[bool, typer.Option("--open", help="open the page in the browser")] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Serve the page on which annotators label the tasks, until Ctrl-C.

    A label is stored before the page says that it is saved. The browser keeps what it could not send, and sends it when
    the server is there again.
    """
    with store_for(round, config, override) as place:
        serve_labels(Round.at(*place), host, port, annotator, predictions=predictions, open=open)


def finish(
    round: RoundFolder,
    method: Annotated[
        Method,
        typer.Option("--consensus", help=f"how one label is made of several votes: {', '.join(get_args(Method))}"),
    ] = "dawid_skene",
    posterior: Annotated[
        float, typer.Option(min=0, max=1, help="minimum probability of a label; tasks with less are disputed")
    ] = 0.8,
    width: Annotated[
        float,
        typer.Option(min=0.001, max=2, help="wanted width of the interval of alpha, for the number of further tasks"),
    ] = WANTED_WIDTH,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Make one label of each task, measure the agreement of the annotators, and list what experts have to decide.

    Can be called again whenever further labels have come in.
    """
    with store_for(round, config, override) as place:
        print(finish_round(Round.at(*place), method, posterior, width).text)


def export(
    round: RoundFolder,
    file: Annotated[str, typer.Argument(metavar="FILE", help="file or URI to write; must not exist")],
    format: Annotated[Format, typer.Option(help=f"tool to write for: {', '.join(get_args(Format))}")],
    as_: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="TOOL=OURS", help="id of an annotator in the tool, as in 1=a1; can be repeated"),
    ] = None,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Write the tasks for another labelling tool, with predictions and labels, and the labelling config beside them."""
    with store_for(round, config, override) as place:
        print(export_round(Round.at(*place), file, format, as_names(as_)).text)


def import_(
    round: RoundFolder,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="exports of a labelling tool; the format is recognised")
    ],
    as_: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="TOOL=OURS", help="name of an annotator in the tool, as in 1=a1; can be repeated"),
    ] = None,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """Add labels from Label Studio, Argilla, Prodigy or a CSV table. The same labels again add nothing."""
    with store_for(round, config, override) as place:
        print(import_labels(Round.at(*place), files, as_names(as_)).text)
