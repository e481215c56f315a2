// Loops over every number of every event, which run without the GIL.
//
//   measure(spans, jobs, bytes)                              sizes of the decoded baskets in bytes
//   decode(spans, jobs, spots, content, offsets, lists)      baskets -> numbers and lists
//   measure_vectors(data, starts, item, outer)               numbers of lists and of numbers in vectors of vectors
//   decode_vectors(data, starts, item, is_bool, inner, content)     vectors of vectors -> lists of numbers
//   assemble(columns, events, widths, constants, uses_asinh, fill, x, mask)     columns -> matrix
//   assemble_objects(columns, events, length, keys, descending, constants, uses_asinh, fill, x)     columns -> objects
//   gather(sources, block, row, out)                             rows of blocks -> a batch
//   gather_objects(sources, offsets, cells, block, row, length, fill, x, mask)
//   accumulate(columns, events, tallies, extremes, sums, bins)   columns -> statistics
//
// The functions for the pages of RNTuples are in kernel_pages.cpp.
//
// Each has an equivalent in NumPy (in `io.root.baskets`, `reader.vectors`, `reader.objects`, `specs.specs` and
// `stream.row_selection`) with bitwise equal results: all operations are correctly rounded according to IEEE 754 and in the same
// order, and the compiler must not fuse them.

#include "kernel_shared.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

using namespace kernel;

namespace {

// ---------------------------------------------------------------------------------------------------- arguments

enum class Type { i8, u8, i16, u16, i32, u32, i64, u64, f32, f64 };

Type type_of(const Buffer &buffer) {
    const Py_ssize_t size = buffer.itemsize();
    if (std::strchr("fd", buffer.format())) return size == 4 ? Type::f32 : Type::f64;
    const bool is_signed = std::strchr("bhilq", buffer.format()) != nullptr;
    switch (size) {
    case 1: return is_signed ? Type::i8 : Type::u8;
    case 2: return is_signed ? Type::i16 : Type::u16;
    case 4: return is_signed ? Type::i32 : Type::u32;
    default: return is_signed ? Type::i64 : Type::u64;
    }
}

// Call a function object with a null pointer of the C++ type that stands for `type`.
template <class F> inline __attribute__((always_inline)) void dispatch(Type type, F &&call) {
    switch (type) {
    case Type::i8: return call(static_cast<const int8_t *>(nullptr));
    case Type::u8: return call(static_cast<const uint8_t *>(nullptr));
    case Type::i16: return call(static_cast<const int16_t *>(nullptr));
    case Type::u16: return call(static_cast<const uint16_t *>(nullptr));
    case Type::i32: return call(static_cast<const int32_t *>(nullptr));
    case Type::u32: return call(static_cast<const uint32_t *>(nullptr));
    case Type::i64: return call(static_cast<const int64_t *>(nullptr));
    case Type::u64: return call(static_cast<const uint64_t *>(nullptr));
    case Type::f32: return call(static_cast<const float *>(nullptr));
    case Type::f64: return call(static_cast<const double *>(nullptr));
    }
}

// The values of one branch: `size` numbers per event, or lists with the ends `offsets`.
struct Column {
    Buffer content;
    Buffer lists;
    Type type = Type::f32;
    const int64_t *offsets = nullptr;
    int64_t size = 1;

    int64_t begin(int64_t event) const { return offsets ? offsets[event] : event * size; }
};

constexpr const char *NUMBERS = "?bBhHiIlLqQfd";

// Read [(content, offsets or None), ...] for `events` events. Reject columns that would be read out of bounds.
bool take_columns(PyObject *list, int64_t events, std::vector<Column> &columns) {
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "columns: not a list");
        return false;
    }
    columns.reserve(static_cast<size_t>(PyList_GET_SIZE(list)));
    PyObject *checked = nullptr; // branches of a collection share their offsets
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        PyObject *content = nullptr, *offsets = nullptr;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "OO", &content, &offsets)) return false;
        Column &column = columns.emplace_back();
        if (!column.content.take(content, NUMBERS, false, "content")) return false;
        column.type = type_of(column.content);
        const int64_t numbers = column.content.size();
        if (offsets == Py_None) {
            column.size = events ? numbers / events : 0;
            if (column.size * events != numbers) {
                PyErr_Format(PyExc_ValueError, "column %zd: %lld numbers for %lld events", i, (long long)numbers,
                             (long long)events);
                return false;
            }
            continue;
        }
        if (!column.lists.take(offsets, INT64, false, "offsets")) return false;
        column.offsets = column.lists.data<int64_t>();
        bool valid = column.lists.size() == events + 1 && column.offsets[0] == 0 && column.offsets[events] == numbers;
        for (int64_t event = 0; valid && offsets != checked && event < events; ++event)
            valid = column.offsets[event] <= column.offsets[event + 1];
        checked = offsets;
        if (!valid) {
            PyErr_Format(PyExc_ValueError, "column %zd: offsets that do not fit %lld events and %lld numbers", i,
                         (long long)events, (long long)numbers);
            return false;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------------------------ a basket -> lists

inline uint16_t swapped(uint16_t value) { return __builtin_bswap16(value); }
inline uint32_t swapped(uint32_t value) { return __builtin_bswap32(value); }
inline uint64_t swapped(uint64_t value) { return __builtin_bswap64(value); }

template <class T> void swap_all(const unsigned char *from, int64_t count, void *to) {
    auto *out = static_cast<T *>(to);
    for (int64_t i = 0; i < count; ++i) {
        T value;
        std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T)); // `from` may be unaligned
        out[i] = swapped(value);
    }
}

// Convert numbers of `item` bytes from big-endian to native order.
void swap_bytes(const unsigned char *from, int64_t count, int64_t item, char *to) {
    switch (item) {
    case 2: return swap_all<uint16_t>(from, count, to);
    case 4: return swap_all<uint32_t>(from, count, to);
    case 8: return swap_all<uint64_t>(from, count, to);
    default: std::memcpy(to, from, static_cast<size_t>(count * item));
    }
}

// use_libraries(addresses): addresses of the functions above, in this order; 0 if not found.
PyObject *use_libraries(PyObject *, PyObject *args) {
    PyObject *list;
    if (!PyArg_ParseTuple(args, "O", &list)) return nullptr;
    Buffer addresses;
    if (!addresses.take(list, "LQ", false, "addresses")) return nullptr;
    if (addresses.size() * static_cast<Py_ssize_t>(sizeof(uint64_t)) != sizeof libraries) {
        PyErr_SetString(PyExc_ValueError, "addresses: wrong number of functions");
        return nullptr;
    }
    static_assert(sizeof(void *) == sizeof(uint64_t), "addresses are 64 bits");
    std::memcpy(&libraries, addresses.data<uint64_t>(), sizeof libraries);
    Py_RETURN_NONE;
}

// How to read a basket; a row of `jobs`.
struct Job {
    int64_t span, at, size; // index of the span that contains the basket, position in it, and size
    int64_t entries; // number of entries according to the tree
    int64_t item;    // bytes per number
    int64_t width;   // numbers per entry; -1 for lists
    int64_t header;  // bytes before each list
    int64_t is_bool; // 1 for bools: every byte except 0 becomes 1
};

// Write the numbers of a basket in native order.
void copy_numbers(const unsigned char *from, int64_t count, const Job &job, char *to) {
    if (!job.is_bool) return swap_bytes(from, count, job.item, to);
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] != 0;
}

// The beginning of a basket: TKey and TBasket, see `io.root.baskets`.
struct Head {
    int64_t key, length, border; // bytes of the key; of the content, decompressed; of the numbers in it

    static uint16_t u16(const unsigned char *at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }
    static int32_t i32(const unsigned char *at) {
        return static_cast<int32_t>(static_cast<uint32_t>(at[0]) << 24 | at[1] << 16 | at[2] << 8 | at[3]);
    }

