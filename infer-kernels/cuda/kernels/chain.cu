// Chains of elementwise functions as one launch: every element of a common space goes through a short program.
//
// The program is the same for all, so that reading it diverges nowhere, and each thread computes several elements by a step,
// so that reading it costs little. Values that more than the next step reads lie in slots of shared memory, a column a
// thread, since registers cannot be chosen at run time. All inputs are fetched before the first step: they are one latency.

#include "elements.cuh"

constexpr int INPUTS = 8, OUTPUTS = 4, STEPS = 32, THREADS = 128;

// `cuda::chain::Step`.
struct Step {
    uint8_t operation;
    // A slot, or none; the number of the output where the step stores.
    uint8_t result;
    // Slots, or one of the below.
    uint8_t operands[3];
    uint8_t reserved[3];
    float alpha, beta;
};

// What else an operand is: what the step before made, or a constant of the step.
constexpr int LAST = 253, ALPHA = 254;  // and 255: beta
// No slot.
constexpr int NOWHERE = 255;
// Operations beside those of `cuda::ElementOp`.
constexpr int TRUTH = 22, ROUND_TF32 = 23, STORE = 24, ACTIVATIONS = 64;

// `cuda::Chain` behind its operands.
struct Chain {
    const void* inputs[INPUTS];
    void* outputs[OUTPUTS];
    unsigned* counters;

    int32_t extents[AXES];
    int32_t strides[INPUTS][AXES];
    int32_t out_strides[OUTPUTS][AXES];
    int32_t offsets[INPUTS];
    int32_t out_offsets[OUTPUTS];
    int32_t types[INPUTS];
    int32_t out_types[OUTPUTS];
    int32_t elements, input_count, output_count, step_count, slots, reserved;
    Step steps[STEPS];
};

namespace {

// The column of a thread in the slots, N numbers high.
template <int N>
struct Slots {
    float4* column;

    __device__ __forceinline__ void read(int slot, float (&v)[N]) const {
#pragma unroll
        for (int i = 0; i < N / 4; ++i) {
            const float4 four = column[(slot * (N / 4) + i) * THREADS];
            v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
        }
    }

    __device__ __forceinline__ void write(int slot, const float (&v)[N]) const {
#pragma unroll
        for (int i = 0; i < N / 4; ++i)
            column[(slot * (N / 4) + i) * THREADS] = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    }
};

template <int N>
__device__ __forceinline__ void fetch(int operand, const Step& step, const float (&last)[N], const Slots<N>& slots,
                                      float (&v)[N]) {
    if (operand < LAST) {
        slots.read(operand, v);
        return;
    }
    const float constant = operand == ALPHA ? step.alpha : step.beta;
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = operand == LAST ? last[i] : constant;
}

// Runs the program; `store` writes a value to an output.
template <int N, typename Store>
__device__ __forceinline__ void run(const Chain& p, const Slots<N>& slots, const Store& store) {
    float last[N] = {};
    for (int i = 0; i < p.step_count; ++i) {
        const Step& step = p.steps[i];
        float a[N], b[N] = {}, c[N] = {};
        fetch(step.operands[0], step, last, slots, a);
        // Those of two and three operands.
        if (step.operation < TRUTH) fetch(step.operands[1], step, last, slots, b);
        if (step.operation == 13) fetch(step.operands[2], step, last, slots, c);
        if (step.operation == STORE) {
            store(step.result, a);
        } else if (step.operation >= ACTIVATIONS) {
            activate(a, Activation{uint32_t(step.operation - ACTIVATIONS), step.alpha, step.beta, 0});
        } else if (step.operation == TRUTH) {
#pragma unroll
            for (int l = 0; l < N; ++l) a[l] = float(a[l] != 0.0f);
        } else if (step.operation == ROUND_TF32) {
#pragma unroll
            for (int l = 0; l < N; ++l) a[l] = round_tf32(a[l]);
        } else {
            apply(step.operation, step.alpha, step.beta, a, b, c);
        }
#pragma unroll
        for (int l = 0; l < N; ++l) last[l] = a[l];
        if (step.operation != STORE && step.result != NOWHERE) slots.write(step.result, a);
    }
}

// The coordinates of an element.
struct Place {
    int coordinates[AXES];

    __device__ __forceinline__ Place(const Chain& p, int index) {
#pragma unroll
        for (int axis = AXES - 1; axis >= 0; --axis) {
            coordinates[axis] = 0;
            if (p.extents[axis] == 1) continue;
            coordinates[axis] = index % p.extents[axis];
            index /= p.extents[axis];
        }
    }

    __device__ __forceinline__ int walk(int at, const int32_t (&strides)[AXES]) const {
#pragma unroll
        for (int axis = 0; axis < AXES; ++axis) at += coordinates[axis] * strides[axis];
        return at;
    }
};

}  // namespace

