/* TIFF through libtiff: the first page, in strips or tiles, samples side by side or in planes of their own.
 * Rows are read as they are and made RGB here (tiff_rows.c), as Pillow does it; only YCbCr in JPEG becomes
 * RGB within libtiff. Of 16 bits the high byte counts, also in grey, where Pillow clips at 255.
 *
 * A file may name the same bytes for many strips, and tiles that are larger than the image. So what it costs
 * is bounded before the first pixel: the bytes that come out (image_check_unpacked), the bytes that go in,
 * the number of strips or tiles, the scans of JPEG streams, and what is in memory at a time
 * (IMAGE_DECODING_BYTES).
 */
#include "image/formats/formats.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "image/formats/library.h"

static bool matches(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 4 && (memcmp(data, "II*\0", 4) == 0 || memcmp(data, "MM\0*", 4) == 0 ||
                               memcmp(data, "II+\0", 4) == 0 || memcmp(data, "MM\0+", 4) == 0);
}

#ifdef EFFNET_HAVE_TIFF
#include "image/formats/tiff_cost.h"
#include "image/formats/tiff_library.h"
#include "image/formats/tiff_rows.h"

/* Strips or tiles; one takes up to 20 us, however small it is. */
enum { MAX_BLOCKS = 1 << 18 };

/* Strips or tiles that are equal may share their bytes, which count once more for each. */
enum { MAX_SHARED_BYTES = 64 << 20 };

/* LZMA takes four times what the others take: about 60 ns a byte that comes in, 30 one that comes out. */
#define MAX_LZMA_IN_BYTES  UINT64_C(128000000)
#define MAX_LZMA_OUT_BYTES UINT64_C(256000000)

/* Pixels that all scans of all JPEG streams go over, for each that the default limit allows. */
enum { MAX_SCANS = 10 };

/* One decoding. */
struct job {
    const struct image_source *source;
    struct tiff_stream stream;
    TIFF *file; /* libtiff's */

    int64_t width, height;
    uint16_t compression, photometric;
    size_t samples;       /* of a pixel */
    bool separate, tiled; /* planes of their own, tiles */
    int64_t tile_width, tile_height, strip_rows;
    struct tiff_pixel pixel;

    uint8_t *packed; /* a row, or a tile, as libtiff gives it; [packed_bytes] */
    uint8_t *row;    /* its samples, [width][samples]; of one plane, [width] */
    uint8_t *planes; /* [height][width][tiff_samples_used], where planes are separate */
    size_t packed_bytes, row_bytes, planes_bytes;
    struct effnet_image *image;
    struct image_facts *facts;
};

/* ---------------------------------------------------------------- what the file is */

static uint16_t get16(const struct job *job, uint32_t tag, uint16_t otherwise)
{
    uint16_t value = otherwise;
    tiff.TIFFGetFieldDefaulted(job->file, tag, &value);
    IMAGE_WRITTEN(&value, sizeof value);
    return value;
}

static uint32_t get32(const struct job *job, uint32_t tag)
{
    uint32_t value = 0;
    tiff.TIFFGetField(job->file, tag, &value);
    IMAGE_WRITTEN(&value, sizeof value);
    return value;
}

static int find_orientation(const struct job *job)
{
    uint16_t orientation = 0;
    uint32_t size_bytes = 0;
    void *xmp = NULL;
    tiff.TIFFGetField(job->file, TIFFTAG_ORIENTATION, &orientation);
    IMAGE_WRITTEN(&orientation, sizeof orientation);
    if (orientation || !tiff.TIFFGetField(job->file, TIFFTAG_XMLPACKET, &size_bytes, &xmp))
        return orientation;
    IMAGE_WRITTEN(&size_bytes, sizeof size_bytes);
    IMAGE_WRITTEN(&xmp, sizeof xmp);
    IMAGE_WRITTEN(xmp, size_bytes);
    return image_xmp_orientation(xmp, size_bytes);
}

/* Those that Pillow reads, and WebP. Left out are two that are not sound with files from anywhere: old-style
 * JPEG (6), and JBIG, whose library ends the process where memory is short. */
