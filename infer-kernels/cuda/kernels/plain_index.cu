// Row-major tensors whose elements are placed by others: scattered, sampled, pooled by regions, ranked.

#include "plain.cuh"

namespace {

template <typename T>
__device__ __forceinline__ T& element(const void* base, int64_t at) {
    return static_cast<T*>(const_cast<void*>(base))[at];
}

// Index `at`, counted from the beginning of an axis; −1 where it is outside.
__device__ __forceinline__ int64_t resolved(const void* indices, uint64_t bytes, int64_t at, uint64_t length) {
    int64_t index = bytes == 4 ? int64_t(element<int>(indices, at)) : element<int64_t>(indices, at);
    if (index < 0) index += int64_t(length);
    return index >= 0 && index < int64_t(length) ? index : -1;
}

// What an update does: by number 0, add, mul, max, min. Integers wrap; NaN is the greatest and the least.
struct Replace {
    template <typename T>
    __device__ __forceinline__ T operator()(T, T v) const { return v; }
};

struct Combine {
    uint32_t operation;

    template <typename T>
    __device__ __forceinline__ T operator()(T old, T v) const {
        constexpr bool IS_FLOAT = T(0.5f) != T(0);
        switch (operation) {
            case 1:
                if constexpr (IS_FLOAT) return old + v;
                return T((unsigned long long)old + (unsigned long long)v);
            case 2:
                if constexpr (IS_FLOAT) return old * v;
                return T((unsigned long long)old * (unsigned long long)v);
            case 3: return old != old || old >= v ? old : v;
            default: return old != old || old <= v ? old : v;
        }
    }
};

// Calls `body`, a template of the element's type, with what updates do by the code.
template <typename Body>
__device__ __forceinline__ void by_code(const Code& code, Body body) {
    if (code.operation == 0) {
        switch (code.from) {
            case 1: body(uint8_t(), Replace()); break;
            case 2: body(uint16_t(), Replace()); break;
            case 4: body(uint32_t(), Replace()); break;
            case 8: body((unsigned long long)(0), Replace()); break;
            default: body(ulonglong2(), Replace()); break;
        }
        return;
    }
    const Combine combine{code.operation};
    switch (code.from) {
        case F32: body(float(), combine); break;
        case F64: body(double(), combine); break;
        case I32: body(int(), combine); break;
        case I64: body((long long)(0), combine); break;
        default: body((unsigned long long)(0), combine); break;
    }
}

}  // namespace

// `call::ScatterElements` behind its operands.
struct ScatterElements {
    const void* data;
    const void* indices;
    const void* updates;
    void* output;
    unsigned* counters;
    uint64_t rank, dims[RANK], index_dims[RANK], axis, index_bytes;
    Code code;
};

// A column along the axis is shared by `groups` threads, each of which has every so many-th element: it copies them and
// walks all updates of the column, in their order, for those that are of its elements.
PLAIN(plain_scatter_elements, ScatterElements) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const int rank = int(p.rank), axis = int(p.axis);
    const unsigned length = unsigned(p.dims[axis]);
    unsigned columns = 1;
    for (int other = 0; other < rank; ++other) columns *= other == axis ? 1 : unsigned(p.dims[other]);
    const unsigned groups = p.code.items / columns, group = number / columns;
    unsigned rest = number % columns;

    int64_t target = 0, source = 0, stride = 1, index_stride = 1, to = 1, from = 1;
    bool is_inside = true;
    for (int other = rank - 1; other >= 0; --other) {
        if (other == axis) {
            to = stride;
            from = index_stride;
        } else {
            const unsigned at = take(rest, p.dims[other]);
            is_inside = is_inside && at < p.index_dims[other];
            target += at * stride;
            source += at * index_stride;
        }
        stride *= int64_t(p.dims[other]);
        index_stride *= int64_t(p.index_dims[other]);
    }
    const unsigned updates = is_inside ? unsigned(p.index_dims[axis]) : 0;
    by_code(p.code, [&](auto sample, auto combine) {
        using T = decltype(sample);
        for (unsigned place = group; place < length; place += groups) {
            const int64_t at = target + place * to;
            element<T>(p.output, at) = element<T>(p.data, at);
        }
        for (unsigned i = 0; i < updates; ++i) {
            const int64_t at = source + i * from;
            const int64_t place = resolved(p.indices, p.index_bytes, at, length);
            if (place < 0) {
                p.counters[FAILURE] = 1;
                return;
            }
            if (unsigned(place) % groups != group) continue;
            T& slot = element<T>(p.output, target + place * to);
            slot = combine(slot, element<T>(p.updates, at));
        }
    });
}

