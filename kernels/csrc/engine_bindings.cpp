// Engine as Python sees it: everything that comes in is checked here.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "engine.h"
#include "engine_profile.h"

namespace nb = nanobind;

namespace adaptive_search {
namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Contiguous = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<nb::numpy, float, nb::ndim<2>>;
using States = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr long long kMaxSize = 1 << 24;  // of any one size; products fit in 64 bits
constexpr int kMaxThreads = 1024;

template <class T>
T config_value(const nb::dict &config, const char *name) {
    if (!config.contains(name)) {
        throw std::invalid_argument(std::string("engine config: ") + name + " is missing");
    }
    T value{};
    if (!nb::try_cast<T>(config[name], value)) {
        throw std::invalid_argument(std::string("engine config: ") + name +
                                    " has the wrong type");
    }
    return value;
}

std::size_t checked_size(long long value, const char *name) {
    if (value < 1 || value > kMaxSize) {
        throw std::invalid_argument(std::string("engine config: ") + name + "=" +
                                    std::to_string(value) + " is out of range");
    }
    return static_cast<std::size_t>(value);
}

std::size_t config_size(const nb::dict &config, const char *name) {
    return checked_size(config_value<long long>(config, name), name);
}

// Widths from the nesting dimensions, lengths from the energy of each prefix.
void read_bands(const nb::dict &config, EngineConfig &result) {
    const auto dims = config_value<std::vector<long long>>(config, "dims");
    const auto energy = config_value<std::vector<double>>(config, "prefix_energy");
    if (dims.empty() || dims.size() != energy.size()) {
        throw std::invalid_argument("engine config: dims and prefix_energy must be as long");
    }
    long long last_dim = 0;
    double last_energy = 0.0;
    for (std::size_t i = 0; i < dims.size(); ++i) {
        if (!(energy[i] > last_energy) || !(energy[i] <= 1.0 + 1e-6)) {
            throw std::invalid_argument("engine config: prefix_energy must rise to 1");
        }
        checked_size(dims[i], "dims");
        result.band_widths.push_back(checked_size(dims[i] - last_dim, "dims"));
        result.band_weights.push_back(static_cast<float>(std::sqrt(energy[i] - last_energy)));
        last_dim = dims[i];
        last_energy = energy[i];
    }
    const auto completed = config_value<long long>(config, "completed_bands");
    const auto most = static_cast<long long>(dims.size()) -
                      static_cast<long long>(EngineConfig::kTrainedBands);
    if (completed != 0 && (completed < 0 || completed > most)) {
        throw std::invalid_argument("engine config: completed_bands must be a number of bands");
    }
    result.completed_bands = static_cast<std::size_t>(completed);
}

EngineConfig read_config(const nb::dict &config) {
    EngineConfig c{};
    c.vocab_size = config_size(config, "vocab_size");
    c.d_model = config_size(config, "d_model");
    c.n_layers = config_size(config, "n_layers");
    c.d_inner = config_size(config, "expand") * c.d_model;
    c.d_mlp = config_size(config, "mlp_expand") * c.d_model;
    c.d_state = config_size(config, "d_state");
    c.d_conv = config_size(config, "d_conv");
    c.headdim = config_size(config, "headdim");
    c.norm_eps = static_cast<float>(config_value<double>(config, "norm_eps"));
    if (c.d_conv > kMaxConv) {
        throw std::invalid_argument("engine config: d_conv must be at most " +
                                    std::to_string(kMaxConv));
    }
    if (c.d_inner % c.headdim != 0) {
        throw std::invalid_argument("engine config: headdim must divide expand * d_model");
    }
    if (!(c.norm_eps > 0.0f)) throw std::invalid_argument("engine config: norm_eps must be > 0");
    const auto direction = config_value<std::string>(config, "direction");
    if (direction != "causal" && direction != "alternating") {
        throw std::invalid_argument("engine config: direction must be causal or alternating");
    }
    c.alternating = direction == "alternating";
    read_bands(config, c);
    return c;
}

template <class T>
Contiguous<T> tensor_of(const nb::handle &value, const std::string &name, const char *type) {
    Contiguous<T> array;
    const bool fits = nb::try_cast<Contiguous<T>>(value, array, false);
    if (!fits || reinterpret_cast<std::uintptr_t>(array.data()) % alignof(T) != 0) {
        throw std::invalid_argument("tensor " + name + " must be a C-contiguous " + type +
                                    " array");
    }
    return array;
}

template <class T>
std::vector<std::size_t> shape_of(const Contiguous<T> &array) {
    std::vector<std::size_t> shape;
    for (std::size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
    return shape;
}

void check_ids(const EngineConfig &c, const Vector<std::int32_t> &ids) {
    for (std::size_t i = 0; i < ids.shape(0); ++i) {
        if (ids(i) < 0 || static_cast<std::size_t>(ids(i)) >= c.vocab_size) {
            throw std::invalid_argument("id " + std::to_string(ids(i)) + " is not in 0.." +
                                        std::to_string(c.vocab_size - 1));
        }
    }
}

void check_heads(const EngineConfig &c, const Vector<std::int32_t> &heads) {
    if (heads.shape(0) != c.n_layers) {
        throw std::invalid_argument("heads must have one value for each of the " +
                                    std::to_string(c.n_layers) + " layers");
    }
    for (std::size_t i = 0; i < heads.shape(0); ++i) {
        const auto active = static_cast<std::size_t>(heads(i));
        if (heads(i) < 1 || active > c.nheads() || c.d_mlp * active % c.nheads() != 0) {
            throw std::invalid_argument("heads=" + std::to_string(heads(i)) +
                                        " is not a width of a model with " +
                                        std::to_string(c.nheads()) + " heads");
        }
    }
}

void check_bands(const EngineConfig &c, int bands) {
    if (bands < 1 || static_cast<std::size_t>(bands) > c.band_widths.size()) {
        throw std::invalid_argument("bands=" + std::to_string(bands) + " must be in 1.." +
                                    std::to_string(c.band_widths.size()));
    }
}

void check_threads(int threads) {
    if (threads < 1 || threads > kMaxThreads) {
        throw std::invalid_argument("threads=" + std::to_string(threads) + " must be in 1.." +
                                    std::to_string(kMaxThreads));
    }
}

// float32 (rows, columns) that numpy owns.
Matrix own(std::unique_ptr<float[]> values, std::size_t rows, std::size_t columns) {
    float *data = values.release();
    const nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<float *>(p); });
    return Matrix(data, {rows, columns}, owner);
}

