"""The generators of batches, by the names of the original."""

from mlaas4hep.stream import DataGenerator

RootDataGenerator = DataGenerator

__all__ = ["DataGenerator", "RootDataGenerator"]