// `call::ScatterNd` behind its operands.
struct ScatterNd {
    const void* data;
    const void* indices;
    const void* updates;
    void* output;
    unsigned* counters;
    uint64_t depth, dims[RANK], slice, rows, index_bytes;
    Code code;
};

// A thread has one element of every `groups`-th slice: it copies them and walks all rows, in their order, for those that
// name one of its slices.
PLAIN(plain_scatter_nd, ScatterNd) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    const int depth = int(p.depth);
    const unsigned slice = unsigned(p.slice), rows = unsigned(p.rows);
    const unsigned groups = p.code.items / slice, group = number / slice, own = number % slice;
    unsigned slices = 1;
    for (int axis = 0; axis < depth; ++axis) slices *= unsigned(p.dims[axis]);
    by_code(p.code, [&](auto sample, auto combine) {
        using T = decltype(sample);
        for (unsigned place = group; place < slices; place += groups) {
            const int64_t at = int64_t(place) * slice + own;
            element<T>(p.output, at) = element<T>(p.data, at);
        }
        for (unsigned row = 0; row < rows; ++row) {
            unsigned place = 0;
            for (int axis = 0; axis < depth; ++axis) {
                const int64_t index = resolved(p.indices, p.index_bytes, int64_t(row) * depth + axis, p.dims[axis]);
                if (index < 0) {
                    p.counters[FAILURE] = 1;
                    return;
                }
                place = place * unsigned(p.dims[axis]) + unsigned(index);
            }
            if (place % groups != group) continue;
            T& slot = element<T>(p.output, int64_t(place) * slice + own);
            slot = combine(slot, element<T>(p.updates, int64_t(row) * slice + own));
        }
    });
}

// `call::GridSample` behind its operands.
constexpr int AXES = 5;
struct GridSample {
    const void* input;
    const void* grid;
    void* output;
    unsigned* counters;
    uint64_t n, channels, rank, dims[AXES], points, mode, padding, align_corners, grid_bytes;
    Code code;
};

namespace {

// Coordinates, rounded to f32 after each operation where the grid is of f32. What rounds is not contracted.
struct Coordinates {
    bool is_wide;

    __device__ __forceinline__ double rounded(double v) const { return is_wide ? v : double(float(v)); }
    __device__ __forceinline__ double add(double a, double b) const { return rounded(__dadd_rn(a, b)); }
    __device__ __forceinline__ double mul(double a, double b) const { return rounded(__dmul_rn(a, b)); }
    __device__ __forceinline__ double div(double a, double b) const { return rounded(__ddiv_rn(a, b)); }