    // Return whether the basket matches the job. Its numbers take `room` bytes.
    bool read(const unsigned char *basket, const Job &job, int64_t &room) {
        constexpr int64_t KEY = 18, BASKET = 18;
        const int64_t size = job.size;
        if (size < KEY + BASKET + 1 || i32(basket) != size) return false;
        length = i32(basket + 6);
        key = static_cast<int16_t>(u16(basket + 14));
        if (key <= KEY + BASKET || key > size) return false;
        const unsigned char *tail = basket + key - BASKET - 1;
        border = i32(tail + 14) - key;
        if (i32(tail + 10) != job.entries || border < 0 || border > length) return false;
        if (job.width >= 0) {
            room = border;
            return border == job.entries * job.width * job.item;
        }
        room = border - job.header * job.entries;
        return length - border == 4 * (job.entries + 2) && room >= 0 && room % job.item == 0;
    }
};

// Write the lists of a decompressed basket. It consists of the numbers up to `border`, with a header before each list, the
// number of offsets, and the offsets as int32, relative to the start of the key. Return whether the offsets are valid. If the
// lists have the same lengths as `known`, set `same`; `offsets` is not needed then.
bool unpack_lists(const unsigned char *data, const Head &head, const Job &job, const int64_t *known, int64_t *offsets,
                  unsigned char *content, bool &same) {
    const auto *starts = data + head.border + 4;
    const int shift = __builtin_ctzll(static_cast<unsigned long long>(job.item)); // item is a power of 2
    int64_t misfit = 0, last = 0; // negative if offsets are out of order, or not multiples of `item`
    for (int64_t entry = 0; entry <= job.entries; ++entry) {
        uint32_t start;
        std::memcpy(&start, starts + 4 * entry, 4);
        int64_t end = entry == job.entries ? head.border : static_cast<int32_t>(swapped(start)) - head.key;
        end -= job.header * entry; // without the headers
        misfit |= (end - last) | -(end & (job.item - 1));
        last = end;
        offsets[entry] = end >> shift;
    }
    if (misfit < 0 || offsets[0] != 0) return false;
    same = known && std::memcmp(known, offsets, static_cast<size_t>(job.entries + 1) * sizeof(int64_t)) == 0;
    if (job.header == 0)
        copy_numbers(data, offsets[job.entries], job, reinterpret_cast<char *>(content));
    else
        for (int64_t entry = 0; entry < job.entries; ++entry)
            copy_numbers(data + offsets[entry] * job.item + job.header * (entry + 1), offsets[entry + 1] - offsets[entry],
                         job, reinterpret_cast<char *>(content) + offsets[entry] * job.item);
    return true;
}

// Baskets, in spans of a file that contain several baskets.
struct Baskets {
    std::vector<Buffer> spans;
    Buffer jobs;

    bool take(PyObject *list, PyObject *jobs_object) {
        if (!take_all(list, spans, "span")) return false;
        const auto pieces = static_cast<int64_t>(spans.size());
        constexpr Py_ssize_t FIELDS = sizeof(Job) / sizeof(int64_t);
        if (!jobs.take(jobs_object, INT64, false, "jobs") || !expect(jobs.size() % FIELDS == 0, "jobs")) return false;
        for (Py_ssize_t i = 0; i < count(); ++i) {
            const Job &one = job(i);
            const bool inside = one.span >= 0 && one.span < pieces && one.at >= 0 && one.size >= 0 &&
                                one.at <= spans[one.span].size() && one.size <= spans[one.span].size() - one.at;
            if (!inside || one.entries < 0 || one.header < 0 || (one.is_bool && one.item != 1) ||
                (one.item != 1 && one.item != 2 && one.item != 4 && one.item != 8)) {
                PyErr_SetString(PyExc_ValueError, "jobs: invalid sizes");
                return false;
            }
        }
        return true;
    }

    Py_ssize_t count() const { return jobs.size() / static_cast<Py_ssize_t>(sizeof(Job) / sizeof(int64_t)); }
    const Job &job(Py_ssize_t i) const { return jobs.data<Job>()[i]; }
    const unsigned char *bytes(const Job &one) const { return spans[one.span].data<unsigned char>() + one.at; }
};

// measure(spans, jobs, bytes): number of bytes that the numbers of each basket take; -1 if a basket is not as expected.
PyObject *measure(PyObject *, PyObject *args) {
    PyObject *list, *jobs_object, *bytes_object;
    if (!PyArg_ParseTuple(args, "OOO", &list, &jobs_object, &bytes_object)) return nullptr;
    Buffer bytes;
    Baskets baskets;
    if (!baskets.take(list, jobs_object) || !bytes.take(bytes_object, INT64, true, "bytes") ||
        !expect(bytes.size() == baskets.count(), "bytes"))
        return nullptr;
    for (Py_ssize_t i = 0; i < baskets.count(); ++i) {
        Head head;
        int64_t room = 0;
        const bool valid = head.read(baskets.bytes(baskets.job(i)), baskets.job(i), room);
        bytes.data<int64_t>()[i] = valid ? room : -1;
    }
    Py_RETURN_NONE;
}

