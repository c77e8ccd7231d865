// Files mapped into memory.
#include <cerrno>
#include <cstdint>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "paging.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <sys/stat.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace nb = nanobind;

namespace adaptive_search {
namespace {

using Bytes = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>;
using BytesInput = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

#if defined(__unix__) || defined(__APPLE__)
struct Mapping {
    void* address;
    std::size_t size;

    ~Mapping() { munmap(address, size); }
};

// Bytes from `begin` on of a mapping, which they own.
Bytes bytes_of(void* address, std::size_t size, std::size_t begin, std::size_t count) {
    auto* mapping = new Mapping{address, size};
    nb::capsule owner(mapping,
                      [](void* p) noexcept { delete static_cast<Mapping*>(p); });
    return Bytes(static_cast<const std::uint8_t*>(address) + begin, {count}, owner);
}

Bytes map_file(int descriptor) {
    struct stat status;
    void* address = MAP_FAILED;
    if (fstat(descriptor, &status) == 0) {
        address = mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_SHARED,
                       descriptor, 0);
    }
    if (address == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        throw nb::python_error();
    }
    const std::size_t size = static_cast<std::size_t>(status.st_size);
    return bytes_of(address, size, 0, size);
}
#endif

// A second mapping of what a mapped file's bytes lie in, for reads here and there; the bytes
// themselves where there is no such thing.
nb::object at_random(const nb::object& given) {
#if defined(__linux__)
    const auto bytes = nb::cast<BytesInput>(given);
    const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(bytes.data()) % page;
    const std::size_t size = begin + bytes.size();
    // Of pages that are shared with a file, a move of length 0 makes a copy of the mapping.
    void* old = const_cast<std::uint8_t*>(bytes.data() - begin);
    void* address = bytes.size() == 0 ? MAP_FAILED : mremap(old, 0, size, MREMAP_MAYMOVE);
    if (address == MAP_FAILED) return given;
    will_read_at_random(address, size);
    return nb::cast(bytes_of(address, size, begin, bytes.size()));
#else
    return given;
#endif
}

// glibc keeps what was freed between blocks in use, until it is asked.
void release_memory() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

}  // namespace
}  // namespace adaptive_search

void bind_mapping(nb::module_& m) {
    using namespace adaptive_search;
#if defined(__unix__) || defined(__APPLE__)
    m.def("map_file", &map_file, nb::arg("descriptor"));
#endif
    m.def("at_random", &at_random, nb::arg("bytes"));
    m.def("will_read",
          [](const BytesInput& bytes) { will_read(bytes.data(), bytes.size()); },
          nb::arg("bytes"));
    m.def("release_memory", &release_memory);
}
