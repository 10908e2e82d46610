/* The one place for inline PTX. Names follow the instructions; each function says what it needs. The PTX ISA
 * manual says the rest. */
#ifndef EFFNET_KERNELS_PTX_CUH
#define EFFNET_KERNELS_PTX_CUH

#include <cuda_fp16.h>
#include <stdint.h>

namespace ptx
{

/* The 32-bit shared-window address that ldmatrix, cp.async and mbarrier instructions take. */
__device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/* Gives a value a register of its own, here and now. Accumulators of wgmma that start from equal values need
 * it: else the compiler copies the value just before each wgmma, and the copy waits for the wgmma before it.
 */
__device__ __forceinline__ void own_register(float &value)
{
    asm volatile("" : "+f"(value));
}

/* The same value in a register: without this the compiler may work it out anew at each use. */
__device__ __forceinline__ uint32_t kept(uint32_t value)
{
    asm volatile("" : "+r"(value));
    return value;
}

/* a + b. The compiler turns a chain of ordinary sums, a + b + b + ..., into multiplications; not this. */
__device__ __forceinline__ uint64_t sum(uint64_t a, uint64_t b)
{
    uint64_t d;
    asm volatile("add.u64 %0, %1, %2;" : "=l"(d) : "l"(a), "l"(b));
    return d;
}

/* 8 bytes of shared memory at a shared_address, read here and now; 16. */
__device__ __forceinline__ uint2 load_shared_uint2(uint32_t shared)
{
    uint2 d;
    asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(d.x), "=r"(d.y) : "r"(shared) : "memory");
    return d;
}

__device__ __forceinline__ uint4 load_shared_uint4(uint32_t shared)
{
    uint4 d;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
                 : "r"(shared)
                 : "memory");
    return d;
}

/* A word of shared memory at a shared_address. */
__device__ __forceinline__ uint32_t load_shared(uint32_t shared)
{
    uint32_t d;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(d) : "r"(shared) : "memory");
    return d;
}

__device__ __forceinline__ void store_shared(uint32_t shared, uint32_t value)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(shared), "r"(value) : "memory");
}

/* The same for 2 or 4 words, at a multiple of their bytes. */
__device__ __forceinline__ void store_shared(uint32_t shared, const uint32_t (&v)[2])
{
    asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(shared), "r"(v[0]), "r"(v[1]) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t shared, const uint32_t (&v)[4])
{
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(shared), "r"(v[0]), "r"(v[1]), "r"(v[2]),
                 "r"(v[3])
                 : "memory");
}

/* Minimum and maximum that return NaN when either operand is one. */
__device__ __forceinline__ float max_nan(float a, float b)
{
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}

__device__ __forceinline__ float min_nan(float a, float b)
{
    float d;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
}

/* 2^x in one instruction: relative error 2^-22.5 at most, subnormal results become 0. */
__device__ __forceinline__ float exp2_approx(float x)
{
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* 1 / x in one instruction: within 1 ulp; subnormal numbers count as 0. */
__device__ __forceinline__ float reciprocal_approx(float x)
{
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* ---------------------------------------------------------------- sm_80: asynchronous copies */

/* 16 bytes, global to shared, past L1; both addresses 16-byte aligned. If not valid, nothing is read and the
 * bytes in shared memory become zeros. */
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most Pending of this thread's newest groups are still under way. */
template <int Pending> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/* This thread's arrival at an mbarrier, once all of its copies before are done. */
__device__ __forceinline__ void cp_async_arrive(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/* ---------------------------------------------------------------- sm_80: matrix fragments */

/* Four 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* The same, each matrix transposed. */
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* Stores four 8x8 matrices as ldmatrix_x4 loads them; sm_90. */
__device__ __forceinline__ void stmatrix_x4(uint32_t shared, const uint32_t (&r)[4])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared), "r"(r[0]),
                 "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* d += a * b: a is 16x16 (row-major fragment), b is 16x8 (column-major fragment), both fp16; d is fp32. */
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = a * b + c, as above. */
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], uint4 a, uint32_t b0, uint32_t b1,
                                                 const float (&c)[4])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
}

/* d += a * b: a is 16x8, b is 8x8. */
__device__ __forceinline__ void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b));
}

