"""Equivalents of modules of the original MLaaS4HEP, which its model files import as MLaaS4HEP or jarray.

from MLaaS4HEP.jarray.pytorch import JaggedArrayLinear      # only in a model file, and in modules that it imports
"""
