"""The readers of files, by the names of the original."""

from mlaas4hep.reader import DataReader

RootDataReader = DataReader

__all__ = ["DataReader", "RootDataReader"]
