// Networks that walk through time, row-major: LSTM, GRU and RNN.
//
// On GPUs with clusters the blocks along the second axis of the grid are one, and walk some sequences of one direction
// together (`Units`). Each block computes the same elements of every state; where a state has at most `MOST_HELD`
// elements, their weights stay in registers through all steps. A finished element is put into the shared
// memory of all blocks, where the next step reads the whole state; a barrier for each of the two places of states counts
// what has arrived. No other wait is needed: a place is written again only by who has the whole state that lies in the
// other one, to which every warp has given its part after it had read all of the first.
//
// Elsewhere, and where a state is too long for that, a block walks a sequence alone (`Sequence`).

#include "cluster.cuh"
#include "plain.cuh"

// `call::Recurrent` behind its operands, of which LSTM has eight, GRU seven and RNN six.
struct Recurrent {
    uint64_t steps, directions, batch, hidden, reverse, linear_before_reset;
    View gates, out, state;
    Activation activation;
    Code code;
};

// `cuda::plain::spread`: how many sequences a cluster walks together where there are many.
constexpr int TOGETHER = 4;

#if __CUDA_ARCH__ >= 900
// The longest state that a cluster walks, the longest whose weights stay in registers, and what states in shared memory
// are padded to a multiple of.
constexpr int MOST_SPREAD = 1024, MOST_HELD = 256, PADDING = 128;
#endif

template <int N>
struct Walk {
    void* operands[N];
    unsigned* counters;
    Recurrent call;

    __device__ __forceinline__ float* operand(int index) const { return static_cast<float*>(operands[index]); }

    // The first state at `at`, where there is one.
    __device__ __forceinline__ float first(int index, int64_t at) const {
        return operands[index] ? operand(index)[at] : 0.0f;
    }

    // How many sequences a cluster walks together, and how many such groups a direction has.
    __device__ __forceinline__ unsigned rows() const {
        return call.code.items < call.directions * call.batch ? TOGETHER : 1;
    }
    __device__ __forceinline__ unsigned groups() const { return (unsigned(call.batch) + rows() - 1) / rows(); }

    // The step that is walked as the `number`th.
    __device__ __forceinline__ unsigned step(unsigned direction, unsigned number) const {
        return direction == 1 || call.reverse == 1 ? unsigned(call.steps) - 1 - number : number;
    }
};

