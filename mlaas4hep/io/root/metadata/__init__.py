"""The metadata of a TTree, parsed without uproot."""
