// The classes of structs.root.
#include <array>
#include <bitset>
#include <deque>
#include <list>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "TDatime.h"
#include "TLorentzVector.h"
#include "TObject.h"
#include "TVector2.h"

namespace st {
struct Point {
  float x;
  float y;
};
struct Base {
  int id;
  float weight;
};
enum Colour { kRed, kGreen };
struct Track : public Base {
  double pt;
  Point at;
  float cov[3];
  bool good;
  short hits;
  std::array<float, 2> dxy;
  Colour colour;
  Double32_t time;
  Double32_t angle;  //[0,10,16]
  std::pair<int, float> link;
  std::bitset<3> flags;
};
struct Hit : public Base {
  double energy;
  Point at;
  float shape[2];
};
class Object : public TObject {
 public:
  float pt = 0;
  TVector2 v;
  ClassDef(Object, 3)
};
struct Shadow : public Point {
  double x;
};
struct Text {
  float pt;
  std::string name;
};
struct Dated {
  TDatime time;
  int i;
};
struct Split {
  std::set<int> ids;
  std::bitset<3> flags;
  Point at;
  std::map<int, float> weights;
};
}  // namespace st

#ifdef __CLING__
#pragma link C++ class st::Point+;
#pragma link C++ class st::Base+;
#pragma link C++ class st::Track+;
#pragma link C++ class st::Hit+;
#pragma link C++ class st::Object+;
#pragma link C++ class st::Shadow+;
#pragma link C++ class st::Text+;
#pragma link C++ class st::Dated+;
#pragma link C++ class st::Split+;
#pragma link C++ class std::pair<int, float>+;
#pragma link C++ class std::vector<st::Hit>+;
#pragma link C++ class std::vector<st::Object>+;
#pragma link C++ class std::list<st::Point>+;
#pragma link C++ class std::vector<TLorentzVector>+;
#pragma link C++ class std::vector<std::pair<int, float>>+;
#pragma link C++ class std::map<int, float>+;
#pragma link C++ class std::map<int, TLorentzVector>+;
#pragma link C++ class std::set<int>+;
#pragma link C++ class std::multiset<float>+;
#pragma link C++ class std::list<double>+;
#pragma link C++ class std::deque<float>+;
#pragma link C++ class std::unordered_set<int>+;
#pragma link C++ class std::set<std::string>+;
#pragma link C++ class std::bitset<10>+;
#pragma link C++ class std::vector<std::bitset<4>>+;
#endif