namespace {

__device__ __forceinline__ float sigmoid_of(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float tanh_of(float x) { return 2.0f * sigmoid_of(2.0f * x) - 1.0f; }

// One sequence in one direction, the block's own. Its state lies in shared memory, and behind it the sums of its gates: a
// thread computes every `blockDim.x`th of these, then as many elements of the next state.
template <int N, int GATES>
struct Sequence {
    const Walk<N>& p;
    unsigned direction, row;
    int hidden;
    int64_t state;
    const float* weights;
    float* h;
    float* sums;

    __device__ __forceinline__ Sequence(const Walk<N>& walk, unsigned direction, unsigned row)
        : p(walk), direction(direction), row(row), hidden(int(walk.call.hidden)) {
        extern __shared__ __align__(16) float shared[];
        state = p.call.state.at(0, direction, row, 0);
        const int64_t panels = (hidden + BLOCK - 1) / BLOCK;
        weights = p.operand(1) + direction * GATES * panels * hidden * BLOCK;
        h = shared, sums = shared + hidden;
    }

    // Σ from[k] · R[gate][j][k]
    __device__ __forceinline__ float product(int gate, int j, const float* from) const {
        const int panel = gate * ((hidden + BLOCK - 1) / BLOCK) + j / BLOCK;
        const float* weight = weights + int64_t(panel) * hidden * BLOCK + j % BLOCK;
        float result = 0.0f;
#pragma unroll 8
        for (int k = 0; k < hidden; ++k) result += from[k] * weight[int64_t(k) * BLOCK];
        return result;
    }

    // The products of the first gates with h.
    __device__ __forceinline__ void multiply(int gates) const {
        for (int i = threadIdx.x; i < gates * hidden; i += blockDim.x) sums[i] = product(i / hidden, i % hidden, h);
        __syncthreads();
    }

    // All steps: `next(contributions of the inputs, j)` gives an element of the next h, after `prepare(contributions)`.
    template <typename Prepare, typename Next>
    __device__ __forceinline__ void walk(int output, Prepare prepare, Next next) const {
        for (int j = threadIdx.x; j < hidden; j += blockDim.x) h[j] = p.first(2, state + j);
        __syncthreads();
        for (unsigned number = 0; number < unsigned(p.call.steps); ++number) {
            const unsigned step = p.step(direction, number);
            const float* x = p.operand(0) + p.call.gates.at(step, direction, row, 0);
            prepare(x);
            float* to = p.operands[output] ? p.operand(output) + p.call.out.at(step, direction, row, 0) : nullptr;
            for (int j = threadIdx.x; j < hidden; j += blockDim.x) {
                const float v = next(x, j);
                h[j] = v;
                if (to) to[j] = v;
            }
            __syncthreads();
        }
        for (int j = threadIdx.x; j < hidden; j += blockDim.x) p.operand(output + 1)[state + j] = h[j];
        __syncthreads();
    }
};

// The sequences of this group, which the blocks along the second axis share.
template <int GATES, int N, typename Run>
__device__ __forceinline__ void each_sequence(const Walk<N>& p, Run run) {
    const unsigned direction = blockIdx.x / p.groups(), first = blockIdx.x % p.groups() * p.rows();
    const unsigned end = min(first + p.rows(), unsigned(p.call.batch));
    for (unsigned row = first + blockIdx.y; row < end; row += gridDim.y)
        run(Sequence<N, GATES>(p, direction, row));
}

#if __CUDA_ARCH__ >= 900
// An element of the state of each of ROWS sequences, and its weights for all gates. LANES lanes share it: each multiplies
// every LANESth group of four elements of the states before, and then has the sums of one sequence, its own.
//
// CHUNKS: how many such groups a lane has, all with their weights in registers; 0: weights are read anew for each step.
template <int N, int GATES, int CHUNKS, int LANES, int ROWS>
struct Units {
    static constexpr int HELD = CHUNKS > 0 ? CHUNKS : 1, UNROLLED = CHUNKS > 0 ? CHUNKS : 2;

    const Walk<N>& p;
    int hidden, pitch, lane;
    // The element; where it is beyond the last, the last is computed in its place and not written.
    int unit, real;
    unsigned direction, row;
    bool writes;
    int64_t state;
    const float* weights;
    float* states;
    Arrivals* arrivals;
    float4 held[HELD][GATES];

    __device__ __forceinline__ explicit Units(const Walk<N>& walk)
        : p(walk), hidden(int(walk.call.hidden)), pitch((hidden + PADDING - 1) / PADDING * PADDING),
          lane(threadIdx.x % LANES) {
        extern __shared__ __align__(16) float shared[];
        __shared__ Arrivals barriers[3];
        states = shared, arrivals = barriers;
        unit = int(blockIdx.y) * units() + int(threadIdx.x) / LANES, real = min(unit, hidden - 1);
        direction = blockIdx.x / p.groups();
        const unsigned first = blockIdx.x % p.groups() * ROWS, last = unsigned(p.call.batch) - 1;
        row = min(first + lane % ROWS, last);
        writes = lane < ROWS && first + lane <= last && unit < hidden;
        state = p.call.state.at(0, direction, row, 0);
        const int64_t panels = (hidden + BLOCK - 1) / BLOCK;
        weights = p.operand(1) + (direction * GATES * panels + real / BLOCK) * hidden * BLOCK + real % BLOCK;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i)
#pragma unroll
            for (int gate = 0; gate < GATES; ++gate) held[i][gate] = weight(gate, (i * LANES + lane) * 4);
        for (int i = threadIdx.x; i < ROWS * pitch; i += blockDim.x) {
            const int64_t from = p.call.state.at(0, direction, min(first + i / pitch, last), 0);
            const int k = i % pitch;
            place(0)[i] = k < hidden ? p.first(2, from + k) : 0.0f;
            place(1)[i] = place(2)[i] = 0.0f;
        }
        if (threadIdx.x == 0) {
            for (int i = 0; i < 3; ++i) arrivals[i].begin(), expect(i);
        }
        cluster_barrier();
    }

    // Elements of this block, some of them beyond the last.
    __device__ __forceinline__ int units() const {
        const int each = (hidden + int(gridDim.y) - 1) / int(gridDim.y);
        return (each + 7) / 8 * 8;
    }

    // Whether the warp has an element: whole warps walk or do not.
    __device__ __forceinline__ bool is_busy() const {
        const int first = int(threadIdx.x) / 32 * (32 / LANES);
        return first < units() && int(blockIdx.y) * units() + first < hidden;
    }

    // A place for states: 0 and 1 by turns, 2 for what a step needs in between.
    __device__ __forceinline__ float* place(int index) const { return states + index * ROWS * pitch; }

    __device__ __forceinline__ void expect(int index) { arrivals[index].expect(ROWS * ((hidden + 1) / 2 * 2) * 4); }

    // Waits until a place is full for the `phase`th time.
    __device__ __forceinline__ void receive(int index, int phase) {
        arrivals[index].wait(phase);
        if (threadIdx.x == 0) expect(index);
    }

    // Puts an element into a place of all blocks, with its neighbour, whose lanes do half of it.
    __device__ __forceinline__ void give(int index, float v) {
        v = unit < hidden ? v : 0.0f;
        const float other = __shfl_xor_sync(0xffffffff, v, LANES);
        const int second = threadIdx.x / LANES % 2;
        float* to = place(index) + lane % ROWS * pitch + unit - second;
        if (unit - second >= hidden) return;
        for (int block = threadIdx.x % (2 * LANES) / ROWS; block < int(gridDim.y); block += 2 * LANES / ROWS)
            arrivals[index].send(block, to, second ? other : v, second ? v : other);
    }

    // Four weights of the element, from k on.
    __device__ __forceinline__ float4 weight(int gate, int k) const {
        const int64_t panel = int64_t((hidden + BLOCK - 1) / BLOCK) * hidden * BLOCK;
        const float* from = weights + gate * panel + int64_t(k) * BLOCK;
        const auto at = [&](int i) { return k + i < hidden ? __ldg(from + i * BLOCK) : 0.0f; };
        return make_float4(at(0), at(1), at(2), at(3));
    }

    // Σ from[k] · R[gate][unit][k] of COUNT gates from FIRST on, for this lane's sequence.
    template <int FIRST, int COUNT>
    __device__ __forceinline__ void multiply(const float* from, float (&result)[COUNT]) const {
        float sums[ROWS][COUNT] = {};
        const int chunks = CHUNKS > 0 ? CHUNKS : (hidden + LANES * 4 - 1) / (LANES * 4);
#pragma unroll UNROLLED
        for (int i = 0; i < chunks; ++i) {
            const int k = (i * LANES + lane) * 4;
            float4 w[COUNT];
#pragma unroll
            for (int gate = 0; gate < COUNT; ++gate)
                w[gate] = CHUNKS > 0 ? held[CHUNKS > 0 ? i : 0][FIRST + gate] : weight(FIRST + gate, k);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float4 h = *reinterpret_cast<const float4*>(from + r * pitch + k);
#pragma unroll
                for (int gate = 0; gate < COUNT; ++gate) {
                    float& sum = sums[r][gate];
                    sum += h.x * w[gate].x, sum += h.y * w[gate].y, sum += h.z * w[gate].z, sum += h.w * w[gate].w;
                }
            }
        }
        // Lanes whose numbers differ in one bit add up: first each keeps half of the sequences, while there are several.
#pragma unroll
        for (int by = 1; by < LANES; by *= 2) {
            const int kept = ROWS / by / 2;
#pragma unroll
            for (int r = 0; r < (kept > 0 ? kept : 1); ++r)
#pragma unroll
                for (int gate = 0; gate < COUNT; ++gate) {
                    const float low = sums[kept > 0 ? 2 * r : 0][gate], high = sums[kept > 0 ? 2 * r + 1 : 0][gate];
                    const bool second = kept > 0 && (lane & by);
                    const float mine = second ? high : low, other = kept > 0 && !second ? high : low;
                    sums[r][gate] = mine + __shfl_xor_sync(0xffffffff, other, by);
                }
        }
#pragma unroll
        for (int gate = 0; gate < COUNT; ++gate) result[gate] = sums[0][gate];
    }

