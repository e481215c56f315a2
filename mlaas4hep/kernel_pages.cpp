// The pages of RNTuples, without the GIL.
//
//   scan_pages(lists, clusters, counts, pages)      page lists -> the pages of each column
//   decode_pages(spans, jobs, content, results)     pages -> numbers
//   join_offsets(offsets, positions, edges, ranges) ends of lists in each cluster -> offsets of lists
//
// Each has an equivalent in NumPy (`io.rntuple.page_lists`, `io.rntuple.decode`) with bitwise equal results. The format: "RNTuple
// Binary Format Specification" 1.0, in ROOT's tree/ntuple/doc.

#include "kernel_shared.h"

#include <algorithm>
#include <unordered_map>

namespace kernel {

namespace {

template <class T> inline T load(const unsigned char *at) {
    T value;
    std::memcpy(&value, at, sizeof(T)); // little-endian, maybe unaligned
    return value;
}

// ------------------------------------------------------------------------------------------------------ page lists

// A stretch of a page list with a current position.
struct PageListCursor {
    const unsigned char *data;
    int64_t at, end;

    bool has(int64_t bytes) const { return bytes <= end - at; }
    template <class T> T next() {
        const T value = load<T>(data + at);
        at += static_cast<int64_t>(sizeof(T));
        return value;
    }

    // Read the beginning of a list frame: its end, and the number of its items.
    bool list(int64_t &stop, int64_t &items) {
        if (!has(12)) return false;
        const int64_t start = at;
        const auto size = next<int64_t>();
        if (size >= -11 || size < start - end) return false;
        stop = start - size;
        items = next<uint32_t>();
        return true;
    }
};

constexpr int64_t PAGE_FIELDS = 3; // elements, negative if a checksum follows the page; size; first byte

// Read one page; return whether its description is complete and its place is in the file.
bool scan_page(PageListCursor &cursor, int64_t stop, int64_t *page) {
    if (stop - cursor.at < 16) return false;
    page[0] = cursor.next<int32_t>();
    const int64_t size = cursor.next<int32_t>();
    if (size >= 0) {
        page[1] = size;
    } else { // a locator with 64 bits for the size
        constexpr int64_t LARGE = 1;
        if (-size >> 24 != LARGE || stop - cursor.at < 16) return false;
        page[1] = cursor.next<int64_t>();
    }
    page[2] = cursor.next<int64_t>();
    return page[1] >= 0 && page[2] >= 0;
}

// Read the pages of one column; return their number, -1 if the column is suppressed in this cluster, or -2 if they are damaged.
int64_t scan_column(PageListCursor &cursor, int64_t *pages, int64_t room) {
    int64_t stop = 0, items = 0;
    if (!cursor.list(stop, items) || items > room) return -2;
    for (int64_t i = 0; i < items; ++i)
        if (!scan_page(cursor, stop, pages + PAGE_FIELDS * i)) return -2;
    if (stop - cursor.at < 8) return -2;
    const bool suppressed = cursor.next<int64_t>() < 0;
    cursor.at = stop;
    return suppressed ? -1 : items;
}

// ----------------------------------------------------------------------------------------------- a page -> numbers

// How the elements of a page are stored; the numbers of `Code` in `io.rntuple.encodings`.
enum Code : int64_t { ZERO, PLAIN, BIT, SPLIT, ZIGZAG, INDEX, DELTA, TRUNCATED, QUANTISED };

// How to read a page; a row of `jobs`.
struct PageJob {
    int64_t span, at, size; // index of the span that contains the page, position in it, and size
    int64_t checked;        // whether a checksum of eight bytes follows
    int64_t elements;       // elements in the page
    int64_t skip, take;     // elements to leave out at its beginning, and to decode
    int64_t code, bits;     // encoding, and bits per element
    int64_t to;             // position of the first decoded byte
    double low, high;       // range of QUANTISED

    // Bytes of a decoded element.
    int64_t item() const {
        switch (code) {
        case BIT: return 1;
        case INDEX:
        case DELTA: return 8;
        case TRUNCATED:
        case QUANTISED: return 4;
        default: return bits / 8;
        }
    }