static int check_compression(const struct job *job)
{
    static const uint16_t read[] = {COMPRESSION_NONE,          COMPRESSION_CCITTRLE,  COMPRESSION_CCITTFAX3,
                                    COMPRESSION_CCITTFAX4,     COMPRESSION_LZW,       COMPRESSION_JPEG,
                                    COMPRESSION_ADOBE_DEFLATE, COMPRESSION_CCITTRLEW, COMPRESSION_PACKBITS,
                                    COMPRESSION_THUNDERSCAN,   COMPRESSION_DEFLATE,   COMPRESSION_LZMA,
                                    COMPRESSION_ZSTD,          COMPRESSION_WEBP};
    bool known = false;
    for (size_t i = 0; i < sizeof read / sizeof read[0]; i++) known |= job->compression == read[i];
    if (!known)
        return image_fail(job->source, "a TIFF with compression %d, which is not read", job->compression);
    if (tiff.TIFFIsCODECConfigured(job->compression)) return EFFNET_OK;
    return image_fail(job->source, "a TIFF with compression %d, which the libtiff here does not read",
                      job->compression);
}

/* Grey by the value of a sample, black first unless `inverted`. */
static void make_greys(struct tiff_pixel *pixel, bool inverted)
{
    const int full = pixel->bits < 8 ? (1 << pixel->bits) - 1 : 255;
    for (int i = 0; i <= full; i++) memset(pixel->table[i], (inverted ? full - i : i) * 255 / full, 3);
}

static int make_palette(struct job *job)
{
    const int bits = job->pixel.bits;
    uint16_t *colours[3] = {NULL};
    if (bits > 8 || !tiff.TIFFGetField(job->file, TIFFTAG_COLORMAP, &colours[0], &colours[1], &colours[2]))
        return image_fail(job->source, "bad TIFF: no palette for samples of %d bits", bits);
    IMAGE_WRITTEN(colours, sizeof colours);
    for (int c = 0; c < 3; c++) {
        IMAGE_WRITTEN(colours[c], sizeof *colours[c] << bits);
        for (int i = 0; i < 1 << bits; i++) job->pixel.table[i][c] = (uint8_t)(colours[c][i] >> 8);
    }
    return EFFNET_OK;
}

/* The first sample beyond the colours may be alpha. */
static void find_alpha(struct job *job)
{
    uint16_t count = 0, *kinds = NULL;
    if (!tiff.TIFFGetField(job->file, TIFFTAG_EXTRASAMPLES, &count, &kinds)) return;
    IMAGE_WRITTEN(&count, sizeof count);
    IMAGE_WRITTEN(&kinds, sizeof kinds);
    if (count == 0) return;
    IMAGE_WRITTEN(kinds, sizeof *kinds);
    if (*kinds == EXTRASAMPLE_ASSOCALPHA) job->pixel.alpha = TIFF_MULTIPLIED_ALPHA;
    if (*kinds == EXTRASAMPLE_UNASSALPHA) job->pixel.alpha = TIFF_ALPHA;
}

