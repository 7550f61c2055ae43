// Attention: out = softmax(scale · Q · Kᵀ + mask) · V for every position of the leading axes.
//
// Rows of queries, keys, values and results lie where strides say. Keys are walked in tiles; the greatest score so far
// and the sum of exponentials are kept for each row, and what was added before is scaled when the greatest changes.
// Scores, exponentials and sums are f32.

#include <math_constants.h>

#include "common.cuh"
#include "mma.cuh"

constexpr int LEAD = 4;

// `cuda::HeadView`.
struct HeadView {
    int32_t offset;
    int32_t lead[LEAD];
    int32_t row, element;
};

// `cuda::Attention` behind its operands.
struct Attention {
    const void* query;
    const void* key;
    const void* value;
    const void* mask;
    void* output;
    unsigned* counters;

    int32_t lead[LEAD];
    int32_t rows, keys, size, value_size;
    HeadView q, k, v, m, o;
    int32_t causal, causal_offset;
    float scale;
    int32_t steps;
};

namespace {

// The elements that the block's position on the leading axes begins at.
struct Place {
    int64_t q, k, v, m, o;

    __device__ __forceinline__ Place(const Attention& p, int position) {
        q = p.q.offset, k = p.k.offset, v = p.v.offset, m = p.m.offset, o = p.o.offset;
#pragma unroll
        for (int axis = LEAD - 1; axis >= 0; --axis) {
            const int at = position % p.lead[axis];
            position /= p.lead[axis];
            q += int64_t(at) * p.q.lead[axis], k += int64_t(at) * p.k.lead[axis];
            v += int64_t(at) * p.v.lead[axis], m += int64_t(at) * p.m.lead[axis];
            o += int64_t(at) * p.o.lead[axis];
        }
    }
};

template <typename T>
__device__ __forceinline__ uint32_t pack(float a, float b) {
    const Pair<T> pair = Pair<T>::of(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Heads of D elements of f16 or bf16. 16 rows a warp, WM warps of rows and WK of keys, which share a tile of WK·KT keys; the sums of
// those that had different keys are added at the end. `steps` tiles of keys and values, at most two, are in shared
// memory at a time.
template <typename T, int D, int WM, int WK, int KT>
__device__ __forceinline__ void attention(const Attention& p) {
    constexpr int THREADS = WM * WK * 32, TILE = WK * KT, PITCH = D + 8, CHUNKS = D / 8;
    constexpr int TILE_BYTES = TILE * PITCH * 2, STAGE_BYTES = 2 * TILE_BYTES;
    extern __shared__ __align__(128) unsigned char shared[];
    const uint32_t base = shared_address(shared);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int warp_m = warp / WK, warp_k = warp % WK;
    let_consumers_start();
    const Place place(p, blockIdx.y);
    const T* keys = static_cast<const T*>(p.key) + place.k;
    const T* values = static_cast<const T*>(p.value) + place.v;
    const T* mask = p.mask ? static_cast<const T*>(p.mask) + place.m : nullptr;
    const int first = blockIdx.x * (WM * 16) + warp_m * 16 + lane / 4;
    // Causal blocks need no keys beyond those of their last row.
    const int seen = p.causal ? min(p.keys, int(blockIdx.x) * (WM * 16) + WM * 16 + p.causal_offset) : p.keys;
    const int tiles = max((seen + TILE - 1) / TILE, 1);
    wait_for_producers();

    auto load = [&](int tile) {
        const uint32_t to = base + (p.steps > 1 ? tile % 2 : 0) * STAGE_BYTES;
        for (int item = thread; item < TILE * CHUNKS; item += THREADS) {
            const int row = item / CHUNKS, chunk = item % CHUNKS, key = tile * TILE + row;
            const bool inside = key < p.keys;
            const uint32_t slot = to + (row * PITCH + chunk * 8) * 2;
            const int64_t at = inside ? key : 0;
            copy_async(slot, keys + at * p.k.row + chunk * 8, inside);
            copy_async(slot + TILE_BYTES, values + at * p.v.row + chunk * 8, inside);
        }
        commit();
    };
    for (int tile = 0; tile < min(p.steps, tiles); ++tile) load(tile);
    // Whether two neighbours of the mask can be read at once.
    const int odd = p.m.offset | p.m.row | p.keys | p.m.lead[0] | p.m.lead[1] | p.m.lead[2] | p.m.lead[3];
    const bool pairs = p.m.element == 1 && (odd & 1) == 0;

    // The warp's queries as the left operand of the products.
    uint32_t q[D / 16][4];
#pragma unroll
    for (int half_row = 0; half_row < 2; ++half_row) {
        const int row = first + half_row * 8;
        const T* query = static_cast<const T*>(p.query) + place.q + int64_t(row) * p.q.row + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
            q[k][half_row] = row < p.rows ? *reinterpret_cast<const uint32_t*>(query + k * 16) : 0;
            q[k][half_row + 2] = row < p.rows ? *reinterpret_cast<const uint32_t*>(query + k * 16 + 8) : 0;
        }
    }

    float sums[D / 8][4];
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) sums[j][l] = 0.0f;
    float greatest[2] = {-CUDART_INF_F, -CUDART_INF_F}, total[2] = {0.0f, 0.0f};

    for (int tile = 0; tile < tiles; ++tile) {
        if (p.steps > 1 && tile + 1 < tiles) {
            await<1>();
        } else {
            await<0>();
        }
        __syncthreads();
        const uint32_t k_tile = base + (p.steps > 1 ? tile % 2 : 0) * STAGE_BYTES + warp_k * KT * PITCH * 2;
        const uint32_t v_tile = k_tile + TILE_BYTES;

        float scores[KT / 8][4];
#pragma unroll
        for (int j = 0; j < KT / 8; ++j)
#pragma unroll
            for (int l = 0; l < 4; ++l) scores[j][l] = 0.0f;
#pragma unroll
        for (int k = 0; k < D / 16; ++k)
#pragma unroll
            for (int j = 0; j < KT / 16; ++j) {
                uint32_t b[4];
                const int row = j * 16 + lane % 8 + lane / 16 * 8, column = k * 16 + lane / 8 % 2 * 8;
                load_matrices(b, k_tile + (row * PITCH + column) * 2);
                multiply<T>(scores[2 * j], q[k], b[0], b[1]);
                multiply<T>(scores[2 * j + 1], q[k], b[2], b[3]);
            }

        const int key0 = tile * TILE + warp_k * KT + lane % 4 * 2;
#pragma unroll
        for (int half_row = 0; half_row < 2; ++half_row) {
            const int row = first + half_row * 8;
            const int end = row < p.rows ? (p.causal ? min(p.keys, row + p.causal_offset + 1) : p.keys) : 0;
            Pair<T> added[KT / 8];
            if (mask) {
                const T* from = mask + int64_t(row) * p.m.row;
#pragma unroll
                for (int j = 0; j < KT / 8; ++j) {
                    const int key = key0 + j * 8;
                    if (pairs) {
                        added[j] = key < end ? *reinterpret_cast<const Pair<T>*>(from + key) : Pair<T>();
                    } else {
                        added[j].values.x = key < end ? from[int64_t(key) * p.m.element] : T();
                        added[j].values.y = key + 1 < end ? from[int64_t(key + 1) * p.m.element] : T();
                    }
                }
            }
            float most = greatest[half_row];
#pragma unroll
            for (int j = 0; j < KT / 8; ++j)
#pragma unroll
                for (int l = 0; l < 2; ++l) {
                    float& score = scores[j][half_row * 2 + l];
                    score *= p.scale;
                    if (mask) score += float(l == 0 ? added[j].values.x : added[j].values.y);
                    if (key0 + j * 8 + l >= end) score = -CUDART_INF_F;
                    most = fmaxf(most, score);
                }
            most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
            const float zero = most == -CUDART_INF_F ? 0.0f : most;
            const float before = __expf(greatest[half_row] - zero);
            greatest[half_row] = most;
            total[half_row] *= before;
#pragma unroll
            for (int j = 0; j < D / 8; ++j) sums[j][half_row * 2] *= before, sums[j][half_row * 2 + 1] *= before;
#pragma unroll
            for (int j = 0; j < KT / 8; ++j)
#pragma unroll
                for (int l = 0; l < 2; ++l) {
                    float& score = scores[j][half_row * 2 + l];
                    score = __expf(score - zero);
                    total[half_row] += score;
                }
        }

        // The sums of a product lie as its left operand does.
#pragma unroll
        for (int k = 0; k < KT / 16; ++k) {
            const uint32_t a[4] = {
                pack<T>(scores[2 * k][0], scores[2 * k][1]), pack<T>(scores[2 * k][2], scores[2 * k][3]),
                pack<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]), pack<T>(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
            for (int j = 0; j < D / 16; ++j) {
                uint32_t b[4];
                load_transposed(b, v_tile + ((k * 16 + lane % 16) * PITCH + j * 16 + lane / 16 * 8) * 2);
                multiply<T>(sums[2 * j], a, b[0], b[1]);
                multiply<T>(sums[2 * j + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
        if (tile + p.steps < tiles) load(tile + p.steps);
    }
#pragma unroll
    for (int half_row = 0; half_row < 2; ++half_row) {
        total[half_row] += __shfl_xor_sync(0xffffffff, total[half_row], 1);
        total[half_row] += __shfl_xor_sync(0xffffffff, total[half_row], 2);
    }

    T* output = static_cast<T*>(p.output) + place.o;
    if constexpr (WK == 1) {
#pragma unroll
        for (int half_row = 0; half_row < 2; ++half_row) {
            const int row = first + half_row * 8;
            if (row >= p.rows) continue;
            T* to = output + int64_t(row) * p.o.row + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < D / 8; ++j)
                *reinterpret_cast<uint32_t*>(to + j * 8) =
                    pack<T>(sums[j][half_row * 2] / total[half_row], sums[j][half_row * 2 + 1] / total[half_row]);
        }
    } else {
        // [warp][row][D + 2]: sums, then the greatest score and the total.
        constexpr int LD = D + 4;
        float* mine = reinterpret_cast<float*>(shared) + warp * 16 * LD;
#pragma unroll
        for (int half_row = 0; half_row < 2; ++half_row) {
            float* row = mine + (lane / 4 + half_row * 8) * LD;
#pragma unroll
            for (int j = 0; j < D / 8; ++j)
                *reinterpret_cast<float2*>(row + j * 8 + lane % 4 * 2) =
                    make_float2(sums[j][half_row * 2], sums[j][half_row * 2 + 1]);
            if (lane % 4 == 0) row[D] = greatest[half_row], row[D + 1] = total[half_row];
        }
        __syncthreads();
        for (int item = thread; item < WM * 16 * (D / 2); item += THREADS) {
            const int row = item / (D / 2), column = item % (D / 2) * 2;
            const int m = blockIdx.x * (WM * 16) + row;
            if (m >= p.rows) continue;
            const float* parts = reinterpret_cast<const float*>(shared) + (row / 16 * WK * 16 + row % 16) * LD;
            float most = -CUDART_INF_F;
#pragma unroll
            for (int k = 0; k < WK; ++k) most = fmaxf(most, parts[k * 16 * LD + D]);
            const float zero = most == -CUDART_INF_F ? 0.0f : most;
            float a = 0.0f, b = 0.0f, sum = 0.0f;
#pragma unroll
            for (int k = 0; k < WK; ++k) {
                const float* part = parts + k * 16 * LD;
                const float factor = __expf(part[D] - zero);
                a += part[column] * factor, b += part[column + 1] * factor, sum += part[D + 1] * factor;
            }
            *reinterpret_cast<uint32_t*>(output + int64_t(m) * p.o.row + column) = pack<T>(a / sum, b / sum);
        }
    }
}

// Heads of any size up to 256 and any strides: a warp a row, a key a lane.
template <typename T>
__device__ __forceinline__ void attention_any(const Attention& p) {
    constexpr int WARPS = 4, MOST = 256, EACH = MOST / 32;
    __shared__ float queries[WARPS][MOST];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = blockIdx.x * WARPS + warp;
    let_consumers_start();
    const Place place(p, blockIdx.y);
    wait_for_producers();
    if (row >= p.rows) return;
    const T* query = static_cast<const T*>(p.query) + place.q + int64_t(row) * p.q.row;
    const T* keys = static_cast<const T*>(p.key) + place.k;
    const T* values = static_cast<const T*>(p.value) + place.v;
    const T* mask = p.mask ? static_cast<const T*>(p.mask) + place.m + int64_t(row) * p.m.row : nullptr;
    for (int i = lane; i < p.size; i += 32) queries[warp][i] = float(query[int64_t(i) * p.q.element]);
    __syncwarp();
    float sums[EACH] = {}, greatest = -CUDART_INF_F, total = 0.0f;
    const int seen = p.causal ? min(p.keys, row + p.causal_offset + 1) : p.keys;
    for (int first = 0; first < seen; first += 32) {
        const int key = first + lane;
        float score = -CUDART_INF_F;
        if (key < seen) {
            const T* one = keys + int64_t(key) * p.k.row;
            score = 0.0f;
            for (int i = 0; i < p.size; ++i) score += queries[warp][i] * float(one[int64_t(i) * p.k.element]);
            score *= p.scale;
            if (mask) score += float(mask[int64_t(key) * p.m.element]);
        }
        float most = score;
#pragma unroll
        for (int by = 16; by > 0; by /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, by));
        most = fmaxf(most, greatest);
        const float zero = most == -CUDART_INF_F ? 0.0f : most;
        const float before = __expf(greatest - zero);
        greatest = most;
        score = __expf(score - zero);
        float sum = score;
#pragma unroll
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffff, sum, by);
        total = total * before + sum;
#pragma unroll
        for (int i = 0; i < EACH; ++i) sums[i] *= before;
        const int count = min(32, seen - first);
        for (int j = 0; j < count; ++j) {
            const float weight = __shfl_sync(0xffffffff, score, j);
            const T* one = values + int64_t(first + j) * p.v.row;
#pragma unroll
            for (int i = 0; i < EACH; ++i)
                if (lane + i * 32 < p.value_size) sums[i] += weight * float(one[int64_t(lane + i * 32) * p.v.element]);
        }
    }
    T* output = static_cast<T*>(p.output) + place.o + int64_t(row) * p.o.row;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
        if (lane + i * 32 < p.value_size) output[int64_t(lane + i * 32) * p.o.element] = T(sums[i] / total);
}

}  // namespace

#define KERNEL(NAME, ...) \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) NAME(const __grid_constant__ Attention p)

#define HEADS(SUFFIX, T, D)                                                                              \
    KERNEL(attention_##SUFFIX##_##D##_16, 128) { attention<T, D, 1, 4, 32>(p); }                         \
    KERNEL(attention_##SUFFIX##_##D##_64, 128, D == 64 ? 3 : 2) { attention<T, D, 4, 1, 64>(p); }

HEADS(f16, half, 32)
HEADS(f16, half, 64)
HEADS(f16, half, 128)
HEADS(bf16, bf16, 32)
HEADS(bf16, bf16, 64)
HEADS(bf16, bf16, 128)
KERNEL(attention_f16, 128) { attention_any<half>(p); }
KERNEL(attention_bf16, 128) { attention_any<bf16>(p); }
KERNEL(attention_f32, 128) { attention_any<float>(p); }
