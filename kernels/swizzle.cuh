/* The swizzle of TMA and wgmma: where the 16-byte pieces of a tile's rows lie in shared memory. Rows follow
 * each other without gaps; within 128 bytes, which are all banks once, the pieces are XORed with the number
 * of the 128 bytes, so that the same piece of eight rows (what ldmatrix and wgmma read at once) meets every
 * bank once. */
#ifndef EFFNET_KERNELS_SWIZZLE_CUH
#define EFFNET_KERNELS_SWIZZLE_CUH

#include <cudaTypedefs.h>
#include <stdint.h>

/* For rows of 32, 64 or 128 bytes. Tiles begin at a multiple of REPEAT_BYTES. */
template <int ROW_BYTES> struct swizzle {
    static_assert(ROW_BYTES == 32 || ROW_BYTES == 64 || ROW_BYTES == 128, "the widths that TMA knows");
    static constexpr int PIECES = ROW_BYTES / 16, ROWS_A_LINE = 128 / ROW_BYTES;
    static constexpr int EIGHT_ROWS = 8 * ROW_BYTES, REPEAT_BYTES = EIGHT_ROWS;
    static constexpr CUtensorMapSwizzle TMA = ROW_BYTES == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                              : ROW_BYTES == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                : CU_TENSOR_MAP_SWIZZLE_32B;

    /* A piece's offset from the tile's start. */
    __host__ __device__ static constexpr int offset(int row, int piece)
    {
        return row * ROW_BYTES + 16 * (piece ^ row / ROWS_A_LINE % PIECES);
    }

    /* wgmma's descriptor of a K-major tile at `shared`, in two halves: only `low` depends on the address.
     * Fields are in units of 16 bytes, so 16 elements further in k are descriptor + 2. */
    __device__ static __forceinline__ uint32_t low(uint32_t shared)
    {
        constexpr uint32_t ADDRESS_BITS = 0x3ffff, IGNORED = 1; /* the stride along k, in swizzled layouts */
        return (shared & ADDRESS_BITS) >> 4 | IGNORED << 16;
    }
    /* eight_rows: bytes from eight rows to the next eight. */
    __device__ static __forceinline__ uint64_t high(uint32_t eight_rows = EIGHT_ROWS)
    {
        constexpr uint64_t LAYOUT = ROW_BYTES == 128 ? 1 : ROW_BYTES == 64 ? 2 : 3;
        return LAYOUT << 62 | uint64_t{eight_rows >> 4} << 32;
    }
    __device__ static __forceinline__ uint64_t descriptor(uint32_t shared) { return high() | low(shared); }
};

/* Bytes of 16 elements of k, which one wgmma takes, and what they add to a descriptor. */
constexpr int K16_BYTES = 32, DESCRIPTOR_K16 = K16_BYTES >> 4;

#endif