    bool is_valid() const {
        constexpr int64_t MOST = int64_t{1} << 40;
        if (size < 0 || elements < 0 || skip < 0 || take < 0 || elements > MOST || take > MOST || skip > elements) return false;
        if (code != ZERO && take > elements - skip) return false;
        switch (code) {
        case ZERO:
        case PLAIN: return bits == 8 || bits == 16 || bits == 32 || bits == 64;
        case BIT: return bits == 1;
        case SPLIT:
        case ZIGZAG: return bits == 16 || bits == 32 || bits == 64;
        case INDEX:
        case DELTA: return bits == 32 || bits == 64;
        case TRUNCATED: return bits >= 10 && bits <= 31;
        case QUANTISED: return bits >= 1 && bits <= 32;
        default: return false;
        }
    }
};
static_assert(sizeof(PageJob) == 12 * sizeof(int64_t), "a row of jobs");

// Return element `i` of `count` elements whose first bytes are stored together, then their second bytes, and so on.
template <class T> inline T joined(const unsigned char *from, int64_t count, int64_t i) {
    T value = 0;
    for (size_t byte = 0; byte < sizeof(T); ++byte)
        value = static_cast<T>(value | static_cast<T>(static_cast<T>(from[static_cast<int64_t>(byte) * count + i]) << 8 * byte));
    return value;
}

template <class T> void join_bytes(const unsigned char *from, const PageJob &job, void *to) {
    auto *out = static_cast<T *>(to);
    for (int64_t i = 0; i < job.take; ++i) out[i] = joined<T>(from, job.elements, job.skip + i);
}

template <class T> void join_zigzag(const unsigned char *from, const PageJob &job, void *to) {
    auto *out = static_cast<T *>(to);
    for (int64_t i = 0; i < job.take; ++i) {
        const T value = joined<T>(from, job.elements, job.skip + i);
        out[i] = static_cast<T>((value >> 1) ^ static_cast<T>(0 - (value & 1)));
    }
}

uint64_t sum_of_bytes(const unsigned char *from, int64_t count) {
    constexpr int64_t PIECE = int64_t{1} << 24; // whose sum fits into 32 bits
    uint64_t total = 0;
    for (int64_t start = 0; start < count; start += PIECE) {
        const int64_t stop = std::min(start + PIECE, count);
        uint32_t sum = 0;
        for (int64_t i = start; i < stop; ++i) sum += from[i];
        total += sum;
    }
    return total;
}

template <class T> void add_deltas(const unsigned char *from, const PageJob &job, uint64_t *out) {
    uint64_t end = 0;
    for (size_t byte = 0; byte < sizeof(T); ++byte)
        end += sum_of_bytes(from + static_cast<int64_t>(byte) * job.elements, job.skip) << 8 * byte;
    for (int64_t i = 0; i < job.take; ++i) out[i] = end += joined<T>(from, job.elements, job.skip + i);
}

template <class T> void widen(const unsigned char *from, const PageJob &job, uint64_t *out) {
    for (int64_t i = 0; i < job.take; ++i) out[i] = load<T>(from + (job.skip + i) * static_cast<int64_t>(sizeof(T)));
}

void unpack_bits(const unsigned char *from, const PageJob &job, unsigned char *out) {
    int64_t i = 0;
    const int64_t begin = job.skip;
    for (; i < job.take && (begin + i) % 8; ++i) out[i] = from[(begin + i) / 8] >> (begin + i) % 8 & 1;
    for (; i + 8 <= job.take; i += 8) { // the bits of a byte to the lowest bits of eight bytes
        const uint64_t spread = (from[(begin + i) / 8] * 0x8040201008040201u >> 7) & 0x0101010101010101u;
        uint64_t bytes = 0;
        bytes = __builtin_bswap64(spread);
        std::memcpy(out + i, &bytes, 8);
    }
    for (; i < job.take; ++i) out[i] = from[(begin + i) / 8] >> (begin + i) % 8 & 1;
}

// Call `store(i, value)` for numbers of `bits` bits, the lowest bits first.
template <class F> void each_packed(const unsigned char *from, int64_t length, const PageJob &job, F &&store) {
    const uint64_t mask = (uint64_t{1} << job.bits) - 1;
    for (int64_t i = 0; i < job.take; ++i) {
        const int64_t bit = (job.skip + i) * job.bits, byte = bit / 8;
        uint64_t word = 0;
        std::memcpy(&word, from + byte, static_cast<size_t>(std::min<int64_t>(8, length - byte)));
        store(i, static_cast<uint32_t>(word >> bit % 8 & mask));
    }
}

// Decode the elements of a decompressed page of `length` bytes.
void decode_elements(const unsigned char *from, int64_t length, const PageJob &job, unsigned char *to) {
    auto *words = reinterpret_cast<uint64_t *>(to);
    switch (job.code) {
    case BIT: return unpack_bits(from, job, to);
    case SPLIT:
        return job.bits == 16   ? join_bytes<uint16_t>(from, job, to)
               : job.bits == 32 ? join_bytes<uint32_t>(from, job, to)
                                : join_bytes<uint64_t>(from, job, to);
    case ZIGZAG:
        return job.bits == 16   ? join_zigzag<uint16_t>(from, job, to)
               : job.bits == 32 ? join_zigzag<uint32_t>(from, job, to)
                                : join_zigzag<uint64_t>(from, job, to);
    case DELTA: return job.bits == 32 ? add_deltas<uint32_t>(from, job, words) : add_deltas<uint64_t>(from, job, words);
    case INDEX: return job.bits == 32 ? widen<uint32_t>(from, job, words) : widen<uint64_t>(from, job, words);
    case TRUNCATED:
        return each_packed(from, length, job, [&](int64_t i, uint32_t value) {
            value <<= 32 - job.bits;
            std::memcpy(to + 4 * i, &value, 4);
        });
    case QUANTISED: {
        const double steps = static_cast<double>((uint64_t{1} << job.bits) - 1), range = job.high - job.low;
        return each_packed(from, length, job, [&](int64_t i, uint32_t value) {
            const auto number = static_cast<float>(job.low + static_cast<double>(value) * range / steps);
            std::memcpy(to + 4 * i, &number, 4);
        });
    }
    default: { // PLAIN
        const int64_t item = job.item();
        std::memcpy(to, from + job.skip * item, static_cast<size_t>(job.take * item));
    }
    }
}

// The pages that were decoded in a call, by checksum. Many pages are equal: the ends of the lists of a collection whose members are
// stored as lists of their own, or flags that are never set.
class EqualPages {
  public:
    // Return an earlier job whose page has the same bytes and is decoded in the same way, or null; remember this one otherwise.
    const PageJob *find(const PageJob &job, const unsigned char *page, const std::vector<Buffer> &spans) {
        if (!libraries.xxh3) return nullptr;
        const uint64_t key = job.checked ? load<uint64_t>(page + job.size) : libraries.xxh3(page, static_cast<size_t>(job.size));
        const auto [known, is_new] = jobs_.try_emplace(key, &job);
        if (is_new) return nullptr;
        const PageJob &other = *known->second;
        const bool same = other.size == job.size && other.elements == job.elements && other.skip == job.skip &&
                          other.take == job.take && other.code == job.code && other.bits == job.bits &&
                          std::memcmp(&other.low, &job.low, 2 * sizeof(double)) == 0;
        const unsigned char *bytes = spans[other.span].data<const unsigned char>() + other.at;
        return same && std::memcmp(bytes, page, static_cast<size_t>(job.size)) == 0 ? &other : nullptr;
    }