// Four elements a thread, wherever they lie.
extern "C" __global__ void __launch_bounds__(THREADS) chain(const __grid_constant__ Chain p) {
    constexpr int N = 4;
    extern __shared__ float4 shared[];
    const Slots<N> slots{shared + threadIdx.x};
    let_consumers_start();
    wait_for_producers();
    const int first = blockIdx.x * (THREADS * N) + threadIdx.x;
    if (first >= p.elements) return;
    // Elements beyond the last are computed as the last, and not stored.
    const auto place = [&](int i) { return Place(p, min(first + i * THREADS, p.elements - 1)); };
    const Place places[N] = {place(0), place(1), place(2), place(3)};
    float v[INPUTS][N];
#pragma unroll
    for (int k = 0; k < INPUTS; ++k) {
        if (k >= p.input_count) continue;
#pragma unroll
        for (int i = 0; i < N; ++i)
            v[k][i] = load_float(p.inputs[k], p.types[k], places[i].walk(p.offsets[k], p.strides[k]));
    }
#pragma unroll
    for (int k = 0; k < INPUTS; ++k)
        if (k < p.input_count) slots.write(k, v[k]);
    run(p, slots, [&](int output, const float (&v)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (first + i * THREADS >= p.elements) continue;
            const int at = places[i].walk(p.out_offsets[output], p.out_strides[output]);
            store_float(p.outputs[output], p.out_types[output], at, v[i]);
        }
    });
}

namespace {

// Eight neighbours as they lie in memory, or the one that stands for all.
struct Raw {
    uint4 bits[2];

    __device__ __forceinline__ void load(const void* from, int type, int at, bool one) {
        const unsigned char* bytes = static_cast<const unsigned char*>(from);
        if (type == BOOL) {
            if (one) {
                bits[0].x = bytes[at];
            } else {
                const uint2 eight = *reinterpret_cast<const uint2*>(bytes + at);
                bits[0].x = eight.x, bits[0].y = eight.y;
            }
        } else if (type == F32 || type == I32) {
            const unsigned char* place = bytes + int64_t(at) * 4;
            if (one) {
                bits[0].x = *reinterpret_cast<const uint32_t*>(place);
            } else {
                bits[0] = reinterpret_cast<const uint4*>(place)[0];
                bits[1] = reinterpret_cast<const uint4*>(place)[1];
            }
        } else {
            const unsigned char* place = bytes + int64_t(at) * 2;
            if (one) {
                bits[0].x = *reinterpret_cast<const uint16_t*>(place);
            } else {
                bits[0] = *reinterpret_cast<const uint4*>(place);
            }
        }
    }

    __device__ __forceinline__ void widen(int type, bool one, float (&v)[8]) const {
        const uint32_t words[8] = {bits[0].x, bits[0].y, bits[0].z, bits[0].w, bits[1].x, bits[1].y, bits[1].z, bits[1].w};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            // The word that the element lies in, and how far up.
            const uint32_t whole = one ? words[0] : words[i];
            const uint32_t half_word = one ? words[0] : words[i / 2] >> (i % 2 * 16);
            const uint32_t byte = one ? words[0] : words[i / 4] >> (i % 4 * 8);
            switch (type) {
                case F16: v[i] = __half2float(__ushort_as_half(uint16_t(half_word))); break;
                case BF16: v[i] = __uint_as_float(half_word << 16); break;
                case BOOL: v[i] = (byte & 0xff) ? 1.0f : 0.0f; break;
                case I32: v[i] = float(int(whole)); break;
                default: v[i] = __uint_as_float(whole); break;
            }
        }
    }
};

__device__ __forceinline__ void store_eight(void* to, int type, int at, const float (&v)[8]) {
    float near[8];
    switch (type) {
        case F16:
#pragma unroll
            for (int i = 0; i < 8; ++i) near[i] = float(narrow<half>(v[i]));
            store8(static_cast<half*>(to) + at, near);
            break;
        case BF16:
#pragma unroll
            for (int i = 0; i < 8; ++i) near[i] = float(narrow<bf16>(v[i]));
            store8(static_cast<bf16*>(to) + at, near);
            break;
        case F32: store8(static_cast<float*>(to) + at, v); break;
        default:
#pragma unroll
            for (int i = 0; i < 8; ++i) store_float(to, type, at + i, v[i]);
            break;
    }
}

}  // namespace

// Eight neighbours along the last axis a thread: every operand has them in a row, or one for all.
extern "C" __global__ void __launch_bounds__(THREADS) chain8(const __grid_constant__ Chain p) {
    constexpr int N = 8;
    extern __shared__ float4 shared[];
    const Slots<N> slots{shared + threadIdx.x};
    let_consumers_start();
    wait_for_producers();
    const int first = (blockIdx.x * THREADS + threadIdx.x) * N;
    if (first >= p.elements) return;
    const Place place(p, first);
    Raw raw[INPUTS];
#pragma unroll
    for (int k = 0; k < INPUTS; ++k)
        if (k < p.input_count)
            raw[k].load(p.inputs[k], p.types[k], place.walk(p.offsets[k], p.strides[k]), p.strides[k][AXES - 1] == 0);
#pragma unroll
    for (int k = 0; k < INPUTS; ++k) {
        if (k >= p.input_count) continue;
        float v[N];
        raw[k].widen(p.types[k], p.strides[k][AXES - 1] == 0, v);
        slots.write(k, v);
    }
    run(p, slots, [&](int output, const float (&v)[N]) {
        store_eight(p.outputs[output], p.out_types[output], place.walk(p.out_offsets[output], p.out_strides[output]), v);
    });
}