    // The first state of this element of this lane's sequence.
    __device__ __forceinline__ float first(int index) const { return p.first(index, state + real); }

    __device__ __forceinline__ void last(int index, float v) const {
        if (writes) p.operand(index)[state + unit] = v;
    }

    // What the inputs contribute to the gates of a step.
    __device__ __forceinline__ void contributions(unsigned number, float (&x)[GATES]) const {
        const int64_t at = p.call.gates.at(p.step(direction, number), direction, row, 0) + real;
#pragma unroll
        for (int gate = 0; gate < GATES; ++gate) x[gate] = p.operand(0)[at + gate * hidden];
    }

    // All steps: `next(contributions of the inputs, the element before, states before)` gives the next element.
    template <typename Next>
    __device__ __forceinline__ void walk(int output, Next next) {
        const unsigned steps = unsigned(p.call.steps);
        float v = first(2), ahead[GATES];
        if (steps > 0) contributions(0, ahead);
        for (unsigned number = 0; number < steps; ++number) {
            float x[GATES];
#pragma unroll
            for (int gate = 0; gate < GATES; ++gate) x[gate] = ahead[gate];
            if (number + 1 < steps) contributions(number + 1, ahead);
            if (number > 0) receive(number % 2, int(number - 1) / 2);
            v = next(x, v, place(number % 2));
            // What nobody reads is not given: no block is gone before all of its states have arrived.
            if (number + 1 < steps) give((number + 1) % 2, v);
            if (writes && p.operands[output])
                p.operand(output)[p.call.out.at(p.step(direction, number), direction, row, 0) + unit] = v;
        }
        last(output + 1, v);
    }
};

