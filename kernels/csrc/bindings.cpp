// The extension module: each part of the native code binds its own functions.

#include <nanobind/nanobind.h>

#include "engine.h"
#include "simd_level.h"

namespace nb = nanobind;

void bind_engine(nb::module_ &m);
void bind_ops(nb::module_ &m);
void bind_bands(nb::module_ &m);
void bind_exact(nb::module_ &m);
void bind_search(nb::module_ &m);
void bind_mapping(nb::module_ &m);
void bind_training(nb::module_ &m);

namespace {

void set_error(const char *name, const std::exception &error) {
    const nb::object type = nb::module_::import_("adaptive_search.errors").attr(name);
    PyErr_SetString(type.ptr(), error.what());
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of adaptive_search.";
    nb::register_exception_translator([](const std::exception_ptr &error, void *) {
        try {
            std::rethrow_exception(error);
        } catch (const adaptive_search::LevelUnavailable &e) {
            set_error("BackendUnavailable", e);
        } catch (const adaptive_search::WeightsDamaged &e) {
            set_error("WeightsError", e);
        }
    });
    bind_engine(m);
    bind_ops(m);
    bind_bands(m);
    bind_exact(m);
    bind_search(m);
    bind_mapping(m);
    bind_training(m);
}
