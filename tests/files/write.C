// Writes the test files with ROOT: make.py calls it, and then reads back what it wrote.
#include <array>
#include <bitset>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <ROOT/RField.hxx>
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriter.hxx>

#include "TClonesArray.h"
#include "TFile.h"
#include "TLorentzVector.h"
#include "TParticle.h"
#include "TRandom3.h"
#include "TTree.h"
#include "classes.h"

const int EVENTS = 60;
const int FIRST_CLUSTER = 40;

void end_of_event(TTree &tree, int event) {
  tree.Fill();
  if (event == FIRST_CLUSTER - 1) tree.FlushBaskets();
}

// Leaves of every type: alone, in arrays of fixed length, and in arrays that another leaf counts.
void write_leaves() {
  TFile file("leaves.root", "RECREATE");
  TTree t("Events", "t");
  TRandom3 r(1);
  Char_t b; UChar_t ub; Short_t s; UShort_t us; Int_t i; UInt_t ui; Long64_t l; ULong64_t ul; Long_t g;
  Float_t f; Double_t d; Bool_t o; char text[20];
  struct { Int_t a; Float_t b; } two;
  Float16_t f16, f16r, f16b, f16a[3], f16ar[2]; Double32_t d32, d32r, d32b, d32f, d32pi, d32a[2], d32x[2][3], d32p[2];
  Float_t x3[3]; Int_t x23[2][3];
  Int_t n; Float_t pt[10], m2[10][2]; Double32_t jd[10], jp[10]; Float16_t jf[10], jr[10]; Bool_t jb[10];
  t.Branch("b", &b, "b/B"); t.Branch("ub", &ub, "ub/b"); t.Branch("s", &s, "s/S"); t.Branch("us", &us, "us/s");
  t.Branch("i", &i, "i/I"); t.Branch("ui", &ui, "ui/i"); t.Branch("l", &l, "l/L"); t.Branch("ul", &ul, "ul/l");
  t.Branch("g", &g, "g/G"); t.Branch("f", &f, "f/F"); t.Branch("d", &d, "d/D"); t.Branch("o", &o, "o/O");
  t.Branch("f16", &f16, "f16/f"); t.Branch("f16r", &f16r, "f16r/f[0,10,12]"); t.Branch("f16b", &f16b, "f16b/f[0,0,7]");
  t.Branch("d32", &d32, "d32/d"); t.Branch("d32r", &d32r, "d32r/d[0,100,16]"); t.Branch("d32b", &d32b, "d32b/d[0,0,10]");
  t.Branch("d32f", &d32f, "d32f/d[-5,5]"); t.Branch("d32pi", &d32pi, "d32pi/d[-pi,2*pi,24]");
  t.Branch("x3", x3, "x3[3]/F"); t.Branch("x23", x23, "x23[2][3]/I"); t.Branch("f16a", f16a, "f16a[3]/f");
  t.Branch("f16ar", f16ar, "f16ar[2]/f[-3,3,14]"); t.Branch("d32a", d32a, "d32a[2]/d[0,1,20]");
  t.Branch("d32x", d32x, "d32x[2][3]/d[0,1,20]"); t.Branch("d32p", d32p, "d32p[2]/d");
  t.Branch("n", &n, "n/I"); t.Branch("pt", pt, "pt[n]/F"); t.Branch("m2", m2, "m2[n][2]/F");
  t.Branch("jd", jd, "jd[n]/d[0,1,18]"); t.Branch("jp", jp, "jp[n]/d"); t.Branch("jf", jf, "jf[n]/f");
  t.Branch("jr", jr, "jr[n]/f[-4,4,12]"); t.Branch("jb", jb, "jb[n]/O");
  t.Branch("text", text, "text/C"); t.Branch("two", &two, "a/I:b/F");
  for (int e = 0; e < EVENTS; e++) {
    b = e - 30; ub = 190 + e; s = e - 100; us = 65000 + e; i = -e * 1000; ui = 4000000000u + e;
    l = (1LL << 60) + e; ul = (1ULL << 63) + e; g = e; f = r.Gaus(); d = r.Gaus(); o = e % 3 == 0;
    f16 = r.Gaus(); f16r = r.Uniform(0, 10); f16b = r.Gaus(); d32 = r.Gaus(); d32r = r.Uniform(0, 100); d32b = r.Gaus();
    d32f = r.Uniform(-5, 5); d32pi = r.Uniform(-3, 6);
    for (int k = 0; k < 3; k++) {
      x3[k] = e + k * .5; f16a[k] = r.Gaus();
      for (int j = 0; j < 2; j++) { x23[j][k] = e * 10 + j * 3 + k; d32x[j][k] = r.Uniform(); }
    }
    for (int k = 0; k < 2; k++) { d32a[k] = r.Uniform(); f16ar[k] = r.Uniform(-3, 3); d32p[k] = r.Gaus(); }
    n = r.Integer(6);
    for (int k = 0; k < n; k++) {
      pt[k] = r.Exp(30); m2[k][0] = k; m2[k][1] = e; jd[k] = r.Uniform(); jp[k] = r.Gaus(); jf[k] = r.Gaus();
      jr[k] = r.Uniform(-4, 4); jb[k] = k % 2;
    }
    sprintf(text, "e%d", e); two.a = e; two.b = e * .5;
    end_of_event(t, e);
  }
  t.Write();
}

