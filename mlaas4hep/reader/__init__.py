"""Floor 2: one file as vectors.

    from mlaas4hep import DataReader
    for chunk in DataReader("data.root"):
        chunk.x, chunk.mask, chunk.ids

Many files at once are `stream`'s business.
"""

from mlaas4hep.methods import METHODS
from mlaas4hep.reader.data_reader import Chunk, DataReader, ReadOptions
from mlaas4hep.reader.layout import VectorLayout
from mlaas4hep.reader.normalise import Normalisation
from mlaas4hep.reader.selection import IDENTIFIER
from mlaas4hep.reader.specs import Specs

__all__ = ["IDENTIFIER", "METHODS", "Chunk", "DataReader", "Normalisation", "ReadOptions", "Specs", "VectorLayout"]
