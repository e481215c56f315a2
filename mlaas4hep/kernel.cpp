// The loops that see every number of every event, without the interpreter and without its lock.
//
//   unpack_lists(data, border, key, header, offsets, content)    a basket -> lists
//   assemble(columns, events, widths, curves, curved, fill, x, mask)     columns -> matrix
//   accumulate(columns, events, tallies, extremes, sums, bins)   columns -> statistics
//
// Each has a twin in NumPy (in `io.baskets`, `reader.vectors` and `reader.specs`) that gives the same bits: every operation
// below is one that IEEE 754 rounds correctly, in the same order, and the compiler is told to fuse none of them.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

// ---------------------------------------------------------------------------------------------------- arguments

// A buffer of the caller's, held for the length of a call.
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer &) = delete;
    Buffer(Buffer &&other) noexcept : view_(other.view_), held_(other.held_) { other.held_ = false; }
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }

    // Take a C-contiguous buffer whose items are of one of the types in `formats` (as in Python's `struct`).
    bool take(PyObject *object, const char *formats, bool writable, const char *what) {
        const int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object, &view_, flags) != 0) return false;
        held_ = true;
        const char *format = view_.format ? view_.format : "B";
        if (format[0] == '\0' || format[1] != '\0' || !std::strchr(formats, format[0])) {
            PyErr_Format(PyExc_TypeError, "%s: items of type '%s', not one of '%s'", what, format, formats);
            return false;
        }
        return true;
    }

    template <class T> T *data() const { return static_cast<T *>(view_.buf); }
    Py_ssize_t size() const { return view_.itemsize ? view_.len / view_.itemsize : 0; }
    Py_ssize_t itemsize() const { return view_.itemsize; }
    char format() const { return view_.format ? view_.format[0] : 'B'; }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

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
template <class F> void dispatch(Type type, F &&call) {
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

// The values of one branch: `size` numbers an event, or lists that end where `offsets` says.
struct Column {
    Buffer content;
    Buffer lists;
    Type type = Type::f32;
    const int64_t *offsets = nullptr;
    int64_t size = 1;

    int64_t begin(int64_t event) const { return offsets ? offsets[event] : event * size; }
};

constexpr const char *NUMBERS = "?bBhHiIlLqQfd";
constexpr const char *INT64 = "lq";

// Read [(content, offsets or None), ...] for `events` events; refuse what would be read out of bounds.
bool take_columns(PyObject *list, int64_t events, std::vector<Column> &columns) {
    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "columns: not a list");
        return false;
    }
    columns.reserve(static_cast<size_t>(PyList_GET_SIZE(list)));
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
        for (int64_t event = 0; valid && event < events; ++event)
            valid = column.offsets[event] <= column.offsets[event + 1];
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
        std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof(T)); // may lie at any address
        out[i] = swapped(value);
    }
}

// Numbers of `item` bytes from big-endian to native order.
void swap_bytes(const unsigned char *from, int64_t count, int64_t item, char *to) {
    switch (item) {
    case 2: return swap_all<uint16_t>(from, count, to);
    case 4: return swap_all<uint32_t>(from, count, to);
    case 8: return swap_all<uint64_t>(from, count, to);
    default: std::memcpy(to, from, static_cast<size_t>(count * item));
    }
}

// unpack_lists(data, border, key, header, offsets, content) -> whether it makes sense
//
// `data` is an inflated basket: numbers up to `border`, every list with `header` bytes in front; then how many offsets
// there are, and these, int32 counted from the start of the key, `key` bytes before the data. Written are `offsets`, int64
// (entries + 1,), in numbers, and `content`, as many numbers as there must be.
PyObject *unpack_lists(PyObject *, PyObject *args) {
    PyObject *data_object, *offsets_object, *content_object;
    long long border, key, header;
    if (!PyArg_ParseTuple(args, "OLLLOO", &data_object, &border, &key, &header, &offsets_object, &content_object))
        return nullptr;
    Buffer data, offsets, content;
    if (!data.take(data_object, "Bbc", false, "data") || !offsets.take(offsets_object, INT64, true, "offsets") ||
        !content.take(content_object, NUMBERS, true, "content"))
        return nullptr;
    const int64_t entries = offsets.size() - 1, item = content.itemsize();
    bool valid = entries >= 0 && border >= 0 && header >= 0 && data.size() == border + 4 * (entries + 2) &&
                 content.size() * item == border - header * entries;
    Py_BEGIN_ALLOW_THREADS;
    if (valid) {
        const auto *bytes = data.data<const unsigned char>();
        const auto *starts = reinterpret_cast<const unsigned char (*)[4]>(bytes + border + 4);
        const int shift = __builtin_ctzll(static_cast<unsigned long long>(item)); // item is a power of 2
        int64_t misfit = 0, last = 0; // keeps the sign of what is out of order, or within a number
        for (int64_t entry = 0; entry <= entries; ++entry) {
            uint32_t start;
            std::memcpy(&start, starts[entry], 4);
            int64_t end = entry == entries ? border : static_cast<int32_t>(swapped(start)) - key;
            end -= header * entry; // as if there were no headers
            misfit |= (end - last) | -(end & (item - 1));
            last = end;
            offsets.data<int64_t>()[entry] = end >> shift;
        }
        const int64_t *out = offsets.data<int64_t>();
        valid = misfit >= 0 && out[0] == 0;
        if (valid && header == 0)
            swap_bytes(bytes, content.size(), item, content.data<char>());
        else if (valid)
            for (int64_t entry = 0; entry < entries; ++entry)
                swap_bytes(bytes + out[entry] * item + header * (entry + 1), out[entry + 1] - out[entry], item,
                           content.data<char>() + out[entry] * item);
    }
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(valid);
}

