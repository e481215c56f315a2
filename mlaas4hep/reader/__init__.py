"""Read one file as vectors of fixed length.

    from mlaas4hep import DataReader
    for chunk in DataReader("data.root"):
        chunk.x, chunk.mask, chunk.ids

The package `stream` reads many files at a time.
"""

from mlaas4hep.config import IDENTIFIER
from mlaas4hep.normalisation_choice import METHODS
from mlaas4hep.reader.chunk import Chunk
from mlaas4hep.reader.data_reader import DataReader
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.read_options import ReadOptions
from mlaas4hep.specs.specs import Specs

__all__ = ["IDENTIFIER", "METHODS", "Chunk", "DataReader", "Normalisation", "ReadOptions", "Specs", "VectorLayout"]
