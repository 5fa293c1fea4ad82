"""Reading: files in any of the formats of `READERS` become numbered tables of documents.

freeze      inputs of the config -> InputManifest: files, units, carried columns
read_unit   one unit -> tables of documents, good and bad
"""

from cluster.read.limits import Limits
from pipelines.readers.freeze import freeze
from pipelines.readers.inputs import Input
from pipelines.readers.reading import read_unit
from pipelines.readers.registry import READERS, format_of

__all__ = ["READERS", "Input", "Limits", "format_of", "freeze", "read_unit"]