constexpr const char *kEmbedding = "embedding.weight";
constexpr const char *kScale = ".scale";

// The engine with the embedding that it reads in place.
class PyEngine {
  public:
    PyEngine(const nb::dict &config, const nb::dict &tensors, const std::string &precision) {
        const EngineConfig c = read_config(config);
        Tensors weights;
        Arrays arrays;
        for (const auto &[key, value] : tensors) {
            std::string name;
            if (!nb::try_cast<std::string>(key, name)) {
                throw std::invalid_argument("names of tensors must be text");
            }
            const std::string scale = name + kScale;
            Arrays &kept = name == kEmbedding ? embedding_ : arrays;
            if (tensors.contains(scale.c_str())) {
                weights[name] = read_codes(value, tensors[scale.c_str()], name, kept);
            } else {
                kept.values.push_back(tensor_of<float>(value, name, "float32"));
                const auto &array = kept.values.back();
                weights[name] = {{array.data(), nullptr, nullptr}, shape_of(array)};
            }
        }
        const nb::gil_scoped_release release;
        engine_ = std::make_unique<Engine>(c, weights, precision_named(precision));
    }

    const Engine &engine() const { return *engine_; }

    Matrix encode(const Vector<std::int32_t> &ids, const Vector<std::int64_t> &offsets,
                  const Vector<std::int32_t> &heads, int bands, int threads) const {
        check(ids, offsets, heads, bands, threads);
        const std::size_t texts = offsets.shape(0) - 1;
        const std::size_t dim = engine_->dim(static_cast<std::size_t>(bands));
        auto out = std::make_unique<float[]>(texts * dim);
        {
            const nb::gil_scoped_release release;
            engine_->encode({ids.data(), offsets.data(), texts, heads.data(),
                             static_cast<std::size_t>(bands)},
                            threads, out.get());
        }
        return own(std::move(out), texts, dim);
    }

    // Seconds of processor time by stage, on one thread.
    std::map<std::string, double> profile(const Vector<std::int32_t> &ids,
                                          const Vector<std::int64_t> &offsets,
                                          const Vector<std::int32_t> &heads, int bands) const {
        check(ids, offsets, heads, bands, 1);
        const std::size_t texts = offsets.shape(0) - 1;
        std::vector<float> out(texts * engine_->dim(static_cast<std::size_t>(bands)));
        Profile profile;
        {
            const nb::gil_scoped_release release;
            engine_->encode({ids.data(), offsets.data(), texts, heads.data(),
                             static_cast<std::size_t>(bands)},
                            1, out.data(), &profile);
        }
        std::map<std::string, double> seconds;
        for (std::size_t i = 0; i < kStages.size(); ++i) seconds[kStages[i]] = profile.seconds[i];
        return seconds;
    }

    Matrix project(const States &states, int bands, int threads) const {
        check_bands(engine_->config(), bands);
        check_threads(threads);
        if (states.shape(1) != engine_->config().d_model) {
            throw std::invalid_argument("states must have d_model columns");
        }
        const std::size_t dim = engine_->dim(static_cast<std::size_t>(bands));
        auto out = std::make_unique<float[]>(states.shape(0) * dim);
        {
            const nb::gil_scoped_release release;
            engine_->project(states.data(), states.shape(0), static_cast<std::size_t>(bands),
                             threads, out.get());
        }
        return own(std::move(out), states.shape(0), dim);
    }