    // `x`, turned back at both ends until it is between them.
    __device__ __forceinline__ double reflected(double x, double low, double high) const {
        const double range = high - low;
        const double beyond = x < low ? low - x : x > high ? x - high : 0.0;
        if (!(x < low) && !(x > high)) return x;
        if (range <= 0.0 || !isfinite(beyond)) return 0.0;
        const double turns = trunc(div(beyond, range));
        const double rest = add(beyond, -mul(turns, range));
        const bool from_low = (x < low) == (fmod(turns, 2.0) == 0.0);
        return from_low ? add(low, rest) : add(high, -rest);
    }
};

// The elements that a place reads along one axis, −1 for none, and their weights.
struct Taps {
    int index[4];
    double weight[4];
};

__device__ __forceinline__ int tap_at(double index, double extent, double low, double high, uint64_t padding) {
    const double last = extent - 1.0;
    if (padding == 0 && (index < 0.0 || index > last)) return -1;
    if (padding == 2) index = trunc(Coordinates{true}.reflected(index, low, high));
    // NaN becomes zero.
    return int(fmin(fmax(index, 0.0), last));
}

__device__ __forceinline__ double near_weight(double d) {
    const double a = -0.75;
    return ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
}

__device__ __forceinline__ double far_weight(double d) {
    const double a = -0.75;
    return ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
}

__device__ __forceinline__ Taps taps_along(const GridSample& p, double extent, double n) {
    const Coordinates c{p.grid_bytes == 8};
    const bool corners = p.align_corners == 1;
    const double low = corners ? 0.0 : -0.5, high = extent + (corners ? -1.0 : -0.5);
    double x = c.add(n, 1.0);
    x = corners ? c.mul(c.div(x, 2.0), extent - 1.0) : c.div(c.add(c.mul(x, extent), -1.0), 2.0);
    // Somewhere outside.
    if (x != x) x = -2.0;
    if (p.mode == 0) x = rint(x);
    if (x < low || x > high) {
        if (p.padding == 1) {
            // Of four elements those outside become the outermost one, but their weights stay.
            if (p.mode < 2 || !isfinite(x)) x = fmin(fmax(x, 0.0), extent - 1.0);
        } else if (p.padding == 2) {
            x = c.reflected(x, low, high);
        }
    }
    Taps taps = {{-1, -1, -1, -1}, {0.0, 0.0, 0.0, 0.0}};
    const double whole = floor(x), part = x - whole;
    const auto at = [&](double index) { return tap_at(index, extent, low, high, p.padding); };
    if (p.mode == 0) {
        taps.index[0] = at(trunc(x));
        taps.weight[0] = 1.0;
    } else if (!isfinite(x)) {
        // What is infinitely far reads nothing, rather than nothing times an infinite weight.
        taps.index[0] = at(x);
    } else if (p.mode == 1) {
        taps.index[0] = at(whole);
        taps.index[1] = at(whole + 1.0);
        taps.weight[0] = 1.0 - part;
        taps.weight[1] = part;
    } else {
        for (int i = 0; i < 4; ++i) taps.index[i] = at(whole + (i - 1));
        taps.weight[0] = far_weight(part + 1.0);
        taps.weight[1] = near_weight(part);
        taps.weight[2] = near_weight(1.0 - part);
        taps.weight[3] = far_weight(2.0 - part);
    }
    return taps;
}

// `plain::work::SAMPLED_TOGETHER`.
constexpr int SAMPLED_TOGETHER = 8;

// A thread reads some channels at one place.
template <typename T>
__device__ __forceinline__ void grid_sample(const GridSample& p) {
    unsigned rest = item();
    if (rest >= p.code.items) return;
    const int rank = int(p.rank);
    const unsigned point = take(rest, p.points);
    const unsigned first = take(rest, (p.channels + SAMPLED_TOGETHER - 1) / SAMPLED_TOGETHER) * SAMPLED_TOGETHER;
    const unsigned image = rest, channels = unsigned(p.channels);
    const int count = channels - first < SAMPLED_TOGETHER ? int(channels - first) : SAMPLED_TOGETHER;
    int64_t elements = 1;
    for (int axis = 0; axis < rank; ++axis) elements *= int64_t(p.dims[axis]);
    const int64_t plane = int64_t(image) * channels + first;
    const T* input = static_cast<const T*>(p.input) + plane * elements;

    double sums[SAMPLED_TOGETHER];
    for (int i = 0; i < SAMPLED_TOGETHER; ++i) sums[i] = 0.0;
    bool is_first = true;
    if (elements > 0) {
        Taps taps[AXES];
        for (int axis = 0; axis < rank; ++axis) {
            const int64_t at = (int64_t(image) * p.points + point) * rank + rank - 1 - axis;
            const double n = p.grid_bytes == 4 ? double(element<float>(p.grid, at)) : element<double>(p.grid, at);
            taps[axis] = taps_along(p, double(p.dims[axis]), n);
        }
        // The numbers of the taps along the axes are the digits of `number`.
        const int bits = int(p.mode);
        for (int number = 0; number < 1 << (bits * rank); ++number) {
            int64_t at = 0;
            double weight = 1.0;
            bool is_inside = true;
            for (int axis = 0; axis < rank; ++axis) {
                const int tap = number >> (bits * (rank - 1 - axis)) & ((1 << bits) - 1);
                is_inside = is_inside && taps[axis].index[tap] >= 0;
                at = at * int64_t(p.dims[axis]) + taps[axis].index[tap];
                weight *= taps[axis].weight[tap];
            }
            if (!is_inside) continue;
            for (int i = 0; i < count; ++i) {
                const double term = double(input[i * elements + at]) * weight;
                sums[i] = is_first ? term : sums[i] + term;
            }
            is_first = false;
        }
    }
    for (int i = 0; i < count; ++i) static_cast<T*>(p.output)[(plane + i) * p.points + point] = T(sums[i]);
}

}  // namespace

