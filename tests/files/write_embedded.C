// root -b -q write_embedded.C        in this folder: trees whose last baskets are embedded in their records: embedded.root
//
// TFile::WriteTObject does not flush the baskets in memory, unlike TTree::Write. See `tests/test_embedded_baskets.py`.

void fill(TFile &file, const char *name, int entries, int basket, int flush, bool in_memory = false,
          const char *title = "") {
   TTree tree(name, title);
   if (in_memory) tree.SetDirectory(nullptr);
   tree.SetAutoFlush(flush);
   ULong64_t event;
   Double_t d;
   Bool_t b;
   Short_t three[3];
   Int_t n;
   Float_t pt[5];
   UChar_t id[5];
   char text[] = "text";
   tree.Branch("event", &event, "event/l", basket);
   tree.Branch("d", &d, "d/D", basket);
   tree.Branch("b", &b, "b/O", basket);
   tree.Branch("three", three, "three[3]/S", basket);
   tree.Branch("n", &n, "n/I", basket);
   tree.Branch("pt", pt, "pt[n]/F", basket);
   tree.Branch("id", id, "id[n]/b", basket);
   tree.Branch("text", text, "text/C", basket);
   for (int i = 0; i < entries; ++i) {
      event = 10000000000ull + i;
      d = i / 2.0;
      b = i % 3 == 0;
      n = 7 * i % 5;
      for (int k = 0; k < 3; ++k) three[k] = k - i;
      for (int k = 0; k < n; ++k) pt[k] = i + k / 4.0, id[k] = i + k;
      tree.Fill();
   }
   file.WriteTObject(&tree);
}

void write_embedded() {
   TFile file("embedded.root", "RECREATE");
   fill(file, "only", 30, 32000, 0, false, "30 entries"); // only embedded baskets; a key of 48 bytes, for fuzzing
   fill(file, "last", 250, 32000, 100);                   // two baskets in the file, and an embedded one
   fill(file, "small", 200, 300, 0);                      // baskets of different lengths
   fill(file, "memory", 150, 300, 0, true);               // several embedded baskets
   fill(file, "empty", 0, 32000, 0);
   fill(file, "flushed", 200, 32000, 100);                // the embedded baskets have no entries
}
