// Writes pages.root: RNTuples with every encoding of pages. `root -b -q write_pages.C+` with ROOT 6.40.
#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <ROOT/RField.hxx>
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriteOptions.hxx>
#include <ROOT/RNTupleWriter.hxx>

#include "TFile.h"
#include "TRandom3.h"

namespace pages {
enum class Color : std::int16_t { red = -1, green = 0, blue = 300 };
struct Base {
  float first;
  std::vector<int> list;
};
struct Derived : Base {
  double second;
  Color color;
};
}  // namespace pages

#ifdef __CLING__
#pragma link C++ enum pages::Color + ;
#pragma link C++ class pages::Base + ;
#pragma link C++ class pages::Derived + ;
#pragma link C++ class std::vector < pages::Derived> + ;
#pragma link C++ class std::map < int, float> + ;
#pragma link C++ class std::vector < std::optional < double>> + ;
#endif

using Type = ROOT::ENTupleColumnType;
using Representations = std::vector<std::vector<Type>>;

const int EVENTS = 60;

template <class T>
void add(ROOT::RNTupleModel &model, const std::string &name, Representations representations) {
  auto field = std::make_unique<ROOT::RField<T>>(name);
  field->SetColumnRepresentatives(representations);
  model.AddField(std::move(field));
}

// A field of each type in each encoding.
std::unique_ptr<ROOT::RNTupleModel> encodings() {
  auto made = ROOT::RNTupleModel::Create();
  auto &m = *made;
  add<bool>(m, "bit", {{Type::kBit}});
  add<std::byte>(m, "byte", {{Type::kByte}});
  add<char>(m, "char", {{Type::kChar}});
  add<std::int8_t>(m, "int8", {{Type::kInt8}});
  add<std::uint8_t>(m, "uint8", {{Type::kUInt8}});
  add<std::int16_t>(m, "int16", {{Type::kInt16}});
  add<std::int16_t>(m, "int16_split", {{Type::kSplitInt16}});
  add<std::uint16_t>(m, "uint16", {{Type::kUInt16}});
  add<std::uint16_t>(m, "uint16_split", {{Type::kSplitUInt16}});
  add<std::int32_t>(m, "int32", {{Type::kInt32}});
  add<std::int32_t>(m, "int32_split", {{Type::kSplitInt32}});
  add<std::uint32_t>(m, "uint32", {{Type::kUInt32}});
  add<std::uint32_t>(m, "uint32_split", {{Type::kSplitUInt32}});
  add<std::int64_t>(m, "int64", {{Type::kInt64}});
  add<std::int64_t>(m, "int64_split", {{Type::kSplitInt64}});
  add<std::uint64_t>(m, "uint64", {{Type::kUInt64}});
  add<std::uint64_t>(m, "uint64_split", {{Type::kSplitUInt64}});
  add<float>(m, "half", {{Type::kReal16}});
  add<float>(m, "float", {{Type::kReal32}});
  add<float>(m, "float_split", {{Type::kSplitReal32}});
  add<double>(m, "double", {{Type::kReal64}});
  add<double>(m, "double_split", {{Type::kSplitReal64}});
  add<double>(m, "double_as_float", {{Type::kReal32}});
  for (int bits : {10, 11, 17, 24, 31}) {
    auto field = std::make_unique<ROOT::RField<float>>("truncated_" + std::to_string(bits));
    field->SetTruncated(bits);
    m.AddField(std::move(field));
  }
  for (int bits : {1, 2, 7, 8, 13, 20, 31, 32}) {
    auto field = std::make_unique<ROOT::RField<float>>("quantised_" + std::to_string(bits));
    field->SetQuantized(-10, 10, bits);
    m.AddField(std::move(field));
  }
  add<std::vector<float>>(m, "list_index32", {{Type::kIndex32}});
  add<std::vector<float>>(m, "list_index64", {{Type::kIndex64}});
  add<std::vector<float>>(m, "list_split_index32", {{Type::kSplitIndex32}});
  add<std::vector<float>>(m, "list_split_index64", {{Type::kSplitIndex64}});
  m.AddField(ROOT::RFieldBase::Create("switched", "std::variant<float,std::int32_t>").Unwrap());
  return made;
}

template <class T>
T &value(ROOT::REntry &entry, const std::string &name) {
  return *entry.GetPtr<T>(name);
}

