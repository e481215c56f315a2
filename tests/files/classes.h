// The classes whose collections the test files hold, as EDM4hep's and Delphes's are.
#include <array>
#include <vector>

#include "Rtypes.h"
#include "TLorentzVector.h"
#include "TObject.h"

namespace edm {
struct Vector3f {
  float x;
  float y;
  float z;
};
struct MCParticleData {
  int PDG;
  float charge;
  double mass;
  Vector3f momentum;
  unsigned int parents_begin;
  float covMatrix[6];
  std::array<float, 3> point;
  bool overlay;
  Double32_t time;
  Double32_t angle;  //[-pi,pi,20]
  Float16_t weight;
  ULong64_t cellID;
  std::vector<Double32_t> times;
};
struct ObjectID {
  int index;
  unsigned int collectionID;
};
struct Hit {
  int cell;
  double energy;
  Vector3f position;
  float moments[6];
  bool good;
  Double32_t time;
};
struct Event {
  float met;
  Double32_t sumet;
  Double32_t phi;       //[0,twopi,12]
  Double32_t pair[2];   //[0,1,20]
  Float16_t small[3];
  Float16_t ranged[2];  //[-1,1,10]
  std::vector<Double32_t> times;
  float weights[4];
  std::vector<float> pts;
  Vector3f vertex;
};
}  // namespace edm

class Jet : public TObject {
 public:
  Float_t PT = 0;
  Float_t Eta = 0;
  Int_t Flavor = 0;
  Float_t Tau[5] = {};
  Double32_t Mass = 0;   //[0,200,16]
  Float16_t Width = 0;
  Bool_t BTag = false;
  ClassDef(Jet, 1)
};

#ifdef __CLING__
#pragma link C++ class edm::Vector3f+;
#pragma link C++ class edm::MCParticleData+;
#pragma link C++ class edm::ObjectID+;
#pragma link C++ class edm::Hit+;
#pragma link C++ class edm::Event+;
#pragma link C++ class Jet+;
#pragma link C++ class std::vector<edm::MCParticleData>+;
#pragma link C++ class std::vector<edm::Hit>+;
#pragma link C++ class std::vector<edm::ObjectID>+;
#pragma link C++ class std::vector<TLorentzVector>+;
#pragma link C++ class std::vector<std::vector<int>>+;
#pragma link C++ class std::vector<std::vector<float>>+;
#pragma link C++ class std::vector<std::vector<std::vector<float>>>+;
#endif
