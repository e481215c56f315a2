"""Write elements.root with ROOT: collections of numbers, split objects and collections of objects, and a TNtuple.

python elements.py         # in this folder, with ROOT 6.36 or newer: pip install root; needs a C++ compiler too

`tests/test_elements.py` has the formulas of the numbers.
"""

import ROOT

CODE = """
void write_vectors() {
   TTree tree("vectors", "vectors"); // a title with which the key has 48 bytes, for fuzzing
   std::vector<float> f; std::vector<double> d; std::vector<int> i; std::vector<unsigned char> uc;
   std::vector<bool> b; std::vector<short> s; std::vector<Long64_t> l; std::vector<std::vector<float>> ff;
   std::list<int> li; std::set<int> se; std::vector<std::string> names; std::string text; Int_t n;
   tree.Branch("f", &f); tree.Branch("d", &d); tree.Branch("i", &i); tree.Branch("uc", &uc); tree.Branch("b", &b);
   tree.Branch("s", &s); tree.Branch("l", &l); tree.Branch("ff", &ff); tree.Branch("li", &li); tree.Branch("se", &se);
   tree.Branch("names", &names); tree.Branch("text", &text); tree.Branch("n", &n, "n/I");
   for (int e = 0; e < 50; ++e) {
      n = 3 * e % 4;
      f.clear(); d.clear(); i.clear(); uc.clear(); b.clear(); s.clear(); l.clear(); ff.clear(); li.clear(); se.clear();
      names.clear();
      text = "text";
      for (int k = 0; k < n; ++k) {
         f.push_back(e + k / 4.); d.push_back(e - k / 4.); i.push_back(k - e); uc.push_back(200 + k);
         b.push_back(k == 1); s.push_back(-k);
         l.push_back((1LL << 40) + e); li.push_back(e + k); se.insert(e + k); names.push_back("name");
         ff.push_back(std::vector<float>(k, e));
      }
      tree.Fill();
      if (e == 29) tree.FlushBaskets();
   }
   tree.Write();
}
void write_split() {
   TTree tree("split", "50 events");
   auto header = new Header; auto tracks = new TClonesArray("Track"); std::vector<Point> points;
   tree.Branch("header", &header); tree.Branch("tracks", &tracks); tree.Branch("points.", &points);
   for (int e = 0; e < 50; ++e) {
      header->run = 7; header->event = (1ULL << 63) + e; header->note = "note";
      for (int k = 0; k < 4; ++k) header->x[k / 2][k % 2] = e + k / 4.;
      tracks->Clear();
      points.clear();
      for (int k = 0; k < e % 3; ++k) {
         auto track = new ((*tracks)[k]) Track;
         track->pt = e + k / 4.; track->good = k == 1;
         for (int j = 0; j < 3; ++j) track->hits[j] = e - k + j;
         Point point; point.z = e - k / 4.; point.cell[0] = e; point.cell[1] = k; points.push_back(point);
      }
      tree.Fill();
      if (e == 29) tree.FlushBaskets();
   }
   tree.Write();
}
void write_ntuple() {
   TNtuple ntuple("ntuple", "", "a:b");
   for (int e = 0; e < 50; ++e) ntuple.Fill(e, -e / 2.);
   ntuple.Write();
   TNtupleD doubles("doubles", "", "a");
   for (int e = 0; e < 50; ++e) { double a = e / 2.; doubles.Fill(&a); }
   doubles.Write();
}
"""

file = ROOT.TFile("elements.root", "RECREATE")
ROOT.gROOT.ProcessLine(".L elements.h+")
ROOT.gInterpreter.Declare(CODE)
ROOT.write_vectors()
ROOT.write_split()
ROOT.write_ntuple()
file.Close()