// Vectors under names with dots, as ATLAS's PHYSLITE has them.
void write_physlite() {
  TFile file("physlite.root", "RECREATE");
  TTree t("CollectionTree", "t");
  TRandom3 r(2);
  std::vector<float> pt; std::vector<int> q; std::vector<char> c; std::vector<bool> passed; std::vector<short> s;
  std::vector<unsigned char> uc; std::vector<unsigned long long> ull; std::vector<double> d;
  std::vector<std::vector<float>> vv; std::vector<std::vector<int>> vvi; std::vector<std::vector<std::vector<float>>> vvv;
  std::vector<std::string> names; std::string name; TString title; TLorentzVector p4; std::vector<TLorentzVector> p4s;
  std::array<float, 4> point; UInt_t run; ULong64_t number;
  t.Branch("AnalysisJetsAuxDyn.pt", &pt); t.Branch("AnalysisJetsAuxDyn.charge", &q); t.Branch("AnalysisJetsAuxDyn.c", &c);
  t.Branch("AnalysisJetsAuxDyn.passed", &passed); t.Branch("AnalysisJetsAuxDyn.s", &s);
  t.Branch("AnalysisJetsAuxDyn.uc", &uc); t.Branch("AnalysisJetsAuxDyn.ull", &ull);
  // ROOT 6.40 takes one of these two classes for the other
  t.Branch("AnalysisJetsAuxDyn.d32", "vector<double>", &d); t.Branch("AnalysisJetsAuxDyn.d", "vector<Double32_t>", &d);
  t.Branch("AnalysisJetsAuxDyn.SumPtTrk", &vv); t.Branch("AnalysisJetsAuxDyn.NumTrkPt500", &vvi); t.Branch("vvv", &vvv);
  t.Branch("names", &names); t.Branch("name", &name); t.Branch("title", &title); t.Branch("p4", &p4); t.Branch("p4s", &p4s);
  t.Branch("point", &point); t.Branch("EventInfoAuxDyn.runNumber", &run, "runNumber/i");
  t.Branch("EventInfoAuxDyn.eventNumber", &number, "eventNumber/l");
  for (int e = 0; e < EVENTS; e++) {
    pt.clear(); q.clear(); c.clear(); passed.clear(); s.clear(); uc.clear(); ull.clear(); d.clear();
    vv.clear(); vvi.clear(); vvv.clear(); names.clear(); p4s.clear();
    for (int k = 0, n = r.Integer(5); k < n; k++) {
      pt.push_back(r.Exp(30000)); q.push_back(int(r.Integer(3)) - 1); c.push_back(k - 2); passed.push_back(r.Uniform() > .5);
      s.push_back(-k); uc.push_back(250 + k); ull.push_back((1ULL << 63) + k); d.push_back(r.Gaus());
      std::vector<float> inner; std::vector<int> counts;
      for (int j = 0, m = r.Integer(4); j < m; j++) { inner.push_back(r.Gaus()); counts.push_back(j + e); }
      vv.push_back(inner); vvi.push_back(counts); vvv.push_back({inner}); names.push_back("x");
      TLorentzVector p; p.SetPxPyPzE(r.Gaus(), 0, 0, 1); p4s.push_back(p);
    }
    name = "s"; title = "t"; p4.SetPtEtaPhiM(r.Exp(20), 0, 0, 1); point = {1.f * e, 2, 3, 4};
    run = 300000 + e; number = (1ULL << 60) + e;
    end_of_event(t, e);
  }
  t.Write();
}

