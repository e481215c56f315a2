"""Write the test files with ROOT, and what ROOT itself reads back of them as the truth.

python make.py        # in this folder, with ROOT 6.36 or newer and a compiler: pip install root
"""

import json
from pathlib import Path

import ROOT

FOLDER = Path(__file__).resolve().parent
TREES = {"leaves": "Events", "physlite": "CollectionTree", "edm4hep": "events", "delphes": "Delphes"}
ENTRIES = [0, 1, 2, 38, 39, 40, 41, 58, 59]
"""Some at the beginning, at the border of the two clusters, and at the end."""

STRUCT_MEMBERS = {
    "leaves": ["two.a", "two.b"],
    "physlite": [f"{branch}.{member}" for branch in ("p4", "p4s") for member in ("fP.fX", "fP.fY", "fP.fZ", "fE")],
    "edm4hep": [],
    "delphes": ["P4/P4.fP.fX", "P4/P4.fP.fY", "P4/P4.fP.fZ"],
}
"""Members of structs that are stored whole, by file."""

IN_MEMORY = 0x03000000
"""Bits of fBits that ROOT sets itself when it makes an object (kIsOnHeap, kNotDeleted), whatever the file says."""


def branches(parent, path=""):
    """Yield the branches that have none within, and the count of a TClonesArray: full path and formula of each."""
    for branch in parent.GetListOfBranches():
        name = f"{path}{branch.GetName()}"
        if branch.GetListOfBranches().GetEntries():
            if getattr(branch, "GetClonesName", str)():
                yield name, f"@{branch.GetName()}.size()"
            yield from branches(branch, f"{name}/")
        else:
            yield name, branch.GetFullName().Data().rstrip(".")


def values(tree, name, formula):
    """Return the numbers that ROOT reads in each of the entries, as whole ones where they are; None: it reads none."""
    reader = ROOT.TTreeFormula(name, formula.split("[")[0], tree)
    if not reader.GetNdim() or reader.IsString():
        return None
    leaf = reader.GetLeaf(0)
    kind = leaf.GetTypeName() if leaf else ""
    found = []
    for entry in ENTRIES:
        tree.LoadTree(entry)
        count = reader.GetNdata()
        reader.EvalInstance(0)
        if reader.IsInteger(False):
            numbers = [int(reader.EvalInstance64(index)) for index in range(count)]
            numbers = [number % 2**64 if "ULong64" in kind or "unsigned long" in kind else number for number in numbers]
            if name.endswith("fBits"):
                numbers = [number & ~IN_MEMORY for number in numbers]
        else:
            numbers = [float(reader.EvalInstance(index)) for index in range(count)]
        found.append(numbers)
    return found


def read_tree(file, name, members):
    """Return the truth of a tree by the full paths of its branches, and of some members of structs."""
    tree = file.Get(name)
    formulas = dict(branches(tree)) | {member: member.split("/")[-1] for member in members}
    return {path: values(tree, path, formula) for path, formula in formulas.items()}


FIELDS = "bits i8 u8 i16 u64 b f d d32 _weight vf vb Jets:pt arr arr2 half cut steps opt opti vv va"
MEMBERS = {
    "Hits": "cell energy position.x position.y position.z good time moments",
    "_Hits_links": "index collectionID",
}
NTUPLE = [*FIELDS.split(), *(f"{field}.{member}" for field, names in MEMBERS.items() for member in names.split())]


def read_ntuple(path):
    """Return the truth of the fields of an RNTuple by their full names, what is missing as NaN."""
    reader = ROOT.RNTupleReader.Open("events", path)
    fields = reader.GetDescriptor()
    entry = reader.CreateEntry()
    found = {name: [] for name in NTUPLE}
    for index in ENTRIES:
        reader.LoadEntry(index, entry)
        for name in NTUPLE:
            field, *members = name.split(".")
            is_signed = fields.GetFieldDescriptor(fields.FindFieldId(field)).GetTypeName() == "std::int8_t"
            found[name].append(numbers_in(entry[field], members, is_signed))
    return found


def numbers_in(value, members, is_signed):
    """Return the numbers that a value, or a member of each of its items, holds."""
    if hasattr(value, "has_value"):
        return [value.value() if value.has_value() else float("nan")]
    if isinstance(value, str):  # what Python makes of a byte
        return [ord(value) - 256 if is_signed and ord(value) > 127 else ord(value)]
    if hasattr(value, "test"):  # a bitset
        return [value.test(index) for index in range(value.size())]
    if hasattr(value, "size"):
        return [number for item in value for number in numbers_in(item, members, is_signed)]
    for member in members:
        value = getattr(value, member)
    return list(value) if hasattr(value, "__len__") else [value]


def main():
    """Write everything beside this script."""
    ROOT.gROOT.SetBatch(True)
    ROOT.gInterpreter.AddIncludePath(str(FOLDER))
    ROOT.gROOT.LoadMacro(f"{FOLDER}/write.C+")
    truth = {}
    for stem, name in TREES.items():
        getattr(ROOT, f"write_{stem}")()
        file = ROOT.TFile(f"{stem}.root")
        truth[stem] = read_tree(file, name, STRUCT_MEMBERS[stem])
    ROOT.gROOT.LoadMacro(f"{FOLDER}/structs.C+")
    ROOT.write_structs()
    ROOT.write_rntuple()
    truth["rntuple"] = read_ntuple("rntuple.root")
    (FOLDER / "truth.json").write_text(json.dumps({"entries": ENTRIES, **truth}))


if __name__ == "__main__":
    main()
