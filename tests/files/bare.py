"""Write bare.root: vectors without their TObject, and a branch with the name of a member of a leaf list.

python bare.py        # in this folder, with ROOT; not part of make.py, where the classes are in use already
"""

from array import array

import ROOT

EVENTS = 6


def main():
    """Write the file beside this script."""
    for name in ("TVector3", "TLorentzVector"):
        getattr(ROOT, name).Class().IgnoreTObjectStreamer()
    ROOT.gInterpreter.GenerateDictionary("vector<TLorentzVector>", "vector;TLorentzVector.h")
    pair, alone = array("f", [0, 0]), array("f", [0])
    file = ROOT.TFile("bare.root", "RECREATE")
    tree = ROOT.TTree("Events", "t")
    vector, vectors = ROOT.TLorentzVector(), ROOT.std.vector("TLorentzVector")()
    tree.Branch("whole", vector, 32000, 0)
    tree.Branch("vector", vector)
    tree.Branch("vectors", vectors)
    tree.Branch("q", pair, "x/F:y/F")
    tree.Branch("q.x", alone, "x/F")
    for event in range(EVENTS):
        vector.SetPxPyPzE(event, event + 1, event + 2, event + 3)
        vectors.clear()
        for _ in range(event % 3):
            vectors.push_back(vector)
        pair[0], pair[1], alone[0] = event, 10 * event, 100 * event
        tree.Fill()
    tree.Write()
    file.Close()


if __name__ == "__main__":
    main()