PLAIN(plain_grid_sample, GridSample) {
    if (p.code.from == F64) {
        grid_sample<double>(p);
    } else {
        grid_sample<float>(p);
    }
}

// `call::TopK` behind its operands.
struct TopK {
    const void* input;
    void* values;
    long long* indices;
    unsigned* counters;
    uint64_t outer, axis, inner, k, smallest;
    Code code;
};

namespace {

// A thread counts what goes before its element, and so knows where the element goes.
template <typename T>
__device__ __forceinline__ void top_k(const TopK& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned column = take(rest, p.inner), own = take(rest, p.axis), axis = unsigned(p.axis);
    const T* row = static_cast<const T*>(p.input) + int64_t(rest) * p.axis * p.inner + column;
    const T x = row[own * p.inner];
    const bool no_x = x != x, smallest = p.smallest == 1;
    uint64_t rank = 0;
#pragma unroll 4
    for (unsigned other = 0; other < axis; ++other) {
        const T y = row[other * p.inner];
        const bool no_y = y != y;
        const bool greater = y > x || (no_y && !no_x), smaller = y < x || (no_x && !no_y);
        const bool first = smallest ? smaller : greater, second = smallest ? greater : smaller;
        rank += first || (!second && other < own);
    }
    if (rank >= p.k) return;
    const int64_t to = (int64_t(rest) * p.k + rank) * p.inner + column;
    static_cast<T*>(p.values)[to] = x;
    p.indices[to] = own;
}

}  // namespace

PLAIN(plain_top_k, TopK) {
    switch (p.code.from) {
        case F32: top_k<float>(p); break;
        case F64: top_k<double>(p); break;
        case I32: top_k<int>(p); break;
        case I64: top_k<long long>(p); break;
        default: top_k<unsigned long long>(p); break;
    }
}

// `call::RoiAlign` behind its operands.
struct RoiAlign {
    const void* input;
    const void* regions;
    const void* images;
    void* output;
    unsigned* counters;
    uint64_t n, channels, in_h, in_w, count, out_h, out_w, sampling_ratio, max, half_pixel, index_bytes;
    float spatial_scale;
    uint32_t reserved;
    Code code;
};

namespace {

// `call::RegionAxis`: how a region lies along one axis of its image.
struct RegionAxis {
    Coordinates c;
    double start, bin, extent;
    long long each;

    // False where it takes too many samples.
    __device__ __forceinline__ bool set(const RoiAlign& p, double from, double to, uint64_t length, uint64_t bins) {
        const double scale = double(p.spatial_scale), offset = p.half_pixel == 1 ? 0.5 : 0.0;
        extent = double(length);
        start = c.add(c.mul(from, scale), -offset);
        double size = c.add(c.add(c.mul(to, scale), -offset), -start);
        // Regions without extent count as one element.
        if (p.half_pixel != 1) size = fmax(size, 1.0);
        bin = c.div(size, double(bins));
        if (!isfinite(bin)) return false;
        const double samples = p.sampling_ratio ? double(p.sampling_ratio) : fmax(ceil(bin), 0.0);
        if (samples * double(bins) > double(1 << 20)) return false;
        each = (long long)samples;
        return true;
    }