void fill_encodings(ROOT::REntry &e, TRandom3 &r, int i) {
  value<bool>(e, "bit") = r.Uniform() < .4;
  value<std::byte>(e, "byte") = std::byte(i * 5);
  value<char>(e, "char") = i - 30;
  value<std::int8_t>(e, "int8") = 30 - i;
  value<std::uint8_t>(e, "uint8") = 190 + i;
  for (auto name : {"int16", "int16_split"}) value<std::int16_t>(e, name) = (i % 2 ? -1 : 1) * i * 500;
  for (auto name : {"uint16", "uint16_split"}) value<std::uint16_t>(e, name) = 65535 - i * 700;
  for (auto name : {"int32", "int32_split"}) value<std::int32_t>(e, name) = (i % 2 ? -1 : 1) * i * 30000000;
  for (auto name : {"uint32", "uint32_split"}) value<std::uint32_t>(e, name) = 4294967295u - i * 1000003u;
  for (auto name : {"int64", "int64_split"}) value<std::int64_t>(e, name) = (i % 2 ? -1 : 1) * ((1LL << 62) + i);
  for (auto name : {"uint64", "uint64_split"}) value<std::uint64_t>(e, name) = (1ULL << 63) + i;
  for (auto name : {"half", "float", "float_split"}) value<float>(e, name) = r.Gaus();
  for (auto name : {"double", "double_split", "double_as_float"}) value<double>(e, name) = r.Gaus();
  for (int bits : {10, 11, 17, 24, 31}) value<float>(e, "truncated_" + std::to_string(bits)) = r.Gaus(0, 100);
  for (int bits : {1, 2, 7, 8, 13, 20, 31, 32}) value<float>(e, "quantised_" + std::to_string(bits)) = r.Uniform(-10, 10);
  for (auto name : {"list_index32", "list_index64", "list_split_index32", "list_split_index64"}) {
    auto &list = value<std::vector<float>>(e, name);
    list.resize(r.Integer(5));
    for (auto &number : list) number = r.Gaus();
  }
  auto &either = value<std::variant<float, std::int32_t>>(e, "switched");
  if (i % 2)
    either = i;
  else
    either = float(.5 * i);
}

ROOT::RNTupleWriteOptions options(int compression, bool checksums = true) {
  ROOT::RNTupleWriteOptions made;
  made.SetCompression(compression);
  made.SetEnablePageChecksums(checksums);
  made.SetInitialUnzippedPageSize(128);
  made.SetMaxUnzippedPageSize(128);  // several pages in a cluster
  return made;
}

// End clusters of different lengths, and the first of two groups of clusters.
void end_of_event(ROOT::RNTupleWriter &writer, int i) {
  if (i == 19 || i == 20 || i == 49) writer.CommitCluster(i == 20);
}

void write_encodings(TFile &file, const std::string &name, int compression, bool checksums = true) {
  TRandom3 r(6);
  auto writer = ROOT::RNTupleWriter::Append(encodings(), name, file, options(compression, checksums));
  auto entry = writer->GetModel().CreateEntry();
  for (int i = 0; i < EVENTS; i++) {
    fill_encodings(*entry, r, i);
    writer->Fill(*entry);
    end_of_event(*writer, i);
  }
}

// Collections, records and what may be missing, in each other.
void write_structures(TFile &file) {
  TRandom3 r(7);
  auto m = ROOT::RNTupleModel::Create();
  auto lists = m->MakeField<std::vector<std::vector<double>>>("lists_of_lists");
  auto deep = m->MakeField<std::vector<std::vector<std::vector<int>>>>("deep");
  auto arrays = m->MakeField<std::vector<std::array<short, 3>>>("lists_of_arrays");
  auto array_lists = m->MakeField<std::array<std::vector<float>, 2>>("arrays_of_lists");
  auto matrix = m->MakeField<std::array<std::array<int, 2>, 3>>("arrays_of_arrays");
  auto bools = m->MakeField<std::vector<bool>>("bools");
  auto bits = m->MakeField<std::bitset<42>>("bits");
  auto maybe = m->MakeField<std::optional<float>>("maybe");
  auto maybe_int = m->MakeField<std::optional<std::int64_t>>("maybe_int");
  auto maybe_bool = m->MakeField<std::optional<bool>>("maybe_bool");
  auto maybe_list = m->MakeField<std::optional<std::vector<int>>>("maybe_list");
  auto maybes = m->MakeField<std::vector<std::optional<double>>>("maybes");
  auto maybe_record = m->MakeField<std::optional<pages::Base>>("maybe_record");
  auto pointer = m->MakeField<std::unique_ptr<float>>("pointer");
  auto atomic = m->MakeField<std::atomic<int>>("atomic");
  auto color = m->MakeField<pages::Color>("color");
  auto record = m->MakeField<pages::Derived>("record");
  auto records = m->MakeField<std::vector<pages::Derived>>("records");
  auto pair = m->MakeField<std::pair<int, float>>("pair");
  auto tuple = m->MakeField<std::tuple<int, bool, double>>("tuple");
  auto map = m->MakeField<std::map<int, float>>("map");
  auto set = m->MakeField<std::set<int>>("set");
  auto d32 = m->MakeField<Double32_t>("double32");
  auto text = m->MakeField<std::string>("text");
  auto writer = ROOT::RNTupleWriter::Append(std::move(m), "structures", file, options(505));
  for (int i = 0; i < EVENTS; i++) {
    int n = r.Integer(4);
    lists->assign(n, std::vector<double>(i % 3, r.Gaus()));
    deep->assign(n, std::vector<std::vector<int>>(2, std::vector<int>(i % 4, i)));
    arrays->assign(n, {short(i), 2, short(-n)});
    (*array_lists)[0].assign(n, i);
    (*array_lists)[1].assign(3 - n, -i);
    *matrix = {{{i, 1}, {2, -i}, {n, 5}}};
    bools->assign(n, i % 2);
    *bits = (0x2AAAAAAAAAAULL >> n) ^ i;
    if (n) *maybe = r.Gaus(); else maybe->reset();
    if (n) *maybe_int = i - 30; else maybe_int->reset();
    if (n) *maybe_bool = i % 2; else maybe_bool->reset();
    if (n) *maybe_list = std::vector<int>(n, i); else maybe_list->reset();
    maybes->clear();
    for (int k = 0; k < n; k++) maybes->push_back(k % 2 ? std::optional<double>() : std::optional<double>(k + i));
    if (n) *maybe_record = pages::Base{1.f * i, {n, i}}; else maybe_record->reset();
    if (n) *pointer = std::make_unique<float>(i); else pointer->reset();
    *atomic = i * 3;
    *color = i % 2 ? pages::Color::blue : pages::Color::red;
    record->first = i;
    record->list.assign(n, -i);
    record->second = r.Gaus();
    record->color = *color;
    records->assign(n, *record);
    *pair = {i, -.5f * i};
    *tuple = {i, i % 2, .25 * i};
    map->clear();
    set->clear();
    for (int k = 0; k < n; k++) (*map)[k] = i, set->insert(i + k);
    *d32 = r.Gaus();
    *text = std::string(n, 'x');
    writer->Fill();
    end_of_event(*writer, i);
  }
}