/* Two values rounded to fp16, the lower one first, negative ones to 0. A NaN stays one. */
__device__ __forceinline__ uint32_t relu_half2(float low, float high)
{
    uint32_t d;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

/* ---------------------------------------------------------------- sm_90: clusters and barriers */

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t d;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(d));
    return d;
}

/* Waits for all threads of the cluster's blocks. What they wrote before is visible after. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* cluster_sync in two halves, without its fence of memory: enough to know that every block has started, and
 * that barriers before mbarrier_init_fence are set. */
__device__ __forceinline__ void cluster_arrive_relaxed()
{
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* Where `shared` of this block lies in the block of that rank in the cluster. */
__device__ __forceinline__ uint32_t cluster_address(uint32_t shared, uint32_t rank)
{
    uint32_t d;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(d) : "r"(shared), "r"(rank));
    return d;
}

/* To a cluster address; visible in that block after a cluster_sync of both. */
__device__ __forceinline__ void cluster_store(uint32_t address, float v)
{
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}

/* Four floats to the shared memory of a block of the cluster, where `barrier` counts their bytes. Both are
 * cluster addresses, the first a multiple of 16. */
__device__ __forceinline__ void cluster_store_async(uint32_t address, float4 v, uint32_t barrier)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
                 "[%5];" ::"r"(address),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes mbarrier_init visible to TMA and to the cluster. A barrier of the threads must follow. */
__device__ __forceinline__ void mbarrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* This thread's arrival; the phase also waits for so many bytes by TMA. */
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives `count` times at a barrier of any block of the cluster, given by cluster_address. It orders memory
 * among the threads of this block only. That is enough where wgmma read what is handed over and TMA will
 * write it; release at cluster scope would cost a fence of all memory. */
__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier, uint32_t count = 1)
{
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* Waits for the end of the phase of that parity. Phases alternate between 0 and 1, and begin with 0. */
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
#define PTX_MBARRIER_WAIT "mbarrier.try_wait.parity.shared::cta.b64"
#else
#define PTX_MBARRIER_WAIT "mbarrier.test_wait.parity.shared::cta.b64"
#endif
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t" PTX_MBARRIER_WAIT " done, [%0], %1;\n\t"
                 "@done bra finished;\n\t"
                 "bra again;\n\t"
                 "finished:\n\t"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* Whether the phase of that parity has ended, without waiting. */
__device__ __forceinline__ bool mbarrier_test(uint32_t barrier, uint32_t parity)
{
    uint32_t d;
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
                 "selp.u32 %0, 1, 0, done;\n\t"
                 "}"
                 : "=r"(d)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return d != 0;
}

/* Barrier `id` (1 to 15, by an enum of the kernel; 0 is __syncthreads) among `threads` threads, whole warps.
 */
__device__ __forceinline__ void named_barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* This thread's arrival there, without waiting for the others. */
__device__ __forceinline__ void named_barrier_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* For a launch that may overlap the one before it in its stream (launch.cuh). grid_wait waits until that one
 * is done and its memory is visible. grid_launch_next lets the next such launch start its blocks. In other
 * launches both do nothing. */
__device__ __forceinline__ void grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void grid_launch_next()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---------------------------------------------------------------- sm_90: TMA */

/* Policies for what a load leaves in L2. */
#define PTX_L2_POLICY(NAME)                                                                                  \
    __device__ __forceinline__ uint64_t l2_##NAME()                                                          \
    {                                                                                                        \
        uint64_t d;                                                                                          \
        asm volatile("createpolicy.fractional.L2::" #NAME ".b64 %0, 1.0;" : "=l"(d));                        \
        return d;                                                                                            \
    }
PTX_L2_POLICY(evict_first)
PTX_L2_POLICY(evict_normal)
PTX_L2_POLICY(evict_last)

__device__ __forceinline__ void tma_prefetch_map(const void *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The tile at column x and row y of the tensor, to shared memory; its bytes count on `barrier`. */
__device__ __forceinline__ void tma_load_2d(uint32_t shared, const void *map, int x, int y, uint32_t barrier,
                                            uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
                 : "memory");
}

/* The same for a tensor of three dimensions. */
__device__ __forceinline__ void tma_load_3d(uint32_t shared, const void *map, int x, int y, int z,
                                            uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
                 : "memory");
}

/* tma_load_2d to every block of the cluster whose bit is set; tile and barrier lie at the same offsets there.
 */
__device__ __forceinline__ void tma_load_2d_multicast(uint32_t shared, const void *map, int x, int y,
                                                      uint32_t barrier, uint16_t blocks, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(shared),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks), "l"(policy)
                 : "memory");
}