template <int GATES, int CHUNKS, int LANES, int N, typename Run>
__device__ __forceinline__ void spread(const Walk<N>& p, Run run) {
    if (p.rows() == 1) {
        Units<N, GATES, CHUNKS, LANES, 1> units(p);
        if (units.is_busy()) run(units);
    } else {
        Units<N, GATES, CHUNKS, LANES, TOGETHER> units(p);
        if (units.is_busy()) run(units);
    }
}
#endif

// Walks as a cluster, where the launch is one, which sending asks for, and the state is not too long.
template <int GATES, int N, typename Run>
__device__ __forceinline__ bool in_cluster(const Walk<N>& p, Run run) {
#if __CUDA_ARCH__ >= 900
    const int hidden = int(p.call.hidden);
    if (cluster_blocks() == 1 || hidden > MOST_SPREAD) return false;
    if (hidden <= MOST_HELD / 2)
        spread<GATES, 2, 16>(p, run);
    else if (hidden <= MOST_HELD)
        spread<GATES, 4, 16>(p, run);
    else if (hidden <= MOST_SPREAD / 2)
        spread<GATES, 0, 8>(p, run);
    else
        spread<GATES, 0, 4>(p, run);
    return true;
#else
    return false;
#endif
}

#define SEQUENCES(NAME, N) extern "C" __global__ void __launch_bounds__(512) NAME(const __grid_constant__ Walk<N> p)

}  // namespace

