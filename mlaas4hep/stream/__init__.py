"""Read many files at once and yield shuffled batches of their events.

from mlaas4hep import DataGenerator
generator = DataGenerator(["ggH.root", "VBF.root"], labels=["ggH", "VBF"])
for batch in generator.batches("train", epoch=0):
    batch.x, batch.mask, batch.y
"""

from mlaas4hep.stream.batch import Batch
from mlaas4hep.stream.batch_source import BatchSource
from mlaas4hep.stream.generator import DataGenerator
from mlaas4hep.stream.split import PARTS

__all__ = ["PARTS", "Batch", "BatchSource", "DataGenerator"]