    // The two elements of sample `index` of bin `number` and the weight of the second; false outside of the image.
    __device__ __forceinline__ bool sample(unsigned number, long long index, int& low, int& high, double& weight) const {
        const double within = c.div(c.mul(double(index) + 0.5, bin), double(each));
        double x = c.add(c.add(start, c.mul(double(number), bin)), within);
        if (x < -1.0 || x > extent || extent == 0.0) return false;
        x = fmax(x, 0.0);
        const int last = int(extent) - 1;
        low = int(x);
        if (low >= last) {
            low = high = last;
            weight = 0.0;
        } else {
            high = low + 1;
            weight = x - low;
        }
        return true;
    }
};

// A thread pools a bin.
template <typename T>
__device__ __forceinline__ void roi_align(const RoiAlign& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned x = take(rest, p.out_w), y = take(rest, p.out_h), channel = take(rest, p.channels);
    const int64_t image = p.index_bytes == 4 ? int64_t(element<int>(p.images, rest)) : element<int64_t>(p.images, rest);
    const T* edges = static_cast<const T*>(p.regions) + int64_t(rest) * 4;
    const bool is_wide = sizeof(T) == 8;
    RegionAxis rows{Coordinates{is_wide}}, columns{Coordinates{is_wide}};
    const bool fits = image >= 0 && image < int64_t(p.n) &&
                      rows.set(p, double(edges[1]), double(edges[3]), p.in_h, p.out_h) &&
                      columns.set(p, double(edges[0]), double(edges[2]), p.in_w, p.out_w);
    if (!fits) {
        p.counters[FAILURE] = 1;
        return;
    }
    const int64_t width = int64_t(p.in_w);
    const T* plane = static_cast<const T*>(p.input) + (image * int64_t(p.channels) + channel) * int64_t(p.in_h) * width;
    double sum = 0.0, greatest = -CUDART_INF;
    for (long long i = 0; i < rows.each; ++i) {
        int top, bottom, left, right;
        double v, u;
        const bool has_row = rows.sample(y, i, top, bottom, v);
        for (long long j = 0; j < columns.each; ++j) {
            // A sample outside is zero.
            if (!has_row || !columns.sample(x, j, left, right, u)) {
                greatest = fmax(greatest, 0.0);
                continue;
            }
            const double a = (1.0 - v) * (1.0 - u) * double(plane[top * width + left]);
            const double b = (1.0 - v) * u * double(plane[top * width + right]);
            const double c = v * (1.0 - u) * double(plane[bottom * width + left]);
            const double d = v * u * double(plane[bottom * width + right]);
            sum += __dadd_rn(__dadd_rn(__dadd_rn(a, b), c), d);
            greatest = fmax(fmax(greatest, fmax(a, b)), fmax(c, d));
        }
    }
    const long long count = rows.each * columns.each;
    const double pooled = p.max == 1 ? greatest : sum / double(count);
    static_cast<T*>(p.output)[number] = count == 0 ? T(0) : T(pooled);
}

}  // namespace

PLAIN(plain_roi_align, RoiAlign) {
    if (p.code.from == F64) {
        roi_align<double>(p);
    } else {
        roi_align<float>(p);
    }
}

// `call::MaxRoiPool` behind its operands.
struct MaxRoiPool {
    const void* input;
    const void* regions;
    void* output;
    unsigned* counters;
    uint64_t n, channels, in_h, in_w, count, out_h, out_w;
    float spatial_scale;
    uint32_t reserved;
    Code code;
};

