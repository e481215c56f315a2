"""Write files with ROOT that are read in ways of their own: odd.root, old_zlib.root and unclosed.root.

python odd.py         # in this folder, with ROOT 6.36 or newer: pip install root

`tests/test_odd_files.py` has the formulas of the numbers, as this script has; they are not read back with ROOT.
"""

import os
import signal
from array import array

import ROOT

CLASSES = """
class Hit : public TObject {
public:
   Double32_t p[3];
   Double32_t q[2]; //[0,100,16]
   ClassDefInline(Hit, 1)
};
class Vertex {
public:
   Double32_t d[3];
   Double32_t e[2][2]; //[0,100,16]
   ClassDefInline(Vertex, 1)
};
void write_lengths() {
   TTree tree("lengths", "");
   auto hits = new TClonesArray("Hit");
   auto vertex = new Vertex;
   Double32_t bare[3];
   tree.Branch("hits", &hits);
   tree.Branch("vertex", &vertex);
   tree.Branch("bare", bare, "bare[3]/d[0,100,16]")->GetLeaf("bare")->SetTitle("d[0,100,16]");
   for (int i = 0; i < 20; ++i) {
      hits->Clear();
      for (int k = 0; k < i % 3; ++k) {
         auto hit = new ((*hits)[k]) Hit;
         for (int j = 0; j < 3; ++j) hit->p[j] = i + j;
         for (int j = 0; j < 2; ++j) hit->q[j] = 25 * j;
      }
      for (int j = 0; j < 3; ++j) vertex->d[j] = i + j, bare[j] = 25 * j;
      for (int j = 0; j < 4; ++j) vertex->e[j / 2][j % 2] = 25 * j;
      tree.Fill();
   }
   tree.Write();
}
"""


def write_late():
    """Branches that were added to a tree of 100 entries, and filled in 100 more."""
    tree = ROOT.TTree("late", "")
    x, y, n, v = array("f", [0]), array("f", [0]), array("i", [0]), array("f", [0, 0])
    tree.Branch("x", x, "x/F")
    for entry in range(200):
        if entry == 100:
            tree.Branch("y", y, "y/F")
            tree.Branch("n", n, "n/I")
            tree.Branch("v", v, "v[n]/F")
        x[0] = y[0] = v[0] = v[1] = entry
        n[0] = entry % 3
        tree.Fill()
    tree.Write()


def write_longer():
    """A branch that was filled 50 times more than its tree, in baskets of 62 entries."""
    tree = ROOT.TTree("longer", "")
    x, z = array("f", [0]), array("f", [0])
    tree.Branch("x", x, "x/F")
    branch = tree.Branch("z", z, "z/F", 320)
    for entry in range(150):
        x[0], z[0] = entry, -entry
        branch.Fill() if entry >= 100 else tree.Fill()
    tree.Write()


def write_leaf_list():
    """A leaf list with arrays."""
    tree = ROOT.TTree("leaf_list", "")
    x, q = array("f", [0]), array("f", [0] * 4)
    tree.Branch("x", x, "x/F")
    tree.Branch("q", q, "a[2]/F:b[2]/F")
    for entry in range(20):
        x[0] = entry
        for k in range(4):
            q[k] = entry + k / 4
        tree.Fill()
    tree.Write()


def write_generated():
    """Lists without stored offsets, whose baskets hold other entries than those of their counters."""
    tree = ROOT.TTree("generated", "")
    features = ROOT.ROOT.TIOFeatures()
    features.Set("kGenerateOffsetMap")
    tree.SetIOFeatures(features)
    n, m = array("i", [0]), array("B", [0])
    v, w, a, d = array("f", [0] * 6), array("d", [0] * 6), array("f", [0] * 12), array("d", [0] * 6)
    tree.Branch("n", n, "n/I", 700)
    tree.Branch("m", m, "m/b")
    tree.Branch("v", v, "v[n]/F", 1500)
    tree.Branch("w", w, "w[m]/D", 1800)
    tree.Branch("a", a, "a[n][3]/F")
    tree.Branch("d", d, "d[n]/d[0,100,16]", 1000)
    for entry in range(300):
        n[0], m[0] = entry % 4, entry % 6
        for k in range(6):
            v[k], w[k], d[k] = entry + k / 8, -entry - k / 8, 25 * (k % 4)
        tree.Fill()
    tree.Write()


def write_old_zlib():
    """A file that is compressed in the way that ROOT did up to 2003."""
    file = ROOT.TFile("old_zlib.root", "RECREATE", "", 305)
    tree = ROOT.TTree("Events", "")
    x, n, v = array("f", [0]), array("i", [0]), array("f", [0] * 3)
    tree.Branch("x", x, "x/F")
    tree.Branch("n", n, "n/I")
    tree.Branch("v", v, "v[n]/F")
    for entry in range(300):
        x[0], n[0] = entry / 4, entry % 4
        for k in range(3):
            v[k] = entry + k
        tree.Fill()
    tree.Write()
    file.Close()


def write_unclosed():
    """A file of a process that is killed after 500 events, of which it saved a tree three times, last after 450."""
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        return
    file = ROOT.TFile("unclosed.root", "RECREATE")
    tree = ROOT.TTree("Events", "")
    x, n, v = array("f", [0]), array("i", [0]), array("f", [0] * 3)
    vector = ROOT.std.vector("float")()
    tree.Branch("x", x, "x/F", 400)
    tree.Branch("n", n, "n/I", 400)
    tree.Branch("v", v, "v[n]/F", 800)
    tree.Branch("vector", vector)
    tree.SetAutoFlush(0)
    file.mkdir("folder").cd()
    inner = ROOT.TTree("inner", "")
    inner.Branch("x", x, "x/F")
    for entry in range(500):
        x[0], n[0] = entry / 4, entry % 4
        vector.clear()
        for k in range(3):
            v[k] = entry + k
            vector.push_back(k)
        tree.Fill()
        if entry < 100:
            inner.Fill()
        if entry + 1 in (150, 300, 450):
            tree.AutoSave()
            inner.AutoSave()
    file.Flush()
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    """Write everything in the present folder."""
    ROOT.gROOT.SetBatch(True)
    ROOT.gInterpreter.Declare(CLASSES)
    write_unclosed()
    write_old_zlib()
    file = ROOT.TFile("odd.root", "RECREATE")
    write_late()
    write_longer()
    write_leaf_list()
    write_generated()
    ROOT.write_lengths()
    file.Close()


if __name__ == "__main__":
    main()