  private:
    std::unordered_map<uint64_t, const PageJob *> jobs_;
};

enum Outcome : int64_t { DECODED, WRONG_CHECKSUM, NOT_DECOMPRESSED };

Outcome decode_page(const unsigned char *page, const PageJob &job, Decompressor &decompressor, unsigned char *to) {
    if (job.code == ZERO) {
        std::memset(to, 0, static_cast<size_t>(job.take * job.item()));
        return DECODED;
    }
    if (job.checked && libraries.xxh3(page, static_cast<size_t>(job.size)) != load<uint64_t>(page + job.size))
        return WRONG_CHECKSUM;
    if (job.elements == 0) return DECODED;
    const int64_t length = (job.elements * job.bits + 7) / 8;
    if (job.code == PLAIN && job.take == job.elements) // straight to its place
        return decompressor.unpack_to(page, job.size, length, to) ? DECODED : NOT_DECOMPRESSED;
    const unsigned char *data = decompressor.unpack(page, job.size, length);
    if (!data) return NOT_DECOMPRESSED;
    if (job.take) decode_elements(data, length, job, to);
    return DECODED;
}

} // namespace

// scan_pages(lists, clusters, counts, pages): read the pages of some clusters.
//
// `clusters`, int64 (clusters, 3), has the index of a page list in `lists`, and the first byte and end of the cluster in it. The
// number of pages of each column is written to `counts`, int64 (clusters, columns), -1 if the column is suppressed; columns that a
// cluster does not list have no pages. Each page takes a row of `pages`, int64 (at least as many as fit into the page lists, 3):
// number of elements, negative if a checksum follows; size; first byte. Return the number of pages.
PyObject *scan_pages(PyObject *, PyObject *args) {
    PyObject *list, *clusters_object, *counts_object, *pages_object;
    if (!PyArg_ParseTuple(args, "OOOO", &list, &clusters_object, &counts_object, &pages_object)) return nullptr;
    Buffer clusters, counts, pages;
    std::vector<Buffer> lists;
    if (!take_all(list, lists, "page list") || !clusters.take(clusters_object, INT64, false, "clusters") ||
        !counts.take(counts_object, INT64, true, "counts") || !pages.take(pages_object, INT64, true, "pages"))
        return nullptr;
    const Py_ssize_t count = clusters.size() / 3, columns = count ? counts.size() / count : 0, room = pages.size() / PAGE_FIELDS;
    if (!expect(count * 3 == clusters.size(), "clusters") || !expect(count * columns == counts.size(), "counts")) return nullptr;
    int64_t used = 0;
    for (Py_ssize_t i = 0; i < count; ++i) {
        const int64_t *cluster = clusters.data<int64_t>() + 3 * i;
        if (cluster[0] < 0 || cluster[0] >= static_cast<int64_t>(lists.size()) || cluster[1] < 0 || cluster[1] > cluster[2] ||
            cluster[2] > lists[cluster[0]].size()) {
            PyErr_SetString(PyExc_ValueError, "clusters: not within their page lists");
            return nullptr;
        }
        PageListCursor cursor{lists[cluster[0]].data<const unsigned char>(), cluster[1], cluster[2]};
        int64_t stop = 0, items = 0;
        bool valid = cursor.list(stop, items) && items <= columns;
        cursor.end = valid ? stop : cursor.end;
        int64_t *row = counts.data<int64_t>() + columns * i;
        std::fill(row, row + columns, 0);
        for (int64_t column = 0; valid && column < items; ++column) {
            row[column] = scan_column(cursor, pages.data<int64_t>() + PAGE_FIELDS * used, room - used);
            valid = row[column] != -2;
            used += std::max<int64_t>(row[column], 0);
        }
        if (!valid) {
            PyErr_SetString(PyExc_ValueError, "the list of its pages is damaged");
            return nullptr;
        }
    }
    return PyLong_FromLongLong(used);
}

// decode_pages(spans, jobs, content, results)
//
// Check and decompress pages, and write their numbers to `content`, in native byte order: ends of lists as int64, bits as bytes. The
// outcome of each page is written to `results`, int64 (jobs,), see `Outcome`.
PyObject *decode_pages(PyObject *, PyObject *args) {
    PyObject *list, *jobs_object, *content_object, *results_object;
    if (!PyArg_ParseTuple(args, "OOOO", &list, &jobs_object, &content_object, &results_object)) return nullptr;
    std::vector<Buffer> spans;
    Buffer jobs, content, results;
    constexpr Py_ssize_t FIELDS = sizeof(PageJob) / sizeof(int64_t);
    if (!take_all(list, spans, "span") || !jobs.take(jobs_object, INT64, false, "jobs") ||
        !expect(jobs.size() % FIELDS == 0, "jobs") || !content.take(content_object, "B", true, "content") ||
        !results.take(results_object, INT64, true, "results") || !expect(results.size() == jobs.size() / FIELDS, "results"))
        return nullptr;
    const auto *all = jobs.data<const PageJob>();
    for (Py_ssize_t i = 0; i < results.size(); ++i) {
        const PageJob &job = all[i];
        bool valid = job.is_valid() && job.to >= 0 && job.to <= content.size() &&
                     job.take <= (content.size() - job.to) / job.item() && job.to % job.item() == 0;
        if (valid && job.code != ZERO)
            valid = job.span >= 0 && job.span < static_cast<int64_t>(spans.size()) && job.at >= 0 &&
                    job.at <= spans[job.span].size() && job.size <= spans[job.span].size() - job.at - (job.checked ? 8 : 0) &&
                    (!job.checked || libraries.xxh3);
        if (!valid) {
            PyErr_SetString(PyExc_ValueError, "jobs: invalid sizes");
            return nullptr;
        }
    }
    Py_BEGIN_ALLOW_THREADS;
    Decompressor decompressor;
    EqualPages equal;
    for (Py_ssize_t i = 0; i < results.size(); ++i) {
        const PageJob &job = all[i];
        const unsigned char *page = job.code == ZERO ? nullptr : spans[job.span].data<const unsigned char>() + job.at;
        auto *bytes = content.data<unsigned char>();
        int64_t &result = results.data<int64_t>()[i];
        const PageJob *other = job.code == ZERO ? nullptr : equal.find(job, page, spans);
        if (other) {
            result = results.data<int64_t>()[other - all];
            std::memmove(bytes + job.to, bytes + other->to, static_cast<size_t>(job.take * job.item()));
        } else {
            result = decode_page(page, job, decompressor, bytes + job.to);
        }
    }
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

// join_offsets(offsets, positions, edges, ranges): join the lists of several clusters.
//
// For each column, `offsets`, starting at `positions[column]`, has the end of the list before the first one, and the end of each
// list, counted from the beginning of its cluster; cluster i has the lists edges[column, i] <= list < edges[column, i + 1]. They
// become the offsets of all lists, starting at 0. `ranges`, int64 (columns, clusters, 2), receives the first and the end of the items
// in each cluster. Return the index of a column whose lists are out of order, or -1.
PyObject *join_offsets(PyObject *, PyObject *args) {
    PyObject *offsets_object, *positions_object, *edges_object, *ranges_object;
    if (!PyArg_ParseTuple(args, "OOOO", &offsets_object, &positions_object, &edges_object, &ranges_object)) return nullptr;
    Buffer offsets, positions, edges, ranges;
    if (!offsets.take(offsets_object, INT64, true, "offsets") || !positions.take(positions_object, INT64, false, "positions") ||
        !edges.take(edges_object, INT64, false, "edges") || !ranges.take(ranges_object, INT64, true, "ranges"))
        return nullptr;
    const Py_ssize_t columns = positions.size(), clusters = columns ? edges.size() / columns - 1 : 0;
    if (!expect(clusters >= 0 && edges.size() == columns * (clusters + 1), "edges") ||
        !expect(ranges.size() == 2 * columns * clusters, "ranges"))
        return nullptr;
    for (Py_ssize_t column = 0; column < columns; ++column) {
        const int64_t *edge = edges.data<int64_t>() + column * (clusters + 1), first = positions.data<int64_t>()[column];
        bool valid = first >= 0 && edge[0] == 0 && first < offsets.size();
        for (Py_ssize_t i = 0; valid && i < clusters; ++i) valid = edge[i] <= edge[i + 1];
        if (!valid || edge[clusters] >= offsets.size() - first) {
            PyErr_SetString(PyExc_ValueError, "edges: not the lists of the columns");
            return nullptr;
        }
    }
    int64_t damaged = -1;
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t column = 0; column < columns && damaged < 0; ++column) {
        const int64_t *edge = edges.data<int64_t>() + column * (clusters + 1);
        int64_t *lists = offsets.data<int64_t>() + positions.data<int64_t>()[column];
        int64_t *range = ranges.data<int64_t>() + 2 * clusters * column;
        int64_t begin = lists[0], filled = 0; // end of the list before in this cluster; items of the clusters before
        bool valid = begin >= 0;
        lists[0] = 0;
        for (Py_ssize_t i = 0; i < clusters; ++i) {
            int64_t last = begin, misfit = 0; // negative if an end precedes the one before it
            for (int64_t list = edge[i] + 1; list <= edge[i + 1]; ++list) {
                const int64_t end = lists[list];
                misfit |= end | static_cast<int64_t>(static_cast<uint64_t>(end) - static_cast<uint64_t>(last));
                last = end;
                lists[list] = static_cast<int64_t>(static_cast<uint64_t>(end) - static_cast<uint64_t>(begin) +
                                                   static_cast<uint64_t>(filled));
            }
            valid = valid && misfit >= 0 && last - begin <= (int64_t{1} << 60) - filled;
            if (!valid) break;
            range[2 * i] = begin;
            range[2 * i + 1] = last;
            filled += last - begin;
            begin = 0;
        }
        if (!valid) damaged = column;
    }
    Py_END_ALLOW_THREADS;
    return PyLong_FromLongLong(damaged);
}

} // namespace kernel