static int find_colours(struct job *job)
{
    struct tiff_pixel *pixel = &job->pixel;
    switch (job->photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK: make_greys(pixel, job->photometric == PHOTOMETRIC_MINISWHITE); break;
    case PHOTOMETRIC_PALETTE: EFFNET_TRY(make_palette(job)); break;
    case PHOTOMETRIC_RGB: pixel->kind = TIFF_COLOURS; break;
    case PHOTOMETRIC_SEPARATED: pixel->kind = TIFF_INKS; break;
    case PHOTOMETRIC_YCBCR:
        if (job->compression != COMPRESSION_JPEG || job->separate || job->samples != 3)
            return image_fail(job->source, "a TIFF in YCbCr that is not JPEG, which is not read");
        tiff.TIFFSetField(job->file, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        pixel->kind = TIFF_COLOURS;
        break;
    default:
        return image_fail(job->source, "a TIFF with photometric interpretation %d, which is not read",
                          job->photometric);
    }
    find_alpha(job);
    if (job->samples >= (size_t)tiff_samples_used(pixel)) return EFFNET_OK;
    return image_fail(job->source, "bad TIFF: %zu samples a pixel of photometric interpretation %d",
                      job->samples, job->photometric);
}

/* What samples are: unsigned numbers of so many bits. */
static int check_samples(const struct job *job)
{
    static const char *const formats[] = {"", "", "signed numbers", "floating point"};
    const int bits = job->pixel.bits, format = get16(job, TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
    if (format != SAMPLEFORMAT_UINT)
        return image_fail(job->source, "a TIFF whose samples are %s of %d bits, which is not read",
                          format < 4 ? formats[format] : "something unknown", bits);
    if (bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 12 || bits == 16) return EFFNET_OK;
    return image_fail(job->source, "a TIFF with samples of %d bits, which is not read", bits);
}

static int read_tags(struct job *job)
{
    job->width = get32(job, TIFFTAG_IMAGEWIDTH);
    job->height = get32(job, TIFFTAG_IMAGELENGTH);
    EFFNET_TRY(image_check_size(job->source, job->width, job->height));
    job->compression = get16(job, TIFFTAG_COMPRESSION, COMPRESSION_NONE);
    job->photometric = get16(job, TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISWHITE); /* Pillow's guess */
    job->pixel.bits = get16(job, TIFFTAG_BITSPERSAMPLE, 1);
    job->samples = get16(job, TIFFTAG_SAMPLESPERPIXEL, 1);
    job->separate = job->samples > 1 &&
                    get16(job, TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG) == PLANARCONFIG_SEPARATE;
    job->tiled = tiff.TIFFIsTiled(job->file);
    job->tile_width = get32(job, TIFFTAG_TILEWIDTH);
    job->tile_height = get32(job, TIFFTAG_TILELENGTH);
    job->strip_rows = get32(job, TIFFTAG_ROWSPERSTRIP);
    if (job->strip_rows == 0 || job->strip_rows > job->height) job->strip_rows = job->height;
    EFFNET_TRY(check_compression(job));
    EFFNET_TRY(check_samples(job));
    return find_colours(job);
}

/* ---------------------------------------------------------------- what it costs */

/* The part of a strip's or tile's bytes that is in the file. */
static size_t find_block(const struct job *job, uint32_t block, const uint8_t **data)
{
    const uint64_t at = tiff.TIFFGetStrileOffset(job->file, block), all = job->source->size_bytes;
    const uint64_t size_bytes = tiff.TIFFGetStrileByteCount(job->file, block), left = at < all ? all - at : 0;
    *data = job->source->data + (all - left);
    return size_bytes < left ? size_bytes : left;
}

static bool block_is_cut(const struct job *job, uint32_t block)
{
    const uint8_t *data;
    return find_block(job, block, &data) < tiff.TIFFGetStrileByteCount(job->file, block);
}

/* `pixels`: what one strip or tile holds. */
static int check_blocks(const struct job *job, uint32_t blocks, uint64_t pixels, uint64_t unpacked_bytes)
{
    const struct image_source *source = job->source;
    uint64_t packed_bytes = 0, scanned = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        const uint8_t *data;
        const size_t size_bytes = find_block(job, i, &data);
        packed_bytes += size_bytes;
        if (packed_bytes > source->size_bytes + MAX_SHARED_BYTES)
            return image_fail(source, "bad TIFF: its strips or tiles overlap");
        if (job->compression != COMPRESSION_JPEG) continue;
        const int scans = tiff_count_scans(data, size_bytes);
        if (scans == TIFF_ARITHMETIC)
            return image_fail(source, "a TIFF with arithmetically coded JPEG, which is not read");
        scanned += (uint64_t)scans * pixels;
        if (scanned > MAX_SCANS * (uint64_t)EFFNET_MAX_PIXELS_DEFAULT)
            return image_fail(source, "too large, this TIFF of %lld x %lld has JPEG streams of many scans",
                              (long long)job->width, (long long)job->height);
    }
    if (job->compression == COMPRESSION_LZMA &&
        (packed_bytes > MAX_LZMA_IN_BYTES || unpacked_bytes > MAX_LZMA_OUT_BYTES))
        return image_fail(source,
                          "too large, this TIFF has %llu bytes of LZMA that unpack to %llu; the limits are "
                          "%llu and %llu",
                          (unsigned long long)packed_bytes, (unsigned long long)unpacked_bytes,
                          (unsigned long long)MAX_LZMA_IN_BYTES, (unsigned long long)MAX_LZMA_OUT_BYTES);
    return EFFNET_OK;
}

/* What a decoder keeps beside the rows that it gives: coefficients of all scans, which libtiff ends at 100
 * MB; what later bytes may repeat, in zstd up to 128 MB; pixels of a WebP image. */
static uint64_t decoder_bytes(const struct job *job, uint64_t block_bytes)
{
    switch (job->compression) {
    case COMPRESSION_JPEG: return block_bytes < 50000000 ? 2 * block_bytes : 100000000;
    case COMPRESSION_ZSTD: return block_bytes < 128 << 20 ? block_bytes : 128 << 20;
    case COMPRESSION_LZMA: return block_bytes;
    case COMPRESSION_WEBP: return 3 * block_bytes;
    default: return 0;
    }
}

/* Checks all that costs time or memory, and says what is to be allocated. */
static int check_cost(struct job *job, uint64_t directory_bytes)
{
    const struct image_source *source = job->source;
    const uint64_t width = (uint64_t)job->width, height = (uint64_t)job->height;
    const uint64_t planes = job->separate ? (uint64_t)tiff_samples_used(&job->pixel) : 1;
    const uint64_t samples = job->separate ? 1 : job->samples;
    const uint64_t columns = job->tiled ? (uint64_t)job->tile_width : width;
    const uint64_t rows = (uint64_t)(job->tiled ? job->tile_height : job->strip_rows);
    const uint64_t row_bytes = job->tiled ? tiff.TIFFTileRowSize64(job->file)
                                          : tiff.TIFFScanlineSize64(job->file);
    const uint64_t block_bytes = job->tiled ? tiff.TIFFTileSize64(job->file) : row_bytes * rows;
    uint64_t blocks = job->tiled ? tiff.TIFFNumberOfTiles(job->file) : tiff.TIFFNumberOfStrips(job->file);
    if (job->separate) blocks = blocks / job->samples * planes;
    /* 2^40: so that no sum or product below is too large for 64 bits */
    if (blocks == 0 || row_bytes == 0 ||
        row_bytes < (columns * samples * (uint64_t)job->pixel.bits + 7) / 8 ||
        block_bytes / row_bytes < rows || block_bytes > UINT64_C(1) << 40)
        return image_fail(source, "bad TIFF: the size of its strips or tiles means nothing");
    if (blocks > MAX_BLOCKS)
        return image_fail(source, "too large, this TIFF has %llu strips or tiles; the limit is %d",
                          (unsigned long long)blocks, MAX_BLOCKS);

    job->packed_bytes = job->tiled ? block_bytes : row_bytes;
    job->row_bytes = columns * samples;
    job->planes_bytes = job->separate ? width * height * planes : 0;
    const uint64_t bytes = source->size_bytes + directory_bytes + job->packed_bytes + job->row_bytes +
                           job->planes_bytes + decoder_bytes(job, block_bytes) + 3 * width * height;
    if (bytes > IMAGE_DECODING_BYTES)
        return image_fail(source,
                          "too large, this TIFF of %lld x %lld takes %llu MB to decode; the limit is %llu",
                          (long long)width, (long long)height, (unsigned long long)bytes / 1000000,
                          (unsigned long long)IMAGE_DECODING_BYTES / 1000000);

    const uint64_t unpacked_bytes = job->tiled ? blocks * block_bytes : planes * height * row_bytes;
    EFFNET_TRY(image_check_unpacked(source, unpacked_bytes));
    return check_blocks(job, (uint32_t)blocks, columns * rows, unpacked_bytes);
}

/* ---------------------------------------------------------------- pixels */

static int fail_reading(const struct job *job, bool cut)
{
    if (cut) return image_fail_truncated(job->source);
    return image_fail(job->source, "bad TIFF: %s",
                      job->stream.reason[0] ? job->stream.reason : "it means nothing");
}

/* `count` pixels from x, y on, or one plane of them. */
static void take_row(struct job *job, int plane, int64_t x, int64_t y, int64_t count, const uint8_t *packed)
{
    const size_t pixels = (size_t)count, at = (size_t)(y * job->width + x);
    tiff_unpack(packed, job->pixel.bits, job->separate ? pixels : pixels * job->samples, job->row);
    if (job->separate) {
        const size_t stride = (size_t)tiff_samples_used(&job->pixel);
        for (size_t i = 0; i < pixels; i++) job->planes[(at + i) * stride + (size_t)plane] = job->row[i];
        return;
    }
    tiff_put_row(job->source, &job->pixel, job->row, job->samples, pixels, job->image->rgb + 3 * at,
                 job->facts);
}

static int read_strips(struct job *job, int plane)
{
    for (int64_t y = 0; y < job->height; y++) {
        const int done = tiff.TIFFReadScanline(job->file, job->packed, (uint32_t)y, (uint16_t)plane);
        if (done < 0)
            return fail_reading(
                job, block_is_cut(job, tiff.TIFFComputeStrip(job->file, (uint32_t)y, (uint16_t)plane)));
        IMAGE_WRITTEN(job->packed, job->packed_bytes);
        take_row(job, plane, 0, y, job->width, job->packed);
    }
    return EFFNET_OK;
}

static int read_tile(struct job *job, int plane, int64_t left, int64_t top)
{
    const uint32_t tile = tiff.TIFFComputeTile(job->file, (uint32_t)left, (uint32_t)top, 0, (uint16_t)plane);
    const size_t row_bytes = tiff.TIFFTileRowSize64(job->file);
    const int64_t columns = job->width - left < job->tile_width ? job->width - left : job->tile_width;
    const int64_t rows = job->height - top < job->tile_height ? job->height - top : job->tile_height;
    if (tiff.TIFFReadEncodedTile(job->file, tile, job->packed, (tmsize_t)job->packed_bytes) < 0)
        return fail_reading(job, block_is_cut(job, tile));
    IMAGE_WRITTEN(job->packed, job->packed_bytes);
    for (int64_t y = 0; y < rows; y++)
        take_row(job, plane, left, top + y, columns, job->packed + (size_t)y * row_bytes);
    return EFFNET_OK;
}

static int read_tiles(struct job *job, int plane)
{
    for (int64_t top = 0; top < job->height; top += job->tile_height)
        for (int64_t left = 0; left < job->width; left += job->tile_width)
            EFFNET_TRY(read_tile(job, plane, left, top));
    return EFFNET_OK;
}

static int read_planes(struct job *job)
{
    const int planes = job->separate ? tiff_samples_used(&job->pixel) : 1;
    for (int plane = 0; plane < planes; plane++)
        EFFNET_TRY(job->tiled ? read_tiles(job, plane) : read_strips(job, plane));
    if (job->separate)
        tiff_put_row(job->source, &job->pixel, job->planes, (size_t)planes,
                     (size_t)(job->width * job->height), job->image->rgb, job->facts);
    return EFFNET_OK;
}

/* Zeroed: damage that a decoder lets pass may leave pixels unwritten. */
static int allocate(const struct job *job, size_t size_bytes, uint8_t **memory)
{
    if (size_bytes == 0) return EFFNET_OK;
    *memory = calloc(1, size_bytes);
    return *memory ? EFFNET_OK : effnet_fail_nomem(job->source->error, job->source->name, size_bytes);
}

static int read_image(struct job *job, const struct tiff_directory *directory)
{
    if (!job->file) return fail_reading(job, directory->cut);
    EFFNET_TRY(read_tags(job));
    EFFNET_TRY(check_cost(job, directory->memory_bytes));
    job->facts->orientation = find_orientation(job);
    EFFNET_TRY(image_alloc(job->source, job->width, job->height, job->image));
    EFFNET_TRY(allocate(job, job->packed_bytes, &job->packed));
    EFFNET_TRY(allocate(job, job->row_bytes, &job->row));
    EFFNET_TRY(allocate(job, job->planes_bytes, &job->planes));
    return read_planes(job);
}

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct job job = {.source = source, .stream.source = source, .image = out, .facts = facts};
    struct tiff_directory directory;
    EFFNET_TRY(tiff_load(source));
    EFFNET_TRY(tiff_read_directory(source, &directory));
    if (source->size_bytes + directory.memory_bytes > IMAGE_DECODING_BYTES)
        return image_fail(source, "too large, this TIFF's directory takes %llu MB",
                          (unsigned long long)directory.memory_bytes / 1000000);
    int status = tiff_open(&job.stream, IMAGE_DECODING_BYTES, &job.file);
    if (!status) status = read_image(&job, &directory);
    if (job.file) tiff.TIFFClose(job.file);
    free(job.packed);
    free(job.row);
    free(job.planes);
    return status;
}

/* The directory may be anywhere in the file. */
static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    *extent_bytes = UINT64_MAX;
    return tiff_load(start);
}

#else

static int decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    (void)out;
    (void)facts;
    return image_fail_left_out(source, "a TIFF image", "libtiff");
}

static int extent(const struct image_source *start, uint64_t *extent_bytes)
{
    (void)extent_bytes;
    return decode(start, NULL, NULL);
}

#endif

const struct image_format image_format_tiff = {"TIFF", matches, decode, extent};