/* So many contiguous bytes, a multiple of 16, both addresses too, to shared memory; they count on `barrier`.
 */
__device__ __forceinline__ void bulk_load(uint32_t shared, const void *global, uint32_t bytes,
                                          uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared),
        "l"(global), "r"(bytes), "r"(barrier)
        : "memory");
}

/* The same from shared memory, as part of this thread's next group of stores. */
__device__ __forceinline__ void bulk_store(void *global, uint32_t shared, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void tma_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until at most Pending of this thread's newest groups of stores still read shared memory. */
template <int Pending> __device__ __forceinline__ void tma_store_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}

/* Makes this thread's ordinary stores to shared memory visible to TMA and wgmma. */
__device__ __forceinline__ void fence_proxy_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---------------------------------------------------------------- sm_90a: wgmma */

template <int Registers> __device__ __forceinline__ void registers_increase()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers> __device__ __forceinline__ void registers_decrease()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

/* Between ordinary code that touched accumulators or fragments and the first wgmma that uses them. */
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int Pending> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

/* After wgmma_wait: keeps the compiler from moving uses of the accumulator to before it. */
__device__ __forceinline__ void wgmma_touch(float &accumulator)
{
    asm volatile("" : "+f"(accumulator)::"memory");
}

#define PTX_F4(d, i)  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PTX_F16(d, i) PTX_F4(d, i), PTX_F4(d, i + 4), PTX_F4(d, i + 8), PTX_F4(d, i + 12)
#define PTX_F64(d, i) PTX_F16(d, i), PTX_F16(d, i + 16), PTX_F16(d, i + 32), PTX_F16(d, i + 48)

/* The names of so many accumulators. */
#define PTX_NAMES_8  "%0, %1, %2, %3, %4, %5, %6, %7"
#define PTX_NAMES_12 PTX_NAMES_8 ", %8, %9, %10, %11"
#define PTX_NAMES_16 PTX_NAMES_12 ", %12, %13, %14, %15"
#define PTX_NAMES_20 PTX_NAMES_16 ", %16, %17, %18, %19"
#define PTX_NAMES_24 PTX_NAMES_20 ", %20, %21, %22, %23"
#define PTX_NAMES_32 PTX_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define PTX_NAMES_36 PTX_NAMES_32 ", %32, %33, %34, %35"
#define PTX_NAMES_40 PTX_NAMES_36 ", %36, %37, %38, %39"
#define PTX_NAMES_48 PTX_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define PTX_NAMES_56 PTX_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define PTX_NAMES_64 PTX_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define PTX_NAMES_80                                                                                         \
    PTX_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define PTX_NAMES_96                                                                                         \
    PTX_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PTX_NAMES_100 PTX_NAMES_96 ", %96, %97, %98, %99"

/* d = a * b + (accumulate ? d : 0): a 64 x 16 and b N x 16, K-major fp16 in shared memory, d fp32. Lane l of
 * warp w of the warpgroup holds, in d[4 * j + 2 * h + i], row 16 * w + l / 4 + 8 * h and column
 * 8 * j + 2 * (l % 4) + i. For N columns, COUNT accumulators, the numbers of the operands b and `accumulate`,
 * and the accumulators as operands. */
#define PTX_WGMMA(N, COUNT, B, ACCUMULATE, ...)                                                              \
    __device__ __forceinline__ void wgmma_f16(float(&d)[COUNT], uint64_t a, uint64_t b, bool accumulate)     \
    {                                                                                                        \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %" #ACCUMULATE ", 0;\n\t"                         \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" PTX_NAMES_##COUNT            \
                     "}, %" #COUNT ", %" #B ", p, 1, 1, 0, 0;\n\t}"                                          \
                     : __VA_ARGS__                                                                           \
                     : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                   \
    }