// decode(spans, jobs, spots, content, offsets, lists)
//
// Decompress baskets and write their numbers, in native byte order, to `content`, starting at the bytes `spots`; baskets with a
// spot of -1 are skipped. The offsets of lists start at `lists[i]` of `offsets`; several baskets may share them. If a basket is
// damaged, or its compression is not supported, `lists[i]` is -1.
PyObject *decode(PyObject *, PyObject *args) {
    PyObject *list, *jobs_object, *spots_object, *content_object, *offsets_object, *lists_object;
    if (!PyArg_ParseTuple(args, "OOOOOO", &list, &jobs_object, &spots_object, &content_object, &offsets_object,
                          &lists_object))
        return nullptr;
    Buffer spots, content, offsets, lists;
    Baskets baskets;
    if (!baskets.take(list, jobs_object) || !spots.take(spots_object, INT64, false, "spots") ||
        !content.take(content_object, "B", true, "content") || !offsets.take(offsets_object, INT64, true, "offsets") ||
        !lists.take(lists_object, INT64, true, "lists"))
        return nullptr;
    const Py_ssize_t count = baskets.count();
    if (!expect(spots.size() == count, "spots") || !expect(lists.size() == count, "lists")) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    Decompressor decompressor;
    int64_t used = 0, known = -1, entries_known = -1; // length of `offsets` in use; the lists written last, and their number
    for (Py_ssize_t i = 0; i < count; ++i) {
        const Job &job = baskets.job(i);
        const int64_t spot = spots.data<int64_t>()[i];
        int64_t &result = lists.data<int64_t>()[i];
        result = -1;
        const unsigned char *basket = baskets.bytes(job);
        Head head;
        int64_t room = 0;
        if (spot < 0 || !head.read(basket, job, room) || spot + room > content.size()) continue;
        const unsigned char *data = decompressor.unpack(basket + head.key, job.size - head.key, head.length);
        if (!data) continue;
        auto *to = content.data<unsigned char>() + spot;
        if (job.width >= 0) {
            copy_numbers(data, room / job.item, job, reinterpret_cast<char *>(to));
            result = 0;
            continue;
        }
        if (used + job.entries + 1 > offsets.size()) continue;
        bool same = false;
        int64_t *out = offsets.data<int64_t>() + used;
        const int64_t *candidate = known >= 0 && entries_known == job.entries ? offsets.data<int64_t>() + known : nullptr;
        if (!unpack_lists(data, head, job, candidate, out, to, same)) continue;
        if (!same) {
            known = used;
            entries_known = job.entries;
            used += job.entries + 1;
        }
        result = known;
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------------- vectors of vectors -> lists

// The bytes of std::vector<std::vector<number>>, one per entry. Each consists of its length in bytes with a flag, a version, the
// number of vectors (int32), and for each vector the number of its numbers (int32), and these.
struct Vectors {
    static constexpr uint32_t BYTE_COUNT = 0x40000000u;
    static constexpr int64_t HEADER = 10;
    Buffer data, starts;
    int64_t item = 1;

    bool take(PyObject *data_object, PyObject *starts_object, Py_ssize_t bytes) {
        item = bytes;
        if (!data.take(data_object, "B", false, "data") || !starts.take(starts_object, INT64, false, "starts")) return false;
        bool valid = starts.size() > 0 && (item == 1 || item == 2 || item == 4 || item == 8);
        for (Py_ssize_t i = 0; valid && i < starts.size(); ++i)
            valid = at(i) >= (i ? at(i - 1) : 0) && at(i) <= data.size();
        if (!valid) PyErr_SetString(PyExc_ValueError, "starts: not the positions of entries");
        return valid;
    }

    int64_t at(Py_ssize_t entry) const { return starts.data<int64_t>()[entry]; }
    Py_ssize_t entries() const { return starts.size() - 1; }
    uint32_t word(int64_t position) const {
        uint32_t value;
        std::memcpy(&value, data.data<unsigned char>() + position, 4);
        return swapped(value);
    }

    // Call `vector(position, count)` for each vector of an entry; return the number of vectors, or -1 if the bytes are damaged.
    template <class F> int64_t each(Py_ssize_t entry, F &&vector) const {
        int64_t position = at(entry);
        const int64_t end = at(entry + 1);
        if (end - position < HEADER || word(position) != (BYTE_COUNT | static_cast<uint32_t>(end - position - 4))) return -1;
        if (data.data<unsigned char>()[position + 4] & 0x40) return -1; // stored member by member
        const auto count = static_cast<int32_t>(word(position + 6));
        position += HEADER;
        for (int32_t i = 0; i < count; ++i) {
            if (end - position < 4) return -1;
            const auto numbers = static_cast<int32_t>(word(position));
            position += 4;
            if (numbers < 0 || numbers > (end - position) / item) return -1;
            vector(position, static_cast<int64_t>(numbers));
            position += numbers * item;
        }
        return position == end && count >= 0 ? count : -1;
    }
};

// measure_vectors(data, starts, item, outer): write the offsets of the vectors of each entry to `outer`; return the number of vectors
// and of numbers. Raise a ValueError if the bytes are damaged.
PyObject *measure_vectors(PyObject *, PyObject *args) {
    PyObject *data, *starts, *outer_object;
    Py_ssize_t item;
    if (!PyArg_ParseTuple(args, "OOnO", &data, &starts, &item, &outer_object)) return nullptr;
    Vectors vectors;
    Buffer outer;
    if (!vectors.take(data, starts, item) || !outer.take(outer_object, INT64, true, "outer") ||
        !expect(outer.size() == vectors.entries() + 1, "outer"))
        return nullptr;
    int64_t lists = 0, numbers = 0;
    Py_ssize_t damaged = -1;
    Py_BEGIN_ALLOW_THREADS;
    outer.data<int64_t>()[0] = 0;
    for (Py_ssize_t entry = 0; entry < vectors.entries(); ++entry) {
        const int64_t count = vectors.each(entry, [&](int64_t, int64_t size) { numbers += size; });
        if (count < 0) {
            damaged = entry;
            break;
        }
        outer.data<int64_t>()[entry + 1] = lists += count;
    }
    Py_END_ALLOW_THREADS;
    if (damaged >= 0) {
        PyErr_SetString(PyExc_ValueError, "the lengths of its vectors are damaged");
        return nullptr;
    }
    return Py_BuildValue("LL", static_cast<long long>(lists), static_cast<long long>(numbers));
}

// decode_vectors(data, starts, item, is_bool, inner, content): write the offsets of the numbers of each vector to `inner`, and the
// numbers in native byte order to `content`, given arrays of the sizes that `measure_vectors` returned.
PyObject *decode_vectors(PyObject *, PyObject *args) {
    PyObject *data, *starts, *inner_object, *content_object;
    Py_ssize_t item;
    int is_bool;
    if (!PyArg_ParseTuple(args, "OOnpOO", &data, &starts, &item, &is_bool, &inner_object, &content_object)) return nullptr;
    Vectors vectors;
    Buffer inner, content;
    if (!vectors.take(data, starts, item) || !inner.take(inner_object, INT64, true, "inner") ||
        !content.take(content_object, "B", true, "content") || !expect(inner.size() > 0, "inner"))
        return nullptr;
    const Job job{0, 0, 0, 0, item, -1, 0, is_bool};
    int64_t lists = 0, filled = 0;
    bool fits = true;
    Py_BEGIN_ALLOW_THREADS;
    inner.data<int64_t>()[0] = 0;
    for (Py_ssize_t entry = 0; fits && entry < vectors.entries(); ++entry)
        vectors.each(entry, [&](int64_t position, int64_t size) {
            fits = fits && lists + 1 < inner.size() && (filled + size) * item <= content.size();
            if (!fits) return;
            copy_numbers(vectors.data.data<unsigned char>() + position, size, job, content.data<char>() + filled * item);
            inner.data<int64_t>()[++lists] = filled += size;
        });
    Py_END_ALLOW_THREADS;
    if (!expect(fits && lists + 1 == inner.size() && filled * item == content.size(), "inner and content")) return nullptr;
    Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------------------- columns -> matrix

// Number of rows of a tile, whose numbers stay in the L2 cache between being normalised and being written; and number of rows
// whose flat columns are written at a time, as many numbers as fit into a cache line.
constexpr int64_t TILE = 128, STRIP = 16;

struct Constants {
    float low, high, centre, scale, offset, gain;
    bool uses_asinh;
};

// asinh in float64 from operations that round correctly, as `normalise.asinh` has it: for the logarithm of
// u = |t| + sqrt(t^2 + 1) = m 2^k with m in [3/4, 3/2), 2 atanh(s) by its series, s = (m - 1) / (m + 1).
inline __attribute__((always_inline)) double asinh_of(double t) {
    const double a = std::fabs(t);
    const double u = a + std::sqrt(a * a + 1.0);
    uint64_t bits;
    std::memcpy(&bits, &u, 8);
    const uint64_t shifted = bits + 0x0008000000000000u; // plus half an octave, so that m >= 3/4
    const uint64_t magic = (shifted >> 52) | 0x4330000000000000u; // the exponent as a float64, set through its bits
    const uint64_t mantissa = bits - (((shifted >> 52) - 1023) << 52);
    double k, m;
    std::memcpy(&k, &magic, 8);
    std::memcpy(&m, &mantissa, 8);
    k = (k - 4503599627370496.0) - 1023.0;
    const double s = (m - 1.0) / (m + 1.0);
    const double q = s * s;
    double series = 1.0 / 15.0;
    series = series * q + 1.0 / 13.0;
    series = series * q + 1.0 / 11.0;
    series = series * q + 1.0 / 9.0;
    series = series * q + 1.0 / 7.0;
    series = series * q + 1.0 / 5.0;
    series = series * q + 1.0 / 3.0;
    series = series * q + 1.0;
    const double logarithm = k * 0.6931471805599453 + 2.0 * s * series;
    return std::copysign(a < 1e-4 ? a : logarithm, t); // the next term for small a, -a^3/6, is below the precision of float32
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_MACHINE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_MACHINE
#endif

// The constants of normalisation of each branch; none if values are not normalised.
class BranchConstants {
  public:
    bool take(PyObject *constants, PyObject *uses_asinh, int64_t branches) {
        plain_ = constants == Py_None;
        if (plain_) return true;
        return constants_.take(constants, "f", false, "constants") && uses_asinh_.take(uses_asinh, "?", false, "uses_asinh") &&
               expect(constants_.size() == 6 * branches && uses_asinh_.size() == branches, "constants");
    }

    bool plain() const { return plain_; }

    Constants of(size_t branch) const {
        if (plain_) return Constants{};
        const float *c = constants_.data<float>() + 6 * branch;
        return Constants{c[0], c[1], c[2], c[3], c[4], c[5], uses_asinh_.data<uint8_t>()[branch] != 0};
    }

  private:
    Buffer constants_, uses_asinh_;
    bool plain_ = true;
};

struct Matrix {
    float *x;
    uint8_t *mask;
    int64_t columns;
    float fill;
};

// The normalised numbers of some rows, branch by branch.
struct Tile {
    int64_t start = 0, stop = 0; // the rows
    std::vector<float> z;
    std::vector<uint8_t> is_number; // for the branches in `odd`
    std::vector<int64_t> at;        // position of the first number of each branch
    std::vector<uint8_t> odd;       // whether a branch has NaN

    explicit Tile(size_t branches) : at(branches + 1), odd(branches) {}

    void take(const std::vector<Column> &columns, int64_t first, int64_t last) {
        start = first;
        stop = last;
        for (size_t i = 0; i < columns.size(); ++i) at[i + 1] = at[i] + columns[i].begin(stop) - columns[i].begin(start);
        if (static_cast<int64_t>(z.size()) >= at.back()) return;
        z.resize(static_cast<size_t>(at.back()));
        is_number.resize(z.size());
    }
};

// Convert and normalise `count` numbers; NaN become arbitrary numbers. Return whether there were NaN.
template <class T, bool PLAIN> inline __attribute__((always_inline)) bool normalise(const T *numbers, int64_t count, const Constants c, float *z) {
    const auto scaled = [&c](float v) {
        v = v < c.low ? c.low : v;
        v = v > c.high ? c.high : v;
        return (v - c.centre) * c.scale;
    };
    const auto final = [&c](float v) { return (v - c.offset) * c.gain + 0.0f; }; // never -0
    int odd = 0;
    for (int64_t i = 0; i < count; ++i) {
        const auto v = static_cast<float>(numbers[i]);
        if (std::is_floating_point<T>::value) odd |= v != v;
        z[i] = PLAIN ? v : c.uses_asinh ? scaled(v) : final(scaled(v));
    }
    if (!PLAIN && c.uses_asinh)
        for (int64_t i = 0; i < count; ++i) z[i] = final(static_cast<float>(asinh_of(z[i])));
    return odd != 0;
}

FOR_EACH_MACHINE bool normalise(Type type, const void *numbers, int64_t count, const Constants &constants, bool plain, float *z) {
    bool odd = false;
    dispatch(type, [&](auto *typed) __attribute__((always_inline)) {
        const auto *from = static_cast<decltype(typed)>(numbers);
        odd = plain ? normalise<std::remove_cv_t<std::remove_pointer_t<decltype(typed)>>, true>(from, count, constants, z)
                    : normalise<std::remove_cv_t<std::remove_pointer_t<decltype(typed)>>, false>(from, count, constants, z);
    });
    return odd;
}

// Replace NaN by the fill value, and set `is_number`.
template <class T> void fill_nan(const T *numbers, int64_t count, float fill, float *z, uint8_t *is_number) {
    for (int64_t i = 0; i < count; ++i) {
        is_number[i] = numbers[i] == numbers[i];
        z[i] = is_number[i] ? z[i] : fill;
    }
}

// Number of branches ahead that are prefetched: a tile has too few numbers of each for the hardware prefetcher.
constexpr size_t AHEAD = 16;

void fetch(const Column &column, int64_t start, int64_t stop) {
    const char *numbers = column.content.data<const char>();
    const int64_t item = column.content.itemsize();
    const char *end = numbers + column.begin(stop) * item;
    for (const char *line = numbers + column.begin(start) * item; line < end; line += 64) __builtin_prefetch(line);
}

// Normalise the numbers of all branches for the rows of a tile.
void prepare(const std::vector<Column> &columns, const BranchConstants &constants, float fill, Tile &tile) {
    for (size_t branch = 0; branch < columns.size(); ++branch) {
        if (branch + AHEAD < columns.size()) fetch(columns[branch + AHEAD], tile.start, tile.stop);
        const Column &column = columns[branch];
        const int64_t at = tile.at[branch], count = tile.at[branch + 1] - at;
        dispatch(column.type, [&](auto *type) {
            const auto *numbers = column.content.data<std::remove_pointer_t<decltype(type)>>() + column.begin(tile.start);
            float *z = tile.z.data() + at;
            tile.odd[branch] = normalise(column.type, numbers, count, constants.of(branch), constants.plain(), z);
            if (tile.odd[branch]) fill_nan(numbers, count, fill, z, tile.is_number.data() + at);
        });
    }
}

// Adjacent branches that are written together, because they have values in the same cells: flat columns, or lists of the same
// lengths, like those of a collection.
struct Group {
    int64_t branch, count; // the first branch, and their number
    int64_t column, width; // the first column of the matrix, and number of columns per branch
};

std::vector<Group> groups_of(const std::vector<Column> &columns, const int64_t *widths, int64_t events) {
    std::vector<Group> groups;
    int64_t first = 0;
    const auto alike = [&](const Column &one, const Column &other) {
        if (!one.offsets || !other.offsets) return !one.offsets && !other.offsets && one.size == other.size;
        return one.offsets == other.offsets ||
               std::memcmp(one.offsets, other.offsets, static_cast<size_t>(events + 1) * sizeof(int64_t)) == 0;
    };
    for (size_t i = 0; i < columns.size(); ++i) {
        if (!groups.empty()) {
            Group &last = groups.back();
            if (last.width == widths[i] && alike(columns[i - 1], columns[i])) {
                last.count++;
                first += widths[i];
                continue;
            }
        }
        groups.push_back({static_cast<int64_t>(i), 1, first, widths[i]});
        first += widths[i];
    }
    return groups;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE
#endif
#endif

// Write `count` columns of z, at a distance of `apart`, to columns of x, whose rows have a distance of `stride`.
void transpose(const float *__restrict z, int64_t apart, int64_t count, int64_t rows, float *__restrict x, int64_t stride) {
    int64_t row = 0;
#ifdef HAS_SHUFFLE
    typedef float Four __attribute__((vector_size(16)));
    const auto load = [](const float *from) {
        Four four;
        std::memcpy(&four, from, 16);
        return four;
    };
    for (; row + 4 <= rows; row += 4) {
        int64_t k = 0;
        for (; k + 4 <= count; k += 4) {
            const float *from = z + k * apart + row;
            const Four a = load(from), b = load(from + apart), c = load(from + 2 * apart), d = load(from + 3 * apart);
            const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            const Four AB = __builtin_shufflevector(a, b, 2, 6, 3, 7), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            const Four out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                                 __builtin_shufflevector(AB, CD, 0, 1, 4, 5), __builtin_shufflevector(AB, CD, 2, 3, 6, 7)};
            for (int64_t i = 0; i < 4; ++i) std::memcpy(x + (row + i) * stride + k, &out[i], 16);
        }
        for (; k < count; ++k)
            for (int64_t i = 0; i < 4; ++i) x[(row + i) * stride + k] = z[k * apart + row + i];
    }
#endif
    for (; row < rows; ++row)
        for (int64_t k = 0; k < count; ++k) x[row * stride + k] = z[k * apart + row];
}

// Copy `count` lists of LENGTH items; with a constant length, the compiler generates a few moves for each.
template <int LENGTH, class T>
void copy_lists(const T *__restrict from, int64_t apart, int64_t count, T *__restrict to, int64_t width) {
    for (int64_t k = 0; k < count; ++k) std::memcpy(to + k * width, from + k * apart, LENGTH * sizeof(T));
}

template <class T>
void copy_lists(const T *from, int64_t apart, int64_t count, T *to, int64_t width, int64_t length) {
    switch (length) {
    case 1: return copy_lists<1>(from, apart, count, to, width);
    case 2: return copy_lists<2>(from, apart, count, to, width);
    case 3: return copy_lists<3>(from, apart, count, to, width);
    case 4: return copy_lists<4>(from, apart, count, to, width);
    case 5: return copy_lists<5>(from, apart, count, to, width);
    case 6: return copy_lists<6>(from, apart, count, to, width);
    default:
        for (int64_t k = 0; k < count; ++k)
            std::memcpy(to + k * width, from + k * apart, static_cast<size_t>(length) * sizeof(T));
    }
}

// Write a row of a group of lists over the fill value and False. Return how many numbers per branch did not fit.
int64_t write_lists(const Group &group, const int64_t *offsets, const Tile &tile, int64_t row, const Matrix &to) {
    static constexpr uint8_t ONES[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const int64_t length = offsets[row + 1] - offsets[row], kept = std::min(length, group.width);
    if (!kept) return length;
    const int64_t from = tile.at[group.branch] + offsets[row] - offsets[tile.start];
    const int64_t apart = offsets[tile.stop] - offsets[tile.start];
    uint8_t *mask = to.mask + row * to.columns + group.column;
    copy_lists(tile.z.data() + from, apart, group.count, to.x + row * to.columns + group.column, group.width, kept);
    if (kept <= static_cast<int64_t>(sizeof ONES))
        copy_lists(ONES, 0, group.count, mask, group.width, kept);
    else
        for (int64_t k = 0; k < group.count; ++k) std::memset(mask + k * group.width, 1, static_cast<size_t>(kept));
    for (int64_t k = 0; k < group.count; ++k)
        if (tile.odd[group.branch + k])
            std::memcpy(mask + k * group.width, tile.is_number.data() + from + k * apart, static_cast<size_t>(kept));
    return length - kept;
}

// Write some rows of a group of flat columns, whose cells all have a number or the fill value.
void write_flat(const Group &group, const Tile &tile, int64_t start, int64_t stop, const Matrix &to) {
    const int64_t width = group.width, apart = (tile.stop - tile.start) * width;
    const int64_t from = tile.at[group.branch] + (start - tile.start) * width;
    float *x = to.x + start * to.columns + group.column;
    uint8_t *mask = to.mask + start * to.columns + group.column;
    if (width == 1)
        transpose(tile.z.data() + from, apart, group.count, stop - start, x, to.columns);
    else
        for (int64_t row = 0; row < stop - start; ++row)
            for (int64_t k = 0; k < group.count; ++k)
                std::memcpy(x + row * to.columns + k * width, tile.z.data() + from + k * apart + row * width,
                            static_cast<size_t>(width) * sizeof(float));
    for (int64_t row = 0; row < stop - start; ++row)
        std::memset(mask + row * to.columns, 1, static_cast<size_t>(group.count * width));
    for (int64_t k = 0; k < group.count; ++k)
        if (tile.odd[group.branch + k])
            for (int64_t row = 0; row < stop - start; ++row)
                std::memcpy(mask + row * to.columns + k * width, tile.is_number.data() + from + k * apart + row * width,
                            static_cast<size_t>(width));
}

PyObject *assemble(PyObject *, PyObject *args) {
    PyObject *list, *widths_object, *constants_object, *uses_asinh_object, *x_object, *mask_object;
    Py_ssize_t events;
    double fill;
    if (!PyArg_ParseTuple(args, "OnOOOdOO", &list, &events, &widths_object, &constants_object, &uses_asinh_object, &fill,
                          &x_object, &mask_object))
        return nullptr;
    Buffer widths, x, mask;
    BranchConstants constants;
    std::vector<Column> columns;
    if (!take_columns(list, events, columns) || !widths.take(widths_object, INT64, false, "widths") ||
        !x.take(x_object, "f", true, "x") || !mask.take(mask_object, "?", true, "mask"))
        return nullptr;
    const auto branches = static_cast<int64_t>(columns.size());
    if (!constants.take(constants_object, uses_asinh_object, branches) || !expect(widths.size() == branches, "widths") ||
        !expect(mask.size() == x.size(), "mask"))
        return nullptr;
    int64_t total = 0;
    for (int64_t i = 0; i < branches; ++i) {
        const int64_t width = widths.data<int64_t>()[i];
        if (!expect(width >= 0 && (columns[i].offsets || columns[i].size == width || events == 0), "a width")) return nullptr;
        total += width;
    }
    if (!expect(total * events == x.size(), "x")) return nullptr;

    std::vector<int64_t> lost(columns.size(), 0);
    Tile tile(columns.size());
    Py_BEGIN_ALLOW_THREADS;
    const Matrix to{x.data<float>(), mask.data<uint8_t>(), total, static_cast<float>(fill)};
    const std::vector<Group> groups = groups_of(columns, widths.data<int64_t>(), events);
    int64_t flat = 0; // number of leading columns that are flat
    for (size_t i = 0; i < columns.size() && !columns[i].offsets; ++i) flat += widths.data<int64_t>()[i];
    for (int64_t start = 0; start < events; start += TILE) {
        tile.take(columns, start, std::min<int64_t>(start + TILE, events));
        prepare(columns, constants, to.fill, tile);
        for (int64_t row = start; row < tile.stop; ++row) {
            if ((row - start) % STRIP == 0)
                for (const Group &group : groups)
                    if (!columns[group.branch].offsets)
                        write_flat(group, tile, row, std::min(row + STRIP, tile.stop), to);
            std::fill(to.x + row * total + flat, to.x + (row + 1) * total, to.fill);
            std::memset(to.mask + row * total + flat, 0, static_cast<size_t>(total - flat));
            for (const Group &group : groups) {
                const int64_t *offsets = columns[group.branch].offsets;
                if (!offsets) continue;
                const int64_t left_over = write_lists(group, offsets, tile, row, to);
                if (left_over)
                    for (int64_t k = 0; k < group.count; ++k) lost[group.branch + k] += left_over;
            }
        }
    }
    Py_END_ALLOW_THREADS;

    PyObject *result = PyList_New(static_cast<Py_ssize_t>(lost.size()));
    if (!result) return nullptr;
    for (size_t i = 0; i < lost.size(); ++i) PyList_SET_ITEM(result, i, PyLong_FromLongLong(lost[i]));
    return result;
}

// ------------------------------------------------------------------------------------------- columns -> objects

// Sort the positions of the numbers of a list: smallest, or largest, first; NaN last. The sort is stable.
template <class T> void sort_positions(const T *numbers, int64_t length, bool descending, std::vector<int64_t> &positions) {
    positions.resize(static_cast<size_t>(length));
    for (int64_t i = 0; i < length; ++i) positions[i] = i;
    const auto before = [&](int64_t one, int64_t other) {
        const T a = numbers[one], b = numbers[other];
        if (a != a || b != b) return a == a;
        return descending ? a > b : a < b;
    };
    if (!std::is_sorted(positions.begin(), positions.end(), before))
        std::stable_sort(positions.begin(), positions.end(), before);
}

// assemble_objects(columns, events, length, keys, descending, constants, uses_asinh, fill, x) -> lost
//
// Write objects to x, (objects, features), event by event, at most `length` per event.
PyObject *assemble_objects(PyObject *, PyObject *args) {
    PyObject *list, *keys, *constants_object, *uses_asinh_object, *x_object;
    Py_ssize_t events, length;
    int descending;
    double fill;
    if (!PyArg_ParseTuple(args, "OnnOpOOdO", &list, &events, &length, &keys, &descending, &constants_object, &uses_asinh_object,
                          &fill, &x_object))
        return nullptr;
    Buffer x;
    BranchConstants constants;
    std::vector<Column> columns, key;
    if (!take_columns(list, events, columns) || !take_columns(keys, events, key) || !x.take(x_object, "f", true, "x"))
        return nullptr;
    const auto features = static_cast<int64_t>(columns.size());
    if (!constants.take(constants_object, uses_asinh_object, features) || !expect(features > 0 && key.size() <= 1, "columns"))
        return nullptr;
    const int64_t *offsets = columns[0].offsets;
    const auto alike = [&](const Column &column) {
        return column.offsets && (column.offsets == offsets ||
                                  std::memcmp(column.offsets, offsets, static_cast<size_t>(events + 1) * sizeof(int64_t)) == 0);
    };
    if (!expect(offsets && std::all_of(columns.begin(), columns.end(), alike) && std::all_of(key.begin(), key.end(), alike),
                "lists"))
        return nullptr;
    int64_t objects = 0;
    for (int64_t row = 0; row < events; ++row) objects += std::min<int64_t>(offsets[row + 1] - offsets[row], length);
    if (!expect(length >= 0 && x.size() == objects * features, "x")) return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    Tile tile(columns.size());
    std::vector<int64_t> positions;
    float *to = x.data<float>();
    for (int64_t start = 0; start < events; start += TILE) {
        tile.take(columns, start, std::min<int64_t>(start + TILE, events));
        prepare(columns, constants, static_cast<float>(fill), tile);
        const int64_t apart = tile.at[1];
        for (int64_t row = start; row < tile.stop; ++row) {
            const int64_t found = offsets[row + 1] - offsets[row], kept = std::min<int64_t>(found, length);
            const float *z = tile.z.data() + offsets[row] - offsets[start];
            if (key.empty()) {
                transpose(z, apart, features, kept, to, features);
            } else {
                dispatch(key[0].type, [&](auto *type) {
                    const auto *numbers = key[0].content.template data<std::remove_pointer_t<decltype(type)>>();
                    sort_positions(numbers + offsets[row], found, descending, positions);
                });
                for (int64_t i = 0; i < kept; ++i)
                    for (int64_t k = 0; k < features; ++k) to[i * features + k] = z[k * apart + positions[i]];
            }
            to += kept * features;
        }
    }
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(static_cast<long long>(offsets[events] - objects));
}

// ------------------------------------------------------------------------------------------- blocks -> a batch

// gather(sources, block, row, out): copy row row[i] of sources[block[i]] to row i of `out`. All rows have the same size.
PyObject *gather(PyObject *, PyObject *args) {
    PyObject *list, *block_object, *row_object, *out_object;
    if (!PyArg_ParseTuple(args, "OOOO", &list, &block_object, &row_object, &out_object)) return nullptr;
    Buffer block, row, out;
    std::vector<Buffer> sources;
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "sources: not a list");
        return nullptr;
    }
    if (!block.take(block_object, INT64, false, "block") || !row.take(row_object, INT64, false, "row") ||
        !out.take(out_object, NUMBERS, true, "out"))
        return nullptr;
    const int64_t count = row.size();
    const int64_t bytes = count ? out.size() * out.itemsize() / count : 0; // of a row
    if (!expect(block.size() == count, "block") || !expect(bytes * count == out.size() * out.itemsize(), "out"))
        return nullptr;
    std::vector<int64_t> rows;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
        if (!sources.emplace_back().take(PyList_GET_ITEM(list, i), NUMBERS, false, "source")) return nullptr;
        rows.push_back(bytes ? sources.back().size() * sources.back().itemsize() / bytes : 0);
    }
    for (int64_t i = 0; i < count; ++i) {
        const int64_t from = block.data<int64_t>()[i];
        if (from < 0 || from >= static_cast<int64_t>(rows.size()) || row.data<int64_t>()[i] < 0 ||
            (bytes && row.data<int64_t>()[i] >= rows[from])) {
            PyErr_SetString(PyExc_IndexError, "row out of range");
            return nullptr;
        }
    }
    Py_BEGIN_ALLOW_THREADS;
    char *to = out.data<char>();
    for (int64_t i = 0; i < count; ++i)
        std::memcpy(to + i * bytes, sources[block.data<int64_t>()[i]].data<char>() + row.data<int64_t>()[i] * bytes,
                    static_cast<size_t>(bytes));
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// gather_objects(sources, offsets, cells, block, row, length, fill, x, mask): the same for objects. The offsets of a source give
// the objects of an event, at most `length`. In x each event has `length` places, with the fill value where there is no object.
// The cells of a source give the place of each object in its event; None: the objects have the first places.
PyObject *gather_objects(PyObject *, PyObject *args) {
    PyObject *list, *offsets_list, *cells_list, *block_object, *row_object, *x_object, *mask_object;
    Py_ssize_t length;
    double fill;
    if (!PyArg_ParseTuple(args, "OOOOOndOO", &list, &offsets_list, &cells_list, &block_object, &row_object, &length, &fill,
                          &x_object, &mask_object))
        return nullptr;
    Buffer block, row, x, mask;
    std::vector<Buffer> sources, offsets, cells;
    const bool has_cells = cells_list != Py_None;
    if (has_cells && (!PyList_Check(cells_list) || !PyList_Check(list) || PyList_GET_SIZE(cells_list) != PyList_GET_SIZE(list))) {
        PyErr_SetString(PyExc_TypeError, "cells: neither None nor a list as long as that of the sources");
        return nullptr;
    }
    if (!PyList_Check(list) || !PyList_Check(offsets_list) || PyList_GET_SIZE(list) != PyList_GET_SIZE(offsets_list)) {
        PyErr_SetString(PyExc_TypeError, "sources and offsets: not two lists of the same length");
        return nullptr;
    }
    if (!block.take(block_object, INT64, false, "block") || !row.take(row_object, INT64, false, "row") ||
        !x.take(x_object, "f", true, "x") || !mask.take(mask_object, "?", true, "mask"))
        return nullptr;
    const int64_t count = row.size(), places = count * length;
    const int64_t features = places ? x.size() / places : 0;
    if (!expect(length >= 0 && block.size() == count, "block") || !expect(features * places == x.size(), "x") ||
        !expect(mask.size() == places, "mask"))
        return nullptr;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i)
        if (!sources.emplace_back().take(PyList_GET_ITEM(list, i), "f", false, "source") ||
            !offsets.emplace_back().take(PyList_GET_ITEM(offsets_list, i), INT64, false, "offsets") ||
            (has_cells && !cells.emplace_back().take(PyList_GET_ITEM(cells_list, i), "i", false, "cells")))
            return nullptr;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t from = block.data<int64_t>()[i], at = row.data<int64_t>()[i];
        bool valid = from >= 0 && from < static_cast<int64_t>(sources.size()) && at >= 0 && at + 1 < offsets[from].size();
        if (valid) {
            const int64_t begin = offsets[from].data<int64_t>()[at], end = offsets[from].data<int64_t>()[at + 1];
            valid = begin >= 0 && begin <= end && end - begin <= length && end * features <= sources[from].size() &&
                    (!has_cells || end <= cells[from].size());
            for (int64_t k = begin; valid && has_cells && k < end; ++k) {
                const int64_t cell = cells[from].data<int32_t>()[k];
                valid = cell >= 0 && cell < length;
            }
        }
        if (!valid) {
            PyErr_SetString(PyExc_IndexError, "row out of range, or with too many objects");
            return nullptr;
        }
    }
    Py_BEGIN_ALLOW_THREADS;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t from = block.data<int64_t>()[i], at = row.data<int64_t>()[i];
        const int64_t begin = offsets[from].data<int64_t>()[at], kept = offsets[from].data<int64_t>()[at + 1] - begin;
        float *to = x.data<float>() + i * length * features;
        if (has_cells) {
            std::fill(to, to + length * features, static_cast<float>(fill));
            std::memset(mask.data<uint8_t>() + i * length, 0, static_cast<size_t>(length));
            for (int64_t k = begin; k < begin + kept; ++k) {
                const int64_t cell = cells[from].data<int32_t>()[k];
                std::memcpy(to + cell * features, sources[from].data<float>() + k * features,
                            static_cast<size_t>(features) * sizeof(float));
                mask.data<uint8_t>()[i * length + cell] = 1;
            }
            continue;
        }
        std::memcpy(to, sources[from].data<float>() + begin * features, static_cast<size_t>(kept * features) * sizeof(float));
        std::fill(to + kept * features, to + length * features, static_cast<float>(fill));
        uint8_t *is_object = mask.data<uint8_t>() + i * length;
        std::memset(is_object, 1, static_cast<size_t>(kept));
        std::memset(is_object + kept, 0, static_cast<size_t>(length - kept));
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// ----------------------------------------------------------------------------------------- columns -> statistics

using u128 = unsigned __int128;

// An integer in units of 2^-1074, in two's complement, least significant limb first. The sum of 2^63 squares of the largest
// float32 takes 1074 + 256 + 63 bits and a sign.
constexpr int LIMBS = 22;

// limbs += or -= value * 2^shift
void add_to(uint64_t *limbs, u128 value, int shift, bool negative) {
    if (!value) return;
    int limb = shift / 64;
    const int bit = shift % 64;
    uint64_t parts[3] = {static_cast<uint64_t>(value), static_cast<uint64_t>(value >> 64), 0};
    if (bit) {
        parts[2] = parts[1] >> (64 - bit);
        parts[1] = parts[1] << bit | parts[0] >> (64 - bit);
        parts[0] <<= bit;
    }
    uint64_t carry = 0;
    for (int i = 0; limb < LIMBS && (i < 3 || carry); ++i, ++limb) {
        const uint64_t part = i < 3 ? parts[i] : 0;
        const u128 sum = negative ? static_cast<u128>(limbs[limb]) - part - carry
                                  : static_cast<u128>(limbs[limb]) + part + carry;
        limbs[limb] = static_cast<uint64_t>(sum);
        carry = static_cast<uint64_t>(sum >> 64) & 1;
    }
}

void add_to(uint64_t *limbs, double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    const int exponent = static_cast<int>(bits >> 52 & 2047);
    const uint64_t mantissa = (bits & 0xfffffffffffffu) | (exponent ? 0x10000000000000u : 0);
    add_to(limbs, mantissa, std::max(exponent, 1) - 1, bits >> 63);
}

uint32_t pattern_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

constexpr int BINS = 4096;      // of `sketch`: sign, exponent and three bits of the mantissa of a float32
constexpr int64_t SLICE = 65536; // numbers after which the sums below are flushed, long before they overflow

// The statistics of a branch; pointers into arrays of the caller.
struct Statistics {
    int64_t *tally; // finite numbers, NaN, infinite numbers, longest list
    void *minimum, *maximum;
    uint64_t *total, *squares;
    int64_t *bins;

    template <class T> void extremes(T low, T high, bool first) {
        using Kept = std::conditional_t<std::is_floating_point<T>::value, double,
                                        std::conditional_t<std::is_signed<T>::value, int64_t, uint64_t>>;
        auto *least = static_cast<Kept *>(minimum), *most = static_cast<Kept *>(maximum);
        if (first || static_cast<Kept>(low) < *least) *least = static_cast<Kept>(low);
        if (first || static_cast<Kept>(high) > *most) *most = static_cast<Kept>(high);
    }
};

// Sums of mantissas and of their squares, of numbers with the same bin (float32), or the same sign and exponent (float64).
struct Narrow {
    uint64_t sum, squares; // the bits above the 40 bits of the sum are a count
};
struct Wide {
    u128 sum, squares;
};

constexpr uint64_t ONE = uint64_t{1} << 40;
constexpr int LANES = 2; // neighbours are added to different sums, so that equal bins do not serialise additions

// Buffers of a thread, all zero between calls.
struct Scratch {
    std::vector<Narrow> narrow = std::vector<Narrow>(BINS * LANES);
    std::vector<Wide> wide = std::vector<Wide>(4096);
};

inline void add_float(float value, int lane, Narrow *sums) {
    const uint32_t bits = pattern_of(value);
    const uint64_t mantissa = (bits & 0x7fffff) | (bits & 0x7f800000 ? 0x800000 : 0);
    Narrow &bin = sums[(bits >> 20) * LANES + lane];
    bin.sum += mantissa + ONE;
    bin.squares += mantissa * mantissa;
}

// Add the bins of one sign, for numbers of magnitude 0 to `limit`.
void empty_bins(float limit, bool negative, Statistics &to, Narrow *sums) {
    const uint32_t first = negative ? BINS / 2 : 0, last = first + (pattern_of(std::fabs(limit)) >> 20);
    for (uint32_t key = first; key <= last; ++key) {
        uint64_t count = 0, sum = 0, squares = 0;
        for (Narrow *lane = sums + key * LANES; lane < sums + (key + 1) * LANES; ++lane) {
            count += lane->sum / ONE;
            sum += lane->sum % ONE;
            squares += lane->squares;
            *lane = Narrow{};
        }
        if (!count) continue;
        const int power = std::max<int>(key >> 3 & 255, 1) - 150; // the last bit of a mantissa has the value 2^power
        to.bins[key] += static_cast<int64_t>(count);
        add_to(to.total, sum, 1074 + power, negative);
        add_to(to.squares, squares, 1074 + 2 * power, false);
    }
}

// Map bit patterns of float32 to integers with the same order, and back.
inline int32_t ordered(uint32_t bits) { return static_cast<int32_t>(bits) ^ (static_cast<int32_t>(bits) >> 31 & 0x7fffffff); }
inline float value_of(int32_t order) {
    const int32_t bits = ordered(static_cast<uint32_t>(order));
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// float32: all statistics follow from the bit patterns.
void add_floats(const float *numbers, int64_t count, Statistics &to, Scratch &scratch) {
    constexpr uint32_t EXPONENT = 0x7f800000; // all bits set: infinite or NaN
    Narrow *sums = scratch.narrow.data();
    for (int64_t start = 0; start < count; start += SLICE) {
        const int64_t stop = std::min(start + SLICE, count);
        int32_t low = std::numeric_limits<int32_t>::max(), high = std::numeric_limits<int32_t>::min(), any_odd = 0;
        for (int64_t i = start; i < stop; ++i) {
            const uint32_t bits = pattern_of(numbers[i]);
            any_odd |= (bits & EXPONENT) == EXPONENT;
            low = std::min(low, ordered(bits));
            high = std::max(high, ordered(bits));
        }
        int64_t odd = 0;
        if (!any_odd) {
            int64_t i = start;
            for (; i + LANES <= stop; i += LANES)
                for (int lane = 0; lane < LANES; ++lane) add_float(numbers[i + lane], lane, sums);
            for (; i < stop; ++i) add_float(numbers[i], 0, sums);
        } else {
            low = std::numeric_limits<int32_t>::max(), high = std::numeric_limits<int32_t>::min();
            for (int64_t i = start; i < stop; ++i) {
                const uint32_t bits = pattern_of(numbers[i]);
                if ((bits & EXPONENT) == EXPONENT) {
                    ++odd;
                    to.tally[numbers[i] != numbers[i] ? 1 : 2]++;
                    continue;
                }
                low = std::min(low, ordered(bits));
                high = std::max(high, ordered(bits));
                add_float(numbers[i], 0, sums);
            }
        }
        if (stop - start == odd) continue;
        const float least = value_of(low), most = value_of(high);
        to.extremes(least, most, to.tally[0] == 0);
        to.tally[0] += stop - start - odd;
        empty_bins(std::max(most, 0.0f), false, to, sums);
        empty_bins(std::min(least, 0.0f), true, to, sums);
    }
}

// float64, and 64-bit integers converted to float64.
template <class T> void add_doubles(const T *numbers, int64_t count, Statistics &to, Scratch &scratch) {
    constexpr double LARGEST = std::numeric_limits<float>::max();
    constexpr double TINY = 0x1p-450; // below, squares lose bits under 2^-1074
    Wide *sums = scratch.wide.data();
    for (int64_t start = 0; start < count; start += SLICE) {
        const int64_t stop = std::min(start + SLICE, count);
        T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::lowest();
        uint32_t least = 4096, most = 0;
        int64_t odd = 0;
        for (int64_t i = start; i < stop; ++i) {
            const auto value = static_cast<double>(numbers[i]);
            const double size = std::fabs(value);
            if (!(size <= LARGEST)) {
                ++odd;
                to.tally[value != value ? 1 : 2]++;
                continue;
            }
            low = std::min(low, numbers[i]);
            high = std::max(high, numbers[i]);
            to.bins[pattern_of(static_cast<float>(value)) >> 20]++;
            if (size < TINY) {
                const double square = value * value, scaled = 134217729.0 * value;
                const double upper = scaled - (scaled - value), lower = value - upper;
                add_to(to.total, value);
                add_to(to.squares, square);
                add_to(to.squares, ((upper * upper - square) + 2 * upper * lower) + lower * lower);
                continue;
            }
            uint64_t bits;
            std::memcpy(&bits, &value, 8);
            const auto key = static_cast<uint32_t>(bits >> 52);
            const uint64_t mantissa = (bits & 0xfffffffffffffu) | 0x10000000000000u;
            least = std::min(least, key);
            most = std::max(most, key);
            sums[key].sum += mantissa;
            sums[key].squares += static_cast<u128>(mantissa) * mantissa;
        }
        if (stop - start == odd) continue;
        to.extremes(low, high, to.tally[0] == 0);
        to.tally[0] += stop - start - odd;
        for (uint32_t key = least; key <= most && key < 4096; ++key) {
            const int power = static_cast<int>(key & 2047) - 1075;
            add_to(to.total, sums[key].sum, 1074 + power, key >> 11);
            add_to(to.squares, sums[key].squares, 1074 + 2 * power, false);
            sums[key] = Wide{};
        }
    }
}

// Integers of at most 32 bits, whose sums fit into 128 bits.
template <class T> void add_integers(const T *numbers, int64_t count, Statistics &to) {
    if (!count) return;
    T low = numbers[0], high = numbers[0];
    __int128 total = 0;
    u128 squares = 0;
    const auto add = [&](T value, int64_t times) {
        low = std::min(low, value);
        high = std::max(high, value);
        to.bins[pattern_of(static_cast<float>(value)) >> 20] += times;
        total += static_cast<__int128>(value) * times;
        squares += static_cast<u128>(static_cast<__int128>(value) * value) * static_cast<u128>(times);
    };
    if constexpr (sizeof(T) == 1) {
        uint32_t times[LANES][256] = {}; // as above
        int64_t start = 0;
        const auto flush = [&] {
            for (int code = 0; code < 256; ++code) {
                int64_t sum = 0;
                for (auto &lane : times) sum += lane[code];
                if (sum) add(static_cast<T>(code), sum);
            }
        };
        for (; start + LANES <= count; start += LANES) {
            if (start && start % (int64_t{1} << 30) == 0) {
                flush();
                std::memset(times, 0, sizeof times);
            }
            for (int lane = 0; lane < LANES; ++lane) times[lane][static_cast<uint8_t>(numbers[start + lane])]++;
        }
        for (; start < count; ++start) times[0][static_cast<uint8_t>(numbers[start])]++;
        flush();
    } else {
        for (int64_t i = 0; i < count; ++i) add(numbers[i], 1);
    }
    to.extremes(low, high, to.tally[0] == 0);
    to.tally[0] += count;
    add_to(to.total, static_cast<u128>(total < 0 ? -total : total), 1074, total < 0);
    add_to(to.squares, squares, 1074, false);
}

void add_numbers(const Column &column, int64_t events, Statistics &to, Scratch &scratch) {
    int64_t &longest = to.tally[3];
    if (column.offsets)
        for (int64_t event = 0; event < events; ++event)
            longest = std::max(longest, column.offsets[event + 1] - column.offsets[event]);
    else
        longest = std::max(longest, column.size);
    dispatch(column.type, [&](auto *type) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
        const auto *numbers = column.content.data<const T>();
        const auto count = static_cast<int64_t>(column.content.size());
        if constexpr (std::is_same<T, float>::value)
            add_floats(numbers, count, to, scratch);
        else if constexpr (sizeof(T) == 8)
            add_doubles(numbers, count, to, scratch);
        else
            add_integers(numbers, count, to);
    });
}

PyObject *accumulate(PyObject *, PyObject *args) {
    PyObject *list, *tallies_object, *extremes_object, *sums_object, *bins_object;
    Py_ssize_t events;
    if (!PyArg_ParseTuple(args, "OnOOOO", &list, &events, &tallies_object, &extremes_object, &sums_object, &bins_object))
        return nullptr;
    Buffer tallies, extremes, sums, bins;
    std::vector<Column> columns;
    if (!take_columns(list, events, columns) || !tallies.take(tallies_object, INT64, true, "tallies") ||
        !extremes.take(extremes_object, INT64, true, "extremes") || !sums.take(sums_object, "LQ", true, "sums") ||
        !bins.take(bins_object, INT64, true, "bins"))
        return nullptr;
    const auto branches = static_cast<int64_t>(columns.size());
    if (!expect(tallies.size() == 4 * branches, "tallies") || !expect(extremes.size() == 2 * branches, "extremes") ||
        !expect(sums.size() == 2 * LIMBS * branches, "sums") || !expect(bins.size() == BINS * branches, "bins"))
        return nullptr;
    Py_BEGIN_ALLOW_THREADS;
    Scratch scratch;
    for (int64_t i = 0; i < branches; ++i) {
        uint64_t *limbs = sums.data<uint64_t>() + 2 * LIMBS * i;
        int64_t *ends = extremes.data<int64_t>() + 2 * i;
        Statistics to{tallies.data<int64_t>() + 4 * i, ends, ends + 1, limbs, limbs + LIMBS, bins.data<int64_t>() + BINS * i};
        add_numbers(columns[i], events, to, scratch);
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"use_libraries", use_libraries, METH_VARARGS, "use_libraries(addresses)"},
    {"measure", measure, METH_VARARGS, "measure(spans, jobs, bytes)"},
    {"decode", decode, METH_VARARGS, "decode(spans, jobs, spots, content, offsets, lists)"},
    {"scan_pages", scan_pages, METH_VARARGS, "scan_pages(lists, clusters, counts, pages) -> pages"},
    {"decode_pages", decode_pages, METH_VARARGS, "decode_pages(spans, jobs, content, results)"},
    {"join_offsets", join_offsets, METH_VARARGS, "join_offsets(offsets, positions, edges, ranges) -> damaged"},
    {"measure_vectors", measure_vectors, METH_VARARGS, "measure_vectors(data, starts, item, outer) -> lists, numbers"},
    {"decode_vectors", decode_vectors, METH_VARARGS, "decode_vectors(data, starts, item, is_bool, inner, content)"},
    {"assemble", assemble, METH_VARARGS, "assemble(columns, events, widths, constants, uses_asinh, fill, x, mask) -> lost"},
    {"assemble_objects", assemble_objects, METH_VARARGS,
     "assemble_objects(columns, events, length, keys, descending, constants, uses_asinh, fill, x) -> lost"},
    {"gather", gather, METH_VARARGS, "gather(sources, block, row, out)"},
    {"gather_objects", gather_objects, METH_VARARGS, "gather_objects(sources, offsets, cells, block, row, length, fill, x, mask)"},
    {"accumulate", accumulate, METH_VARARGS, "accumulate(columns, events, tallies, extremes, sums, bins)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", "See kernel.cpp.", 0, methods, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit__kernel() {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "LIMBS", LIMBS) != 0) {
        Py_DECREF(made);
        return nullptr;
    }
    return made;
}