edm::MCParticleData particle(TRandom3 &r, int e, int k) {
  edm::MCParticleData p{};
  p.PDG = k - 3; p.charge = r.Gaus(); p.mass = r.Gaus(); p.momentum = {float(r.Gaus()), float(r.Gaus()), float(k)};
  p.parents_begin = k; p.point = {1, 2, 3.f * k}; p.overlay = k % 2; p.time = r.Gaus(); p.angle = r.Uniform(-3, 3);
  p.weight = r.Gaus(); p.cellID = (1ULL << 60) + k; p.times.assign(k, .5);
  for (int j = 0; j < 6; j++) p.covMatrix[j] = j + e;
  return p;
}

// Split vectors of structs, their relations under names that begin with an underscore, as podio writes them.
void write_edm4hep() {
  TFile file("edm4hep.root", "RECREATE");
  TTree t("events", "t");
  TRandom3 r(3);
  std::vector<edm::MCParticleData> particles, whole; std::vector<edm::ObjectID> parents; edm::Event event;
  t.Branch("MCParticles", &particles); t.Branch("_MCParticles_parents", &parents); t.Branch("event", &event);
  t.Branch("event.", &event); t.Branch("whole", &whole, 32000, 0);
  for (int e = 0; e < EVENTS; e++) {
    particles.clear(); parents.clear(); whole.clear();
    int n = r.Integer(6);
    for (int k = 0; k < n; k++) {
      particles.push_back(particle(r, e, k)); whole.push_back(particles.back()); parents.push_back({k, 7});
    }
    event.met = r.Exp(30); event.sumet = r.Gaus(); event.phi = r.Uniform(0, 6); event.times.assign(n, r.Gaus());
    for (int j = 0; j < 2; j++) { event.pair[j] = r.Uniform(); event.ranged[j] = r.Uniform(-1, 1); }
    for (int j = 0; j < 3; j++) event.small[j] = r.Gaus();
    for (int j = 0; j < 4; j++) event.weights[j] = j + e;
    event.pts.assign(n, 1.5f * e); event.vertex = {1.f * e, 2, 3};
    end_of_event(t, e);
  }
  t.Write();
}

// Split TClonesArrays, as Delphes writes them.
void write_delphes() {
  TFile file("delphes.root", "RECREATE");
  TTree t("Delphes", "t");
  TRandom3 r(4);
  auto particles = new TClonesArray("TParticle"), vectors = new TClonesArray("TLorentzVector"), jets = new TClonesArray("Jet");
  Int_t size;
  t.Branch("Particle", &particles, 64000, 99); t.Branch("P4", &vectors, 64000, 99); t.Branch("Jet", &jets, 64000, 99);
  t.Branch("Jet_size", &size, "Jet_size/I");
  for (int e = 0; e < EVENTS; e++) {
    particles->Clear("C"); vectors->Clear("C"); jets->Clear("C");
    size = r.Integer(5);
    for (int k = 0; k < size; k++) {
      new ((*particles)[k]) TParticle(k, 1, k, k + 1, -1, -1, r.Gaus(), r.Gaus(), 0, 1, 0, 0, 0, 0);
      (new ((*vectors)[k]) TLorentzVector)->SetPtEtaPhiM(r.Exp(20), r.Gaus(), 0, 1);
      auto jet = new ((*jets)[k]) Jet;
      jet->PT = r.Exp(30); jet->Eta = r.Gaus(); jet->Flavor = k; jet->Mass = r.Uniform(0, 200); jet->Width = r.Gaus();
      jet->BTag = k % 2;
      for (int j = 0; j < 5; j++) jet->Tau[j] = j + k;
    }
    end_of_event(t, e);
  }
  t.Write();
}

