// Writes chars.root: root -b -q write_chars.C
//
// An RNTuple with numbers of one byte, of both signs, alone, in arrays and in lists.
#include <array>
#include <cstdint>
#include <vector>

#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriter.hxx>

void write_chars(const char *path = "chars.root") {
  auto model = ROOT::RNTupleModel::Create();
  auto plain = model->MakeField<char>("plain");
  auto with_sign = model->MakeField<std::int8_t>("with_sign");
  auto without_sign = model->MakeField<std::uint8_t>("without_sign");
  auto array = model->MakeField<std::array<char, 2>>("array");
  auto list = model->MakeField<std::vector<char>>("list");
  auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "Events", path);
  for (int event = 0; event < 10; ++event) {
    *plain = *with_sign = -event;
    *without_sign = 250 + event % 6;
    *array = {char(event), char(-event)};
    list->assign(event % 3, -event);
    writer->Fill();
  }
}
