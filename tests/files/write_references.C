// Writes references.root: root -b -q write_references.C
//
// Two branches are called Particle, and TRefs point to all objects of the first one, as Delphes writes them. A TRef points to
// MET in the first event only.
#include "TClonesArray.h"
#include "TFile.h"
#include "TParameter.h"
#include "TRef.h"
#include "TTree.h"
#include "TVector2.h"

void write_references(const char *path = "references.root") {
  TFile file(path, "RECREATE", "", 209);
  TTree tree("Delphes", "");
  TClonesArray first("TVector2"), second("TVector2");
  TParameter<double> met("", 0), *address = &met;
  tree.Branch("Particle", "TClonesArray", &first, 32000, 99);
  tree.Branch("MET.", "TParameter<double>", &address, 32000, 99);
  tree.Branch("Particle", "TClonesArray", &second, 32000, 99);
  TRef particle, first_met;
  for (int event = 0; event < 20; ++event) {
    first.Clear("C");
    second.Clear("C");
    for (int i = 0; i < event % 5; ++i) {
      particle = new (first[i]) TVector2(event + 0.25 * i, i);
      new (second[i]) TVector2(-event, -i);
    }
    met.SetVal(event);
    met.ResetBit(kIsReferenced);
    if (event == 0) first_met = &met;
    tree.Fill();
  }
  tree.Write();
}