namespace {

// The elements of a part of a region, along an axis.
__device__ __forceinline__ void part_of(const Coordinates& c, float scale, double start, double end, uint64_t extent,
                                        unsigned number, uint64_t parts, int& from, int& to) {
    start = round(c.mul(start, double(scale)));
    end = round(c.mul(end, double(scale)));
    const double part = c.div(fmax(end - start + 1.0, 1.0), double(parts)), most = double(extent);
    // NaN becomes zero.
    from = int(fmin(fmax(floor(c.mul(double(number), part)) + start, 0.0), most));
    to = int(fmin(fmax(ceil(c.mul(double(number + 1), part)) + start, 0.0), most));
}

// A thread pools a part.
template <typename T>
__device__ __forceinline__ void max_roi_pool(const MaxRoiPool& p) {
    const unsigned number = item();
    if (number >= p.code.items) return;
    unsigned rest = number;
    const unsigned x = take(rest, p.out_w), y = take(rest, p.out_h), channel = take(rest, p.channels);
    const T* region = static_cast<const T*>(p.regions) + int64_t(rest) * 5;
    const double image = double(region[0]);
    if (!(image >= 0.0 && image < double(p.n))) {
        p.counters[FAILURE] = 1;
        return;
    }
    const Coordinates c{sizeof(T) == 8};
    int top, bottom, left, right;
    part_of(c, p.spatial_scale, double(region[2]), double(region[4]), p.in_h, y, p.out_h, top, bottom);
    part_of(c, p.spatial_scale, double(region[1]), double(region[3]), p.in_w, x, p.out_w, left, right);
    const int64_t width = int64_t(p.in_w);
    const T* plane = static_cast<const T*>(p.input) + (int64_t(image) * int64_t(p.channels) + channel) * int64_t(p.in_h) * width;
    bool is_first = true;
    T greatest = T(0);
    for (int row = top; row < bottom; ++row) {
        for (int column = left; column < right; ++column) {
            const T v = plane[row * width + column];
            // NaN is passed over.
            greatest = is_first || v > greatest || greatest != greatest ? v : greatest;
            is_first = false;
        }
    }
    static_cast<T*>(p.output)[number] = greatest;
}

}  // namespace

PLAIN(plain_max_roi_pool, MaxRoiPool) {
    if (p.code.from == F64) {
        max_roi_pool<double>(p);
    } else {
        max_roi_pool<float>(p);
    }
}

// `call::NonMaxSuppression` behind its operands.
struct NonMaxSuppression {
    const float* boxes;
    const float* scores;
    long long* counts;
    long long* selected;
    long long* work;
    unsigned* counters;
    uint64_t batches, classes, count, most, center_point_box, has_score_threshold;
    float score_threshold, iou_threshold;
    Code code;
};

namespace {

// A box by its least and greatest coordinates. What is compared is not contracted.
struct Corners {
    float x0, x1, y0, y1;

    Corners() = default;

    __device__ __forceinline__ Corners(const NonMaxSuppression& p, const float* given) {
        if (p.center_point_box == 1) {
            x0 = given[0] - given[2] / 2.0f, x1 = given[0] + given[2] / 2.0f;
            y0 = given[1] - given[3] / 2.0f, y1 = given[1] + given[3] / 2.0f;
        } else {
            y0 = fminf(given[0], given[2]), y1 = fmaxf(given[0], given[2]);
            x0 = fminf(given[1], given[3]), x1 = fmaxf(given[1], given[3]);
        }
    }

    __device__ __forceinline__ float area() const { return __fmul_rn(x1 - x0, y1 - y0); }