// Fields of an RNTuple: numbers in every encoding, collections, records, what may be missing.
void write_rntuple() {
  using namespace ROOT;
  auto m = RNTupleModel::Create();
  TRandom3 r(5);
  auto i8 = m->MakeField<std::int8_t>("i8"); auto u8 = m->MakeField<std::uint8_t>("u8");
  auto i16 = m->MakeField<std::int16_t>("i16"); auto u64 = m->MakeField<std::uint64_t>("u64");
  auto b = m->MakeField<bool>("b"); auto f = m->MakeField<float>("f"); auto d = m->MakeField<double>("d");
  auto d32 = m->MakeField<Double32_t>("d32"); auto under = m->MakeField<float>("_weight");
  auto vf = m->MakeField<std::vector<float>>("vf"); auto vb = m->MakeField<std::vector<bool>>("vb");
  auto vv = m->MakeField<std::vector<std::vector<int>>>("vv"); auto dot = m->MakeField<std::vector<float>>("Jets:pt");
  auto arr = m->MakeField<std::array<float, 3>>("arr");
  auto arr2 = m->MakeField<std::array<std::array<int, 2>, 3>>("arr2");
  auto va = m->MakeField<std::vector<std::array<float, 2>>>("va"); auto vs = m->MakeField<std::vector<std::string>>("vs");
  auto s = m->MakeField<std::string>("s"); auto opt = m->MakeField<std::optional<float>>("opt");
  auto opti = m->MakeField<std::optional<int>>("opti"); auto var = m->MakeField<std::variant<int, float>>("var");
  auto bits = m->MakeField<std::bitset<8>>("bits");
  auto hits = m->MakeField<std::vector<edm::Hit>>("Hits");
  auto links = m->MakeField<std::vector<edm::ObjectID>>("_Hits_links");
  auto half = std::make_unique<RField<float>>("half"); half->SetHalfPrecision(); m->AddField(std::move(half));
  auto cut = std::make_unique<RField<float>>("cut"); cut->SetTruncated(20); m->AddField(std::move(cut));
  auto steps = std::make_unique<RField<float>>("steps"); steps->SetQuantized(0, 10, 14); m->AddField(std::move(steps));
  auto &entry = m->GetDefaultEntry();
  auto fhalf = entry.GetPtr<float>("half"), fcut = entry.GetPtr<float>("cut"), fsteps = entry.GetPtr<float>("steps");
  auto writer = RNTupleWriter::Recreate(std::move(m), "events", "rntuple.root");
  for (int e = 0; e < EVENTS; e++) {
    vf->clear(); vb->clear(); vv->clear(); vs->clear(); va->clear(); hits->clear(); links->clear(); dot->clear();
    *i8 = e - 30; *u8 = 190 + e; *i16 = -e; *u64 = (1ULL << 63) + e; *b = e % 2; *f = e * .5; *d = r.Gaus(); *d32 = r.Gaus();
    *under = e; *s = "x"; *bits = e; *arr = {1, 2, 3.f * e}; *fhalf = r.Gaus(); *fcut = r.Gaus(); *fsteps = r.Uniform(0, 10);
    for (int k = 0; k < 3; k++) (*arr2)[k] = {e, k};
    for (int k = 0, n = r.Integer(5); k < n; k++) {
      vf->push_back(k); vb->push_back(k % 2); vv->push_back({1, k}); vs->push_back("x"); va->push_back({1, 2});
      dot->push_back(k + .5); links->push_back({k, 7});
      hits->push_back({k, r.Gaus(), {1, 2, 3.f * k}, {1, 2, 3, 4, 5, 6.f * e}, bool(k % 2), r.Gaus()});
    }
    if (e % 3) *opt = e; else opt->reset();
    if (e % 3) *opti = e; else opti->reset();
    if (e % 2) *var = e; else *var = 1.5f;
    writer->Fill();
    if (e == FIRST_CLUSTER - 1) writer->CommitCluster();
  }
}
