"""The progress of a function that another program calls: bars in a terminal, text that is redrawn in a notebook, calls
of a function of the program, or nothing.
"""

import io
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from raymill.cluster.answer import Text
from raymill.cluster.formats import one_line
from raymill.cluster.logs import printable
from raymill.cluster.progress import LineWriter, Progress, ProgressLines, ProgressUpdate
from raymill.cluster.sudden_end import is_command

OnProgress = Callable[[ProgressUpdate], object]


def chosen_progress(progress: bool | OnProgress | Progress | None, at_first: str = "") -> Progress:
    """The progress display of a function's argument `progress`.

    Args:
        progress: False: none. True or None: bars in a terminal, redrawn text in a notebook; elsewhere, and in a
            command, a line on standard error every 10 s. A function: it is called with each ProgressUpdate. A Progress:
            itself.
        at_first: text that is shown until the first unit is committed.
    """
    if isinstance(progress, Progress):
        return progress
    if progress is False:
        return Progress()
    if callable(progress):
        return ProgressLines(at_first=at_first, writer=_Calls(progress))
    if is_command():
        return ProgressLines(at_first=at_first)
    if in_notebook():
        return ProgressLines(at_first=at_first, writer=_NotebookText())
    return ProgressLines(at_first=at_first, writer=_Bars() if sys.stderr.isatty() else None)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. Loads nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _display() -> Any:
    """The function that shows something in a notebook, whose kernel has loaded it."""
    return sys.modules["IPython.display"].display  # type: ignore[attr-defined]


class _Calls(LineWriter):
    """Calls a function with each update. An error that it raises ends the run."""

    def __init__(self, call: OnProgress) -> None:
        super().__init__(io.StringIO())
        self.terminal = True  # so that updates come as often as for a terminal
        self._call = call

    def update(self, shown: ProgressUpdate | str) -> None:
        self._call(ProgressUpdate(shown) if isinstance(shown, str) else shown)

    def write(self, text: str) -> None:
        self._call(ProgressUpdate(text))

    def end(self) -> None: ...


class _NotebookText(LineWriter):
    """Lines as the output of a cell; the last one is redrawn."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.terminal = True
        self._handle: Any = None

    def update(self, shown: ProgressUpdate | str) -> None:
        text = Text(printable(one_line(shown if isinstance(shown, str) else shown.text)))
        if self._handle is None:
            self._handle = _display()(text, display_id=True)
        else:
            self._handle.update(text)

    def write(self, text: str) -> None:
        _display()(Text(printable(text)))

    def end(self) -> None:
        self._handle = None


class _Bars(LineWriter):
    """A bar for each stage, on standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._console = Console(file=self.stream, stderr=True)
        self._bars: Bars | None = None
        self._task: Any = None

    def update(self, shown: ProgressUpdate | str) -> None:
        if isinstance(shown, str) or not shown.total:
            super().update(shown)
            return
        if self._bars is None:
            super().end()
            columns = (TextColumn("{task.fields[stage]:<12}", markup=False), BarColumn(), MofNCompleteColumn(),
                       TimeElapsedColumn(), TextColumn("{task.fields[numbers]}", markup=False))  # fmt: skip
            # The program's own prints are left as they are.
            self._bars = Bars(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
            self._task = self._bars.add_task("", total=shown.total, stage=shown.stage, numbers="")
            self._bars.start()
        numbers = printable(shown.text.partition(", ")[2])
        self._bars.update(self._task, completed=shown.done, total=shown.total, numbers=numbers)

    def write(self, text: str) -> None:
        if self._bars is None:
            super().write(text)
        else:
            self._console.print(printable(text), markup=False, highlight=False)

    def end(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        super().end()