SEQUENCES(plain_lstm, 8) {
    let_consumers_start();
    wait_for_producers();
    const bool done = in_cluster<4>(p, [&](auto& units) {
        float c = units.first(3);
        units.walk(4, [&](const float (&x)[4], float, const float* h) {
            float s[4];
            units.template multiply<0, 4>(h, s);
            c = sigmoid_of(x[2] + s[2]) * c + sigmoid_of(x[0] + s[0]) * tanh_of(x[3] + s[3]);
            return sigmoid_of(x[1] + s[1]) * tanh_of(c);
        });
        units.last(6, c);
    });
    if (done) return;
    each_sequence<4>(p, [&](const auto& s) {
        const int hidden = s.hidden;
        // Each thread reads and writes its own elements of c alone.
        float* c = p.operand(6) + s.state;
        for (int j = threadIdx.x; j < hidden; j += blockDim.x) c[j] = p.first(3, s.state + j);
        s.walk(4, [&](const float*) { s.multiply(4); }, [&](const float* x, int j) {
            const auto gate = [&](int index) { return x[index * hidden + j] + s.sums[index * hidden + j]; };
            const float now = sigmoid_of(gate(2)) * c[j] + sigmoid_of(gate(0)) * tanh_of(gate(3));
            c[j] = now;
            return sigmoid_of(gate(1)) * tanh_of(now);
        });
    });
}

SEQUENCES(plain_gru, 7) {
    let_consumers_start();
    wait_for_producers();
    const bool late = p.call.linear_before_reset == 1;
    const auto bias = [&](unsigned direction, int j) {
        return p.operands[3] ? p.operand(3)[direction * int(p.call.hidden) + j] : 0.0f;
    };
    const bool done = in_cluster<3>(p, [&](auto& units) {
        const float b = bias(units.direction, units.real);
        int phase = 0;
        units.walk(4, [&](const float (&x)[3], float before, const float* h) {
            float s[3], z, sum;
            if (late) {
                units.template multiply<0, 3>(h, s);
                z = sigmoid_of(x[0] + s[0]);
                sum = sigmoid_of(x[1] + s[1]) * (s[2] + b);
            } else {
                float first[2], second[1];
                units.template multiply<0, 2>(h, first);
                z = sigmoid_of(x[0] + first[0]);
                units.give(2, sigmoid_of(x[1] + first[1]) * before);
                units.receive(2, phase++);
                units.template multiply<2, 1>(units.place(2), second);
                sum = second[0] + b;
            }
            return (1.0f - z) * tanh_of(x[2] + sum) + z * before;
        });
    });
    if (done) return;
    each_sequence<3>(p, [&](const auto& s) {
        const int hidden = s.hidden;
        float *reset = s.sums + hidden, *last = s.sums + 2 * hidden, *kept = s.sums + 3 * hidden;
        s.walk(4, [&](const float* x) {
            s.multiply(late ? 3 : 2);
            for (int j = threadIdx.x; j < hidden; j += blockDim.x) {
                reset[j] = sigmoid_of(x[hidden + j] + reset[j]);
                kept[j] = reset[j] * s.h[j];
            }
            __syncthreads();
        }, [&](const float* x, int j) {
            const float b = bias(s.direction, j), z = sigmoid_of(x[j] + s.sums[j]);
            const float sum = late ? reset[j] * (last[j] + b) : s.product(2, j, kept) + b;
            return (1.0f - z) * tanh_of(x[2 * hidden + j] + sum) + z * s.h[j];
        });
    });
}

SEQUENCES(plain_rnn, 6) {
    let_consumers_start();
    wait_for_producers();
    const bool done = in_cluster<1>(p, [&](auto& units) {
        units.walk(3, [&](const float (&x)[1], float, const float* h) {
            float s[1];
            units.template multiply<0, 1>(h, s);
            return activated(x[0] + s[0], p.call.activation);
        });
    });
    if (done) return;
    each_sequence<1>(p, [&](const auto& s) {
        s.walk(3, [&](const float*) { s.multiply(1); },
               [&](const float* x, int j) { return activated(x[j] + s.sums[j], p.call.activation); });
    });
}