// ------------------------------------------------------------------------------------------- columns -> matrix

// Rows that are written at a time: the quickest of 16 to 256 for rows of 10 kB. Fewer are short stretches of every branch,
// more than the caches hold.
constexpr int64_t TILE = 128;

struct Curve {
    float low, high, centre, scale, offset, gain;
    bool curved;
};

// asinh in float64 from operations that round correctly, as `normalise.asinh` has it: for the logarithm of
// u = |t| + sqrt(t^2 + 1) = m 2^k with m in [3/4, 3/2), 2 atanh(s) by its series, s = (m - 1) / (m + 1).
inline double asinh_of(double t) {
    const double a = std::fabs(t);
    const double u = a + std::sqrt(a * a + 1.0);
    uint64_t bits;
    std::memcpy(&bits, &u, 8);
    const uint64_t shifted = bits + 0x0008000000000000u; // + half an octave: m from 3/4 up
    const uint64_t magic = (shifted >> 52) | 0x4330000000000000u; // the exponent as a float64, by way of its bits
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
    const double small = a - a * a * a / 6.0;
    return std::copysign(a < 1e-4 ? small : logarithm, t);
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_MACHINE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_MACHINE
#endif

FOR_EACH_MACHINE void bend(float *values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(asinh_of(values[i]));
}

FOR_EACH_MACHINE void normalise(float *z, int64_t count, const Curve &curve) {
    const Curve c = curve;
    for (int64_t i = 0; i < count; ++i) {
        float v = z[i];
        v = v < c.low ? c.low : v;
        v = v > c.high ? c.high : v;
        z[i] = (v - c.centre) * c.scale;
    }
    if (c.curved) bend(z, count);
    for (int64_t i = 0; i < count; ++i) z[i] = (z[i] - c.offset) * c.gain + 0.0f; // never -0
}

struct Matrix {
    float *x;
    uint8_t *mask;
    int64_t columns;
    float fill;
    bool plain; // values stay as they are
};

// Numbers of some rows, ready to be written.
struct Ready {
    std::vector<float> z;
    std::vector<uint8_t> is_number;

    void reserve(int64_t count) {
        if (static_cast<int64_t>(z.size()) >= count) return;
        z.resize(static_cast<size_t>(count));
        is_number.resize(static_cast<size_t>(count));
    }
};

// Convert numbers, normalise them, and say which are none.
template <class T>
void prepare(const T *numbers, int64_t count, const Curve &curve, const Matrix &to, float *z, uint8_t *is_number) {
    for (int64_t i = 0; i < count; ++i) z[i] = static_cast<float>(numbers[i]);
    uint8_t all = 1;
    for (int64_t i = 0; i < count; ++i) {
        is_number[i] = z[i] == z[i];
        all &= is_number[i];
    }
    if (!to.plain) normalise(z, count, curve);
    if (!all)
        for (int64_t i = 0; i < count; ++i) z[i] = is_number[i] ? z[i] : to.fill;
}

void prepare(const Column &column, int64_t first, int64_t count, const Curve &curve, const Matrix &to, float *z,
             uint8_t *is_number) {
    dispatch(column.type, [&](auto *type) {
        const auto *numbers = column.content.data<std::remove_pointer_t<decltype(type)>>();
        prepare(numbers + first, count, curve, to, z, is_number);
    });
}

// Branches side by side that are written together, since they have values in the same cells: flat columns, or lists of the
// same lengths, as those of one collection are.
struct Group {
    int64_t branch, count; // the first of them, and how many
    int64_t column, width; // of the matrix: the first, and how many each branch has
};

constexpr int64_t LARGEST_GROUP = 16;

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
            if (last.count < LARGEST_GROUP && last.width == widths[i] && alike(columns[i - 1], columns[i])) {
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

// Ask for the numbers of some rows before they are needed: too few at a time for the processor to see it coming.
void fetch_ahead(const Column &column, int64_t start, int64_t stop) {
    const char *numbers = column.content.data<const char>();
    const int64_t item = column.content.itemsize();
    const char *end = numbers + column.begin(stop) * item;
    for (const char *line = numbers + column.begin(start) * item; line < end; line += 64) __builtin_prefetch(line);
}

// Write the rows from `start` to `stop` of a group, where fill value and False stand already; its numbers are ready, those
// of one branch `apart` from those of the next. Return how many numbers of each branch did not fit.
int64_t write_group(const Group &group, const Column &leader, const Ready &ready, int64_t apart, int64_t start, int64_t stop,
                    const Matrix &to) {
    float *x = to.x + start * to.columns + group.column;
    uint8_t *mask = to.mask + start * to.columns + group.column;
    const float *z = ready.z.data();
    const uint8_t *is_number = ready.is_number.data();
    if (group.width == 1 && !leader.offsets) { // as below, for a compiler that likes its loops simple
        for (int64_t row = start; row < stop; ++row, x += to.columns, mask += to.columns, ++z, ++is_number)
            for (int64_t k = 0; k < group.count; ++k) {
                x[k] = z[k * apart];
                mask[k] = is_number[k * apart];
            }
        return 0;
    }
    int64_t lost = 0;
    for (int64_t row = start; row < stop; ++row, x += to.columns, mask += to.columns) {
        const int64_t length = leader.begin(row + 1) - leader.begin(row), kept = std::min(length, group.width);
        lost += length - kept;
        for (int64_t k = 0; k < group.count; ++k)
            for (int64_t i = 0; i < kept; ++i) {
                x[k * group.width + i] = z[k * apart + i];
                mask[k * group.width + i] = is_number[k * apart + i];
            }
        z += length;
        is_number += length;
    }
    return lost;
}

bool expect(bool right, const char *what) {
    if (!right) PyErr_Format(PyExc_ValueError, "%s: of another size than the other arguments", what);
    return right;
}

PyObject *assemble(PyObject *, PyObject *args) {
    PyObject *list, *widths_object, *curves_object, *curved_object, *x_object, *mask_object;
    Py_ssize_t events;
    double fill;
    if (!PyArg_ParseTuple(args, "OnOOOdOO", &list, &events, &widths_object, &curves_object, &curved_object, &fill,
                          &x_object, &mask_object))
        return nullptr;
    Buffer widths, curves, curved, x, mask;
    std::vector<Column> columns;
    const bool plain = curves_object == Py_None;
    if (!take_columns(list, events, columns) || !widths.take(widths_object, INT64, false, "widths") ||
        !x.take(x_object, "f", true, "x") || !mask.take(mask_object, "?", true, "mask"))
        return nullptr;
    if (!plain && (!curves.take(curves_object, "f", false, "curves") || !curved.take(curved_object, "?", false, "curved")))
        return nullptr;
    const auto branches = static_cast<int64_t>(columns.size());
    if (!expect(widths.size() == branches, "widths") || !expect(mask.size() == x.size(), "mask") ||
        !expect(plain || (curves.size() == 6 * branches && curved.size() == branches), "curves"))
        return nullptr;
    int64_t total = 0;
    for (int64_t i = 0; i < branches; ++i) {
        const int64_t width = widths.data<int64_t>()[i];
        if (!expect(width >= 0 && (columns[i].offsets || columns[i].size == width || events == 0), "a width")) return nullptr;
        total += width;
    }
    if (!expect(total * events == x.size(), "x")) return nullptr;

    std::vector<int64_t> lost(columns.size(), 0);
    Ready ready;
    const auto curve_of = [&](int64_t i) {
        if (plain) return Curve{};
        const float *c = curves.data<float>() + 6 * i;
        return Curve{c[0], c[1], c[2], c[3], c[4], c[5], curved.data<uint8_t>()[i] != 0};
    };
    Py_BEGIN_ALLOW_THREADS;
    const Matrix to{x.data<float>(), mask.data<uint8_t>(), total, static_cast<float>(fill), plain};
    const std::vector<Group> groups = groups_of(columns, widths.data<int64_t>(), events);
    for (int64_t start = 0; start < events; start += TILE) {
        const int64_t stop = std::min<int64_t>(start + TILE, events);
        std::fill(to.x + start * total, to.x + stop * total, to.fill); // in sequence, which brings it into the cache
        std::fill(to.mask + start * total, to.mask + stop * total, 0);
        for (size_t g = 0; g < groups.size(); ++g) {
            const Group &group = groups[g];
            const Column &leader = columns[group.branch];
            if (g + 1 < groups.size())
                for (int64_t k = 0; k < groups[g + 1].count; ++k) fetch_ahead(columns[groups[g + 1].branch + k], start, stop);
            const int64_t begin = leader.begin(start), count = leader.begin(stop) - begin;
            ready.reserve(group.count * count);
            for (int64_t k = 0; k < group.count; ++k)
                prepare(columns[group.branch + k], begin, count, curve_of(group.branch + k), to, ready.z.data() + k * count,
                        ready.is_number.data() + k * count);
            const int64_t left_over = write_group(group, leader, ready, count, start, stop, to);
            for (int64_t k = 0; k < group.count; ++k) lost[group.branch + k] += left_over;
        }
    }
    Py_END_ALLOW_THREADS;

    PyObject *result = PyList_New(static_cast<Py_ssize_t>(lost.size()));
    if (!result) return nullptr;
    for (size_t i = 0; i < lost.size(); ++i) PyList_SET_ITEM(result, i, PyLong_FromLongLong(lost[i]));
    return result;
}

// ----------------------------------------------------------------------------------------- columns -> statistics

using u128 = unsigned __int128;

// A whole number of units of 2^-1074 in two's complement, the least significant limb first. Squares of numbers up to
// float32's largest, 2^63 of them, take 1074 + 256 + 63 bits and a sign.
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
constexpr int64_t SLICE = 65536; // numbers after which the sums below are emptied, long before they overflow

// What is known of one branch; points into the caller's arrays.
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

// Sums of numbers that share a sign and an exponent (float64), or a bin (float32): of their mantissas, and of these squared.
struct Narrow {
    uint64_t count, sum, squares;
};
struct Wide {
    u128 sum, squares;
};

// Room for a thread's work, all zero between two calls.
struct Scratch {
    std::vector<Narrow> narrow = std::vector<Narrow>(BINS);
    std::vector<Wide> wide = std::vector<Wide>(4096);
};

// float32: everything follows from the pattern of bits.
void add_floats(const float *numbers, int64_t count, Statistics &to, Scratch &scratch) {
    Narrow *sums = scratch.narrow.data();
    for (int64_t start = 0; start < count; start += SLICE) {
        const int64_t stop = std::min(start + SLICE, count);
        float low = std::numeric_limits<float>::infinity(), high = -low;
        uint32_t least = BINS, most = 0;
        int64_t odd = 0;
        for (int64_t i = start; i < stop; ++i) {
            const float value = numbers[i];
            const uint32_t bits = pattern_of(value), key = bits >> 20, exponent = bits >> 23 & 255;
            if (exponent == 255) {
                ++odd;
                to.tally[value != value ? 1 : 2]++;
                continue;
            }
            low = value < low ? value : low;
            high = value > high ? value : high;
            least = std::min(least, key);
            most = std::max(most, key);
            const uint64_t mantissa = (bits & 0x7fffff) | (exponent ? 0x800000 : 0);
            Narrow &bin = sums[key];
            bin.count++;
            bin.sum += mantissa;
            bin.squares += mantissa * mantissa;
        }
        if (stop - start == odd) continue;
        to.extremes(low, high, to.tally[0] == 0);
        to.tally[0] += stop - start - odd;
        for (uint32_t key = least; key <= most; ++key) {
            Narrow &bin = sums[key];
            if (!bin.count) continue;
            const int power = std::max<int>(key >> 3 & 255, 1) - 150; // a mantissa's last bit is worth 2^power
            to.bins[key] += static_cast<int64_t>(bin.count);
            add_to(to.total, bin.sum, 1074 + power, key >> 11);
            add_to(to.squares, bin.squares, 1074 + 2 * power, false);
            bin = Narrow{};
        }
    }
}

// float64, and 64-bit integers as float64 knows them.
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

// Integers of at most 32 bits: sums of so few of them fit into 128 bits.
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
        int64_t times[256] = {};
        for (int64_t i = 0; i < count; ++i) times[static_cast<uint8_t>(numbers[i])]++;
        for (int code = 0; code < 256; ++code)
            if (times[code]) add(static_cast<T>(code), times[code]);
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
    {"unpack_lists", unpack_lists, METH_VARARGS, "unpack_lists(data, border, key, header, offsets, content) -> valid"},
    {"assemble", assemble, METH_VARARGS, "assemble(columns, events, widths, curves, curved, fill, x, mask) -> lost"},
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
