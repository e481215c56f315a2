// The classes of the objects in elements.root; elements.py compiles them.
#include <vector>

#include "TObject.h"
#include "TString.h"

class Header {
public:
   UInt_t run;
   ULong64_t event;
   Float_t x[2][2];
   TString note;
};
class Track : public TObject {
public:
   Float_t pt;
   Short_t hits[3];
   Bool_t good;
   ClassDef(Track, 1)
};
class Point {
public:
   Double_t z;
   Int_t cell[2];
};

#ifdef __CLING__
#pragma link C++ class Header+;
#pragma link C++ class Track+;
#pragma link C++ class Point+;
#pragma link C++ class std::vector<Point>+;
#endif
