// The extension module: each part of the native code binds its own functions.

#include <nanobind/nanobind.h>

namespace nb = nanobind;

#ifdef HAVE_RERANK
void bind_rerank(nb::module_ &m);
#endif

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of adaptive_search.";
#ifdef HAVE_RERANK
    bind_rerank(m);
#endif
}