PTX_WGMMA(64, 32, 33, 34, PTX_F16(d, 0), PTX_F16(d, 16))
PTX_WGMMA(72, 36, 37, 38, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F4(d, 32))
PTX_WGMMA(80, 40, 41, 42, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F4(d, 32), PTX_F4(d, 36))
PTX_WGMMA(96, 48, 49, 50, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F16(d, 32))
PTX_WGMMA(128, 64, 65, 66, PTX_F64(d, 0))
PTX_WGMMA(200, 100, 101, 102, PTX_F64(d, 0), PTX_F16(d, 64), PTX_F16(d, 80), PTX_F4(d, 96))

/* d += a * b with a in registers, as mma_m16n8k16_f16 has it, warp w of the warpgroup holding rows 16w..;
 * b N x 16, K-major in shared memory. a and d must not be touched before wgmma_wait. For N columns, COUNT
 * accumulators, the numbers of the operands a[1] to a[3] and b, and the accumulators as operands. */
#define PTX_WGMMA_ADD(N, COUNT, A1, A2, A3, B, ...)                                                          \
    __device__ __forceinline__ void wgmma_f16_add(float(&d)[COUNT], const uint32_t(&a)[4], uint64_t b)       \
    {                                                                                                        \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, 0;\n\t"                                        \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" PTX_NAMES_##COUNT            \
                     "}, {%" #COUNT ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 0;\n\t}"             \
                     : __VA_ARGS__                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                  \
    }

PTX_WGMMA_ADD(16, 8, 9, 10, 11, 12, PTX_F4(d, 0), PTX_F4(d, 4))
PTX_WGMMA_ADD(32, 16, 17, 18, 19, 20, PTX_F16(d, 0))
PTX_WGMMA_ADD(24, 12, 13, 14, 15, 16, PTX_F4(d, 0), PTX_F4(d, 4), PTX_F4(d, 8))
PTX_WGMMA_ADD(40, 20, 21, 22, 23, 24, PTX_F16(d, 0), PTX_F4(d, 16))
PTX_WGMMA_ADD(48, 24, 25, 26, 27, 28, PTX_F16(d, 0), PTX_F4(d, 16), PTX_F4(d, 20))
PTX_WGMMA_ADD(80, 40, 41, 42, 43, 44, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F4(d, 32), PTX_F4(d, 36))
PTX_WGMMA_ADD(96, 48, 49, 50, 51, 52, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F16(d, 32))
PTX_WGMMA_ADD(112, 56, 57, 58, 59, 60, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F16(d, 32), PTX_F4(d, 48),
              PTX_F4(d, 52))

/* d += a * b with both in shared memory, a M-major: a row of shared memory is 64 rows of a at one k. For N
 * columns, COUNT accumulators, the number of the operand b, and the accumulators as operands. */
#define PTX_WGMMA_ADD_M_MAJOR(N, COUNT, B, ...)                                                              \
    __device__ __forceinline__ void wgmma_f16_add_m_major(float(&d)[COUNT], uint64_t a, uint64_t b)          \
    {                                                                                                        \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, 1, 0;\n\t"                                        \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" PTX_NAMES_##COUNT            \
                     "}, %" #COUNT ", %" #B ", p, 1, 1, 1, 0;\n\t}"                                          \
                     : __VA_ARGS__                                                                           \
                     : "l"(a), "l"(b));                                                                      \
    }

PTX_WGMMA_ADD_M_MAJOR(80, 40, 41, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F4(d, 32), PTX_F4(d, 36))
PTX_WGMMA_ADD_M_MAJOR(112, 56, 57, PTX_F16(d, 0), PTX_F16(d, 16), PTX_F16(d, 32), PTX_F4(d, 48),
                      PTX_F4(d, 52))
PTX_WGMMA_ADD_M_MAJOR(160, 80, 81, PTX_F64(d, 0), PTX_F16(d, 64))
PTX_WGMMA_ADD_M_MAJOR(192, 96, 97, PTX_F64(d, 0), PTX_F16(d, 64), PTX_F16(d, 80))

} // namespace ptx

#endif