    __device__ __forceinline__ bool overlaps(const Corners& other, float threshold) const {
        const float width = fminf(x1, other.x1) - fmaxf(x0, other.x0);
        const float height = fminf(y1, other.y1) - fmaxf(y0, other.y0);
        if (width <= 0.0f || height <= 0.0f) return false;
        const float common = __fmul_rn(width, height);
        const float together = __fsub_rn(__fadd_rn(area(), other.area()), common);
        return area() > 0.0f && other.area() > 0.0f && together > 0.0f && __fdiv_rn(common, together) > threshold;
    }
};

// A box and its score as a number by which boxes are put in order: the higher score first, NaN before all, of equal ones the
// first.
__device__ __forceinline__ unsigned long long place(float score, unsigned index) {
    const unsigned bits = __float_as_uint(score + 0.0f);
    const unsigned ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<unsigned long long>(score != score ? 0 : ~ascending) << 32 | index;
}

// Batcher's odd-even mergesort of COUNT numbers, by all threads of a block.
__device__ __forceinline__ void sort(unsigned long long* numbers, unsigned count, const Team& team) {
    for (unsigned run = 1; run < count; run *= 2) {
        for (unsigned apart = run; apart > 0; apart /= 2) {
            for (unsigned pair = team.lane; pair < count; pair += LANES) {
                const unsigned first = pair / apart * 2 * apart + pair % apart + apart % run, second = first + apart;
                if (second >= count) break;
                if (first / (2 * run) != second / (2 * run)) continue;
                const unsigned long long a = numbers[first], b = numbers[second];
                if (a > b) numbers[first] = b, numbers[second] = a;
            }
            __syncthreads();
        }
    }
}

}  // namespace

// A block has a class, whose boxes that pass it puts in order. A turn takes a box for each thread, which compares it with those
// selected before; then box by box, who is free is selected, and those after it that overlap it are not.
PLAIN(plain_non_max_suppression, NonMaxSuppression) {
    const Team team(LANES);
    const unsigned count = unsigned(p.count), lane = team.lane;
    const int64_t most = int64_t(p.most);
    const float* boxes = p.boxes + int64_t(team.item / unsigned(p.classes)) * count * 4;
    const float* scores = p.scores + int64_t(team.item) * count;
    long long* selected = p.selected + int64_t(team.item) * most;
    auto* order = reinterpret_cast<unsigned long long*>(p.work) + int64_t(team.item) * count;
    // The corners of those selected lie behind what is put in order.
    const int64_t all = int64_t(p.batches * p.classes);
    auto* corners = reinterpret_cast<float2*>(p.work + all * count) + int64_t(team.item) * ((most + 15) / 16) * 32;

    __shared__ unsigned passing;
    __shared__ Corners others[LANES];
    if (lane == 0) passing = 0;
    __syncthreads();
    for (unsigned index = lane; index < count; index += LANES) {
        const float score = scores[index];
        if (!p.has_score_threshold || score > p.score_threshold) order[atomicAdd(&passing, 1u)] = place(score, index);
    }
    __syncthreads();
    const unsigned candidates = passing;
    sort(order, candidates, team);

    int64_t kept = 0;
    for (unsigned first = 0; first < candidates && kept < most; first += LANES) {
        const unsigned turn = min(candidates - first, unsigned(LANES));
        const unsigned candidate = unsigned(order[first + min(lane, turn - 1)]);
        const Corners own(p, boxes + int64_t(candidate) * 4);
        bool overlaps = false;
        for (int64_t from = 0; from < kept; from += LANES) {
            const int number = int(min(kept - from, int64_t(LANES)));
            if (lane < number) {
                const float2 x = corners[(from + lane) * 2], y = corners[(from + lane) * 2 + 1];
                others[lane].x0 = x.x, others[lane].x1 = x.y, others[lane].y0 = y.x, others[lane].y1 = y.y;
            }
            __syncthreads();
            for (int other = 0; other < number; ++other) overlaps |= own.overlaps(others[other], p.iou_threshold);
            __syncthreads();
        }
        others[lane] = own;
        for (unsigned at = 0; at < turn && kept < most; ++at) {
            if (!__syncthreads_or(lane == at && !overlaps)) continue;
            if (lane == at) {
                selected[kept] = candidate;
                corners[kept * 2] = make_float2(own.x0, own.x1);
                corners[kept * 2 + 1] = make_float2(own.y0, own.y1);
            }
            overlaps |= own.overlaps(others[at], p.iou_threshold);
            ++kept;
        }
        __syncthreads();
    }
    if (lane == 0) p.counts[team.item] = kept;
}
