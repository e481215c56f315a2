"""The readers of files, under their names in the original."""

from mlaas4hep.reader import DataReader

RootDataReader = DataReader

__all__ = ["DataReader", "RootDataReader"]
