// What the compiled loops share: buffers of the caller, and the libraries that decompress records.

#ifndef MLAAS4HEP_KERNEL_SHARED_H
#define MLAAS4HEP_KERNEL_SHARED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace kernel {

constexpr const char *INT64 = "lq";

// A buffer of the caller, held during a call.
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

// Take the buffers of bytes in a list.
inline bool take_all(PyObject *list, std::vector<Buffer> &buffers, const char *what) {
    if (!PyList_Check(list)) {
        PyErr_Format(PyExc_TypeError, "%s: not in a list", what);
        return false;
    }
    const Py_ssize_t count = PyList_GET_SIZE(list);
    buffers.reserve(static_cast<size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i)
        if (!buffers.emplace_back().take(PyList_GET_ITEM(list, i), "Bbc", false, what)) return false;
    return true;
}

inline bool expect(bool right, const char *what) {
    if (!right) PyErr_Format(PyExc_ValueError, "%s: size differs from that of the other arguments", what);
    return right;
}

// The functions of the decompression libraries, which `io.root.compression` finds; null if not found.
struct Libraries {
    void *(*new_deflate)();
    void (*free_deflate)(void *);
    int (*inflate)(void *, const void *, size_t, void *, size_t, size_t *);
    int (*lz4)(const char *, char *, int, int);
    uint64_t (*xxh64)(const void *, size_t, uint64_t);
    void *(*new_zstd)();
    size_t (*free_zstd)(void *);
    size_t (*zstd)(void *, void *, size_t, const void *, size_t);
    int (*xz)(uint64_t *, uint32_t, const void *, const uint8_t *, size_t *, size_t, uint8_t *, size_t *, size_t);
    uint64_t (*xxh3)(const void *, size_t); // checksums of pages
};
inline Libraries libraries{};

// Decompressors and an output buffer for one call.
struct Decompressor {
    void *deflate = nullptr, *zstd = nullptr;
    std::vector<unsigned char> room;

    Decompressor() = default;
    Decompressor(const Decompressor &) = delete;
    ~Decompressor() {
        if (deflate) libraries.free_deflate(deflate);
        if (zstd) libraries.free_zstd(zstd);
    }

    // Return the `length` decompressed bytes of a record, or null if it is damaged or its algorithm is not supported. A record
    // consists of blocks with headers of nine bytes, see `io.root.compression`.
    const unsigned char *unpack(const unsigned char *record, int64_t packed, int64_t length) {
        if (packed == length) return record; // not compressed
        // Block by block, because a damaged `length` may be two gigabytes.
        const auto grow = [&](int64_t size) { return make_room(size) ? room.data() : nullptr; };
        return unpack_blocks(record, packed, length, grow) ? room.data() : nullptr;
    }

    // Write the `length` decompressed bytes of a record to `to`; return whether it is valid and its algorithm is supported.
    bool unpack_to(const unsigned char *record, int64_t packed, int64_t length, unsigned char *to) {
        if (packed != length) return unpack_blocks(record, packed, length, [&](int64_t) { return to; });
        std::memcpy(to, record, static_cast<size_t>(length));
        return true;
    }

  private:
    // Decompress the blocks of a record. `room_for` returns memory for at least so many bytes, which keeps what was written to it.
    template <class F> bool unpack_blocks(const unsigned char *record, int64_t packed, int64_t length, F &&room_for) {
        int64_t position = 0, filled = 0;
        while (filled < length) {
            if (position + 9 > packed) return false;
            const unsigned char *header = record + position;
            const int64_t size = header[3] | header[4] << 8 | header[5] << 16;
            const int64_t unpacked = header[6] | header[7] << 8 | header[8] << 16;
            position += 9;
            if (!size || !unpacked || position + size > packed || filled + unpacked > length) return false;
            unsigned char *to = room_for(filled + unpacked);
            if (!to || !unpack_block(header, record + position, static_cast<size_t>(size), to + filled,
                                     static_cast<size_t>(unpacked)))
                return false;
            position += size;
            filled += unpacked;
        }
        return true;
    }

    bool make_room(int64_t size) {
        if (static_cast<int64_t>(room.size()) >= size) return true;
        try {
            room.resize(static_cast<size_t>(size));
        } catch (const std::bad_alloc &) {
            return false;
        }
        return true;
    }

    bool unpack_block(const unsigned char *header, const unsigned char *from, size_t size, unsigned char *to, size_t length) {
        const auto is = [&](const char *name) { return header[0] == name[0] && header[1] == name[1]; };
        if (is("ZL") && libraries.inflate) {
            if (!deflate) deflate = libraries.new_deflate();
            size_t written = 0;
            return libraries.inflate(deflate, from, size, to, length, &written) == 0 && written == length;
        }
        if (is("L4") && libraries.lz4) {
            if (size <= 8) return false;
            uint64_t checksum; // big-endian, of the compressed bytes
            std::memcpy(&checksum, from, 8);
            if (libraries.xxh64(from + 8, size - 8, 0) != __builtin_bswap64(checksum)) return false;
            const int written = libraries.lz4(reinterpret_cast<const char *>(from + 8), reinterpret_cast<char *>(to),
                                              static_cast<int>(size - 8), static_cast<int>(length));
            return written >= 0 && static_cast<size_t>(written) == length;
        }
        if (is("ZS") && libraries.zstd) {
            if (!zstd) zstd = libraries.new_zstd();
            return libraries.zstd(zstd, to, length, from, size) == length; // errors are larger than any length
        }
        if (is("XZ") && libraries.xz) {
            uint64_t limit = uint64_t{1} << 29; // bytes of memory, eight times what xz -9 takes
            size_t read = 0, written = 0;
            return libraries.xz(&limit, 0, nullptr, from, &read, size, to, &written, length) == 0 && written == length;
        }
        return false;
    }
};

// The functions of kernel_pages.cpp.
PyObject *scan_pages(PyObject *, PyObject *args);
PyObject *decode_pages(PyObject *, PyObject *args);
PyObject *join_offsets(PyObject *, PyObject *args);

} // namespace kernel

#endif