// Fields that are added after some clusters, and within one.
void write_late(TFile &file) {
  auto m = ROOT::RNTupleModel::Create();
  auto number = m->MakeField<int>("number");
  auto writer = ROOT::RNTupleWriter::Append(std::move(m), "late", file, options(101));
  std::shared_ptr<float> flat;
  std::shared_ptr<std::vector<std::int16_t>> list;
  std::shared_ptr<std::array<double, 2>> array;
  std::shared_ptr<bool> flag;
  for (int i = 0; i < EVENTS; i++) {
    if (i == 30) {
      auto updater = writer->CreateModelUpdater();
      updater->BeginUpdate();
      flat = updater->MakeField<float>("flat");
      list = updater->MakeField<std::vector<std::int16_t>>("list");
      array = updater->MakeField<std::array<double, 2>>("array");
      flag = updater->MakeField<bool>("flag");
      updater->CommitUpdate();
    }
    *number = i;
    if (i >= 30) {
      *flat = 1.5f * i;
      list->assign(i % 3, i);
      *array = {1. * i, -1. * i};
      *flag = i % 2;
    }
    writer->Fill();
    end_of_event(*writer, i);
  }
}

// Fields that are stored in different encodings from cluster to cluster.
void write_representations(TFile &file) {
  auto m = ROOT::RNTupleModel::Create();
  add<float>(*m, "mixed", {{Type::kReal32}, {Type::kReal16}, {Type::kSplitReal32}});
  add<std::int64_t>(*m, "whole", {{Type::kSplitInt64}, {Type::kInt64}});
  add<std::vector<float>>(*m, "list", {{Type::kSplitIndex64}, {Type::kIndex32}});
  auto writer = ROOT::RNTupleWriter::Append(std::move(m), "representations", file, options(404));
  auto entry = writer->GetModel().CreateEntry();
  TRandom3 r(8);
  for (int i = 0; i < EVENTS; i++) {
    value<float>(*entry, "mixed") = r.Gaus();
    value<std::int64_t>(*entry, "whole") = i * 1000000007LL;
    value<std::vector<float>>(*entry, "list").assign(i % 4, i);
    writer->Fill(*entry);
    if (i % 15 != 14) continue;
    writer->CommitCluster();
    for (auto name : {"mixed", "whole", "list"}) {
      auto &field = const_cast<ROOT::RFieldBase &>(writer->GetModel().GetConstField(name));
      int count = std::string(name) == "mixed" ? 3 : 2;
      ROOT::Internal::RFieldRepresentationModifier::SetPrimaryColumnRepresentation(field, (i / 15 + 1) % count);
    }
  }
}

void write_pages() {
  TFile file("pages.root", "RECREATE", "", 101);
  write_encodings(file, "zlib", 101);
  write_encodings(file, "lzma", 201);
  write_encodings(file, "lz4", 404);
  write_encodings(file, "zstd", 505);
  write_encodings(file, "uncompressed", 0);
  write_encodings(file, "unchecked", 505, false);
  write_structures(file);
  write_late(file);
  write_representations(file);
}
