"""The generators of batches, under their names in the original."""

from mlaas4hep.stream import DataGenerator

RootDataGenerator = DataGenerator

__all__ = ["DataGenerator", "RootDataGenerator"]