  private:
    struct Arrays {
        std::vector<Contiguous<float>> values;
        std::vector<Contiguous<std::int8_t>> codes;
    };

    static Tensor read_codes(const nb::handle &codes, const nb::handle &scales,
                             const std::string &name, Arrays &kept) {
        kept.codes.push_back(tensor_of<std::int8_t>(codes, name, "int8"));
        kept.values.push_back(tensor_of<float>(scales, name + kScale, "float32"));
        const auto &rows = kept.codes.back();
        const auto &row_scales = kept.values.back();
        if (rows.ndim() != 2 || row_scales.ndim() != 1 || row_scales.shape(0) != rows.shape(0)) {
            throw std::invalid_argument("tensor " + name + kScale +
                                        " must have one value for each row of " + name);
        }
        return {{nullptr, rows.data(), row_scales.data()}, shape_of(rows)};
    }

    void check(const Vector<std::int32_t> &ids, const Vector<std::int64_t> &offsets,
               const Vector<std::int32_t> &heads, int bands, int threads) const {
        const EngineConfig &c = engine_->config();
        if (offsets.shape(0) < 1 || offsets(0) != 0 ||
            offsets(offsets.shape(0) - 1) != static_cast<std::int64_t>(ids.shape(0))) {
            throw std::invalid_argument("offsets must go from 0 to the number of ids");
        }
        for (std::size_t i = 1; i < offsets.shape(0); ++i) {
            if (offsets(i) <= offsets(i - 1)) {
                throw std::invalid_argument("offsets must rise: text " + std::to_string(i - 1) +
                                            " has no ids");
            }
        }
        check_ids(c, ids);
        check_heads(c, heads);
        check_bands(c, bands);
        check_threads(threads);
    }

    Arrays embedding_;
    std::unique_ptr<Engine> engine_;
};

// A stream and the engine that it needs. The lock keeps two threads of Python apart.
class PyStream {
  public:
    PyStream(const PyEngine &engine, const Vector<std::int32_t> &heads)
        : engine_(engine.engine()) {
        check_heads(engine_.config(), heads);
        stream_ = std::make_unique<Stream>(
            engine_, std::vector<std::int32_t>(heads.data(), heads.data() + heads.shape(0)));
    }

    void append(const Vector<std::int32_t> &ids) {
        check_ids(engine_.config(), ids);
        const nb::gil_scoped_release release;
        const std::lock_guard<std::mutex> lock(mutex_);
        stream_->append(ids.data(), ids.shape(0));
    }

    Matrix vector(const Vector<std::int32_t> &end, int bands) const {
        check_ids(engine_.config(), end);
        check_bands(engine_.config(), bands);
        if (end.shape(0) < 1) throw std::invalid_argument("end must hold at least one id");
        const std::size_t dim = engine_.dim(static_cast<std::size_t>(bands));
        auto out = std::make_unique<float[]>(dim);
        {
            const nb::gil_scoped_release release;
            const std::lock_guard<std::mutex> lock(mutex_);
            stream_->vector(end.data(), end.shape(0), static_cast<std::size_t>(bands), out.get());
        }
        return own(std::move(out), 1, dim);
    }

  private:
    const Engine &engine_;
    std::unique_ptr<Stream> stream_;
    mutable std::mutex mutex_;
};

}  // namespace
}  // namespace adaptive_search

void bind_engine(nb::module_ &m) {
    using adaptive_search::PyEngine;
    using adaptive_search::PyStream;
    nb::class_<PyEngine>(m, "Engine", "The encoder's forward pass over packed texts.")
        .def(nb::init<nb::dict, nb::dict, std::string>(), nb::arg("config"), nb::arg("tensors"),
             nb::arg("precision") = "fp32")
        .def("encode", &PyEngine::encode, nb::arg("ids").noconvert(),
             nb::arg("offsets").noconvert(), nb::arg("heads").noconvert(), nb::arg("bands"),
             nb::arg("threads"))
        .def("profile", &PyEngine::profile, nb::arg("ids").noconvert(),
             nb::arg("offsets").noconvert(), nb::arg("heads").noconvert(), nb::arg("bands"))
        .def("project", &PyEngine::project, nb::arg("states").noconvert(), nb::arg("bands"),
             nb::arg("threads"));
    nb::class_<PyStream>(m, "Stream", "A text that is read as it comes.")
        .def(nb::init<const PyEngine &, const adaptive_search::Vector<std::int32_t> &>(),
             nb::arg("engine"), nb::arg("heads").noconvert(), nb::keep_alive<1, 2>())
        .def("append", &PyStream::append, nb::arg("ids").noconvert())
        .def("vector", &PyStream::vector, nb::arg("end").noconvert(), nb::arg("bands"));
}
