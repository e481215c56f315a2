// Writes structs.root: structs of every kind, whose numbers follow from the entry e. make.py calls it.
#include "ROOT/RVec.hxx"
#include "TFile.h"
#include "TProcessID.h"
#include "TTree.h"
#include "structs.h"

// Entry e has e % 3 objects in every collection. tests/test_records.py states the same numbers.
void write_structs() {
  TFile file("structs.root", "RECREATE");
  TTree t("Events", "t");
  struct { Float_t px, py; Int_t n; } p;
  struct __attribute__((packed)) { Double_t d; Long64_t l; Int_t i; UInt_t u; Short_t s; Bool_t o; Char_t c; } mixed;
  struct { Float_t x[2], y[2]; } arrays;
  struct { Int_t m; Float_t w[3]; } ragged;
  Int_t n;
  TLorentzVector v, referenced;
  st::Track track; st::Object object; st::Shadow shadow; st::Text text; st::Dated dated; st::Split split;
  std::pair<int, float> pair; std::bitset<10> bits; std::array<float, 3> array;
  std::vector<TLorentzVector> vectors, mixed_vectors; std::vector<st::Hit> hits; std::vector<st::Object> objects;
  std::list<st::Point> points; std::vector<std::pair<int, float>> pairs; std::map<int, float> map;
  std::map<int, TLorentzVector> vector_map; std::set<int> set; std::multiset<float> multiset; std::list<double> list;
  std::deque<float> deque; std::unordered_set<int> unordered; ROOT::VecOps::RVec<float> rvec;
  std::set<std::string> names; std::vector<std::bitset<4>> bit_lists;
  t.Branch("n", &n, "n/I"); t.Branch("p", &p, "px/F:py/F:n/I");
  t.Branch("mixed", &mixed, "d/D:l/L:i/I:u/i:s/S:o/O:c/B"); t.Branch("arrays", &arrays, "x[2]/F:y[2]/F");
  t.Branch("ragged", &ragged, "m/I:w[m]/F");
  t.Branch("v", &v, 32000, 0);   // TBranchObject
  t.Branch("custom.", &v);       // a class that writes itself
  t.Branch("referenced", &referenced); t.Branch("track", &track, 32000, 0); t.Branch("level1", &track, 32000, 1);
  t.Branch("object", &object, 32000, 0); t.Branch("shadow", &shadow, 32000, 0); t.Branch("text", &text, 32000, 0);
  t.Branch("dated", &dated, 32000, 0); t.Branch("split", &split); t.Branch("pair", &pair, 32000, 0);
  t.Branch("bits", &bits); t.Branch("array", &array); t.Branch("vectors", &vectors);
  t.Branch("mixed_vectors", &mixed_vectors); t.Branch("hits", &hits, 32000, 0); t.Branch("objects", &objects, 32000, 0);
  t.Branch("split_objects", &objects); t.Branch("points", &points, 32000, 0); t.Branch("pairs", &pairs, 32000, 0);
  t.Branch("map", &map, 32000, 0); t.Branch("split_map", &map); t.Branch("vector_map", &vector_map);
  t.Branch("set", &set); t.Branch("multiset", &multiset); t.Branch("list", &list); t.Branch("deque", &deque);
  t.Branch("unordered", &unordered); t.Branch("rvec", &rvec); t.Branch("names", &names); t.Branch("bit_lists", &bit_lists);
  for (int e = 0; e < 12; e++) {
    n = e % 3;
    p = {e + .5f, -e - .5f, 10 * e};
    mixed = {1.5 * e, (1LL << 40) + e, -e, 4000000000u + e, short(e - 3), e % 2 == 0, char(65 + e)};
    arrays = {{1.f * e, e + 1.f}, {e + 2.f, e + 3.f}};
    ragged = {e % 4, {1, 2, 3}};
    v.SetPxPyPzE(e, e + 1, e + 2, e + 3);
    referenced = v; referenced.ResetBit(kIsReferenced);
    if (e >= 8) TProcessID::AssignID(&referenced);
    track.id = e; track.weight = .5f * e; track.pt = 3. * e; track.at = {1.f * e, 2.f * e}; track.good = e % 2;
    for (int k = 0; k < 3; k++) track.cov[k] = e + k;
    track.hits = -e; track.dxy = {e + .25f, e + .75f}; track.colour = e % 2 ? st::kGreen : st::kRed;
    track.time = .5 * e; track.angle = e % 10; track.link = {e, .25f * e}; track.flags = std::bitset<3>(e % 8);
    object.pt = e; object.v.Set(e + .5, e - .5);
    shadow.st::Point::x = e; shadow.y = e + 1; shadow.x = e + 2;
    text = {1.f * e, "abc"}; dated.i = e;
    split.ids = {e, e + 2}; split.flags = std::bitset<3>(e % 8); split.at = {1.f * e, 2.f * e};
    split.weights = {{e, 1.f}, {e + 1, 2.f}};
    pair = {e, .5f * e}; bits = std::bitset<10>(37 * e); array = {1.f * e, e + 1.f, e + 2.f};
    vectors.clear(); mixed_vectors.clear(); hits.clear(); objects.clear(); points.clear(); pairs.clear(); map.clear();
    vector_map.clear(); set.clear(); multiset.clear(); list.clear(); deque.clear(); unordered.clear(); rvec.clear();
    names.clear(); bit_lists.clear();
    for (int k = 0; k < n; k++) {
      vectors.push_back((k + 1.) * v); mixed_vectors.push_back((k + 1.) * v); objects.push_back(object);
      st::Hit hit; hit.id = k; hit.weight = .5f * e; hit.energy = e + k; hit.at = {1.f * e, 1.f * k}; hit.shape[0] = k;
      hit.shape[1] = e; hits.push_back(hit);
      points.push_back({1.f * e, 1.f * k}); pairs.push_back({k, e + .5f}); map[e + k] = .5f * k; vector_map[k] = v;
      set.insert(e + k); multiset.insert(e); list.push_back(e + k); deque.push_back(e + k); rvec.push_back(e + k);
      if (!k) unordered.insert(e);
      names.insert("a"); bit_lists.push_back(std::bitset<4>(k));
    }
    if (n == 2) TProcessID::AssignID(&mixed_vectors[1]);
    t.Fill();
    if (e == 7) t.FlushBaskets();
  }
  t.Write();
}
