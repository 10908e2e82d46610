/* JPEG through libjpeg-turbo, as Pillow uses it (JDCT_ISLOW, fancy upsampling), so that
 * the pixels are Pillow's: baseline, extended and progressive, Huffman and arithmetic, 8 bits; grey, YCbCr,
 * RGB, CMYK and YCCK, the last two taken as inverted, as Adobe writes them.
 *
 * libjpeg goes on where data is missing or damaged, and says so in a warning. Damage is let pass, as in
 * Pillow. But where the data of a scan ends before its blocks do, libjpeg would invent the rest, and the
 * file is refused as truncated, wherever its end marker is. One thing is let pass: a restart marker may be
 * lost, and damage may make a few intervals between the markers short.
 *
 * What a file may cost is bounded by IMAGE_DECODING_BYTES and, where all pixels come in one scan, by the
 * pixel limit: each block of 8x8 takes a bit or two of the file's data. With several scans each goes over the
 * image again, be it a few bytes long, and arithmetic code can pack a block in nothing; there MAX_WORK
 * counts. Together they keep any file below 10 s and 1.2 GB on one core of 2020 or later. */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h> /* wants jpeglib.h before */

#include "common/error.h"
#include "image/formats/jpeg.h"

/* Blocks that all scans may visit; a visit takes up to 40 ns. The largest progressive images within the
 * other limits, of 4 million blocks, a dozen scans and 40 MB, take half of it. */
#define MAX_WORK INT64_C(80000000)

/* What else takes time, in visits: a scan's tables, the start of a row of blocks. A block of arithmetic
 * code decides up to 128 times; where its data has ended, zeros can stand for anything: 32 decisions for each
 * coefficient that a scan brings, 3 for one that it refines. A single scan of a pattern without data counts
 * less, for there is no other work. Two bytes of a scan's data count as one visit, too. */
enum {
    WORK_OF_SCAN = 200,
    WORK_OF_ROW = 8,
    WORK_OF_ARITHMETIC = 15,
    WORK_OF_PATTERN = 40,
    DECISIONS_A_VISIT = 13
};

/* A bit of arithmetic code takes up to 30 decisions, of 3 ns. */
enum { MAX_ARITHMETIC_BYTES = 8 << 20 };

/* So many MCUs may show something new where arithmetic code has ended. Its decoder holds three bytes when it
 * meets the end marker, which is an edge or two; the thousands of complete drawings that were tried show
 * nothing new there. */
enum { MAX_NEW_MCUS = 12, ROWS_TO_REPEAT = 3 };

/* In zigzag order, from DC on. */
enum { SMOOTHED_COEFFICIENTS = 10 };

/* One decoding. libjpeg leaves through longjmp, so everything it touches is in here, and nothing that is
 * needed afterwards lives in a local variable. */
struct job {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr bytes;
    struct jpeg_progress_mgr progress;
    jmp_buf leave;

    const struct image_source *source;
    int status;
    struct effnet_image *image; /* the window's pixels */
    struct image_facts *facts;
    struct image_window window;
    JSAMPROW spare_row; /* for pixels that nobody wants, and inks */
    bool complete;      /* all pixels are in place */

    bool skipped;        /* bytes before the last marker were not used */
    bool blank_interval; /* the interval that begins has no data, because its restart marker is lost */
    int first_lost_scan; /* that lost a marker or an interval; 0: none did */
    int short_intervals, short_in_scan; /* how many the last scan has that has any */

    bool reading_scans; /* all scans are read before the first pixel comes */
    int scan;           /* that the work was last counted for */
    int64_t work;
    unsigned components_seen; /* bit i: component i had a scan */

    int64_t data_end_row; /* first row of pixels that arithmetic decoding had no data for; 0: none yet */
    int new_mcus;         /* that came out of no data */
};

static struct job *job_of(j_common_ptr jpeg)
{
    return jpeg->client_data;
}

static _Noreturn void leave(struct job *job, int status)
{
    job->status = status;
    longjmp(job->leave, 1);
}

/* Leaves with EFFNET_E_DATA and a reason, printf style. */
#define REFUSE(job, ...) leave(job, image_fail((job)->source, __VA_ARGS__))

/* Where scans have components of their own, libjpeg takes the first one of the name for each. */
static void check_identifiers(struct job *job)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    for (int i = 0; job->reading_scans && i < jpeg->num_components; i++)
        for (int k = 0; k < i; k++)
            if (jpeg->comp_info[i].component_id == jpeg->comp_info[k].component_id)
                REFUSE(job, "bad JPEG: several scans, and two components of identifier %d",
                       jpeg->comp_info[i].component_id);
}

static _Noreturn void leave_truncated(struct job *job)
{
    check_identifiers(job);
    leave(job, image_fail_truncated(job->source));
}

static _Noreturn void leave_precision(struct job *job)
{
    REFUSE(job, "a JPEG of %d bits a sample, which is not read", job->jpeg.data_precision);
}

static bool is_restart(int marker)
{
    return marker >= MARKER_RST0 && marker <= MARKER_RST7;
}

/* Whether arithmetic decoding has met the end of its scan's data; it reads zeros from there on. */
static bool arithmetic_data_ended(const struct jpeg_decompress_struct *jpeg)
{
    return jpeg->arith_code && jpeg->unread_marker != 0 && !is_restart(jpeg->unread_marker);
}

/* ---------------------------------------------------------------- restart intervals */

/* Whether no more than one interval of the scan is left, give or take a row of MCUs. */
static bool in_last_interval(const struct jpeg_decompress_struct *jpeg)
{
    int64_t row_mcus = (int64_t)jpeg->MCUs_per_row * jpeg->max_v_samp_factor;
    int64_t rows_left = (int64_t)jpeg->total_iMCU_rows - jpeg->input_iMCU_row;
    return (rows_left - 1) * row_mcus <= jpeg->restart_interval;
}

static void note_lost_interval(struct job *job)
{
    if (job->first_lost_scan == 0) job->first_lost_scan = job->jpeg.input_scan_number;
}

/* An interval's data is missing or too short. One of a scan may be so if it is no more than half of the
 * scan, or several of an eighth in all. */
static void count_short_interval(struct job *job)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    int64_t mcus = (int64_t)jpeg->MCUs_per_row * jpeg->MCU_rows_in_scan;
    note_lost_interval(job);
    if (job->short_in_scan != jpeg->input_scan_number) job->short_intervals = 0;
    job->short_in_scan = jpeg->input_scan_number;
    int64_t short_mcus = ++job->short_intervals * (int64_t)jpeg->restart_interval;
    if (short_mcus == 0 || short_mcus * (job->short_intervals == 1 ? 2 : 8) > mcus) leave_truncated(job);
}

/* The Huffman decoder wants bits and there is a marker; zeros will stand for the rest of the interval. */
static void on_bits_used_up(struct job *job)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    bool known = job->blank_interval;
    job->blank_interval = false;
    if (known) return;
    /* What is lost in one scan of a progressive file misleads the later ones about the same blocks. */
    bool misled = job->first_lost_scan > 0 && job->first_lost_scan < jpeg->input_scan_number;
    if (misled && (is_restart(jpeg->unread_marker) || in_last_interval(jpeg))) return;
    if (!is_restart(jpeg->unread_marker)) leave_truncated(job);
    count_short_interval(job);
}

/* ---------------------------------------------------------------- libjpeg's errors and warnings */

/* The kind of file that a marker libjpeg cannot take tells of, where it comes before any frame. */
static const char *kind_not_read(const struct job *job)
{
    const struct jpeg_error_mgr *errors = &job->errors;
    if (errors->msg_code != JERR_SOF_UNSUPPORTED && errors->msg_code != JERR_UNKNOWN_MARKER) return NULL;
    if (job->jpeg.comp_info) return NULL;
    switch (errors->msg_parm.i[0]) {
    case MARKER_SOF3:
    case MARKER_SOF11: return "a lossless JPEG";
    case MARKER_SOF5:
    case MARKER_SOF6:
    case MARKER_SOF7:
    case MARKER_SOF13:
    case MARKER_SOF14:
    case MARKER_SOF15:
    case MARKER_DHP: return "a hierarchical JPEG";
    case MARKER_SOF55: return "a JPEG-LS image";
    default: return NULL;
    }
}

static void on_error(j_common_ptr jpeg)
{
    struct job *job = job_of(jpeg);
    char reason[JMSG_LENGTH_MAX];
    if (job->complete) leave(job, EFFNET_OK); /* what follows the pixels is not our concern */
    if (jpeg->err->msg_code == JERR_BAD_PRECISION) leave_precision(job);
    const char *kind = kind_not_read(job);
    if (kind) REFUSE(job, "%s, which is not read", kind);
    jpeg->err->format_message(jpeg, reason);
    bool nomem = jpeg->err->msg_code == JERR_OUT_OF_MEMORY;
    leave(job, effnet_fail(job->source->error, nomem ? EFFNET_E_NOMEM : EFFNET_E_DATA, "%s: %s%s",
                           job->source->name, nomem ? "" : "bad JPEG: ", reason));
}

static void on_message(j_common_ptr jpeg, int level)
{
    struct job *job = job_of(jpeg);
    if (level >= 0) return;
    jpeg->err->num_warnings++;
    switch (jpeg->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA: job->skipped = true; break;
    case JWRN_HIT_MARKER: on_bits_used_up(job); break;
    case JWRN_ARITH_BAD_CODE:
        if (arithmetic_data_ended(&job->jpeg)) leave_truncated(job);
        break;
    default: break;
    }
}

/* ---------------------------------------------------------------- libjpeg's source of bytes */

static void on_start(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean on_data_used_up(j_decompress_ptr jpeg)
{
    leave_truncated(job_of((j_common_ptr)jpeg));
}

static void on_skip(j_decompress_ptr jpeg, long count)
{
    if (count <= 0) return;
    if ((size_t)count > jpeg->src->bytes_in_buffer) leave_truncated(job_of((j_common_ptr)jpeg));
    jpeg->src->next_input_byte += count;
    jpeg->src->bytes_in_buffer -= (size_t)count;
}

/* A marker is there that is not the restart marker wanted. libjpeg either resumes with the bytes behind
 * it, or leaves it for later and takes the interval as empty. A lost marker leaves bytes that were not used,
 * those of the interval behind it. A file that was cut leaves none. */
static boolean on_restart_lost(j_decompress_ptr jpeg, int wanted)
{
    struct job *job = job_of((j_common_ptr)jpeg);
    /* libjpeg tells of unused bytes when it looks for a marker. While it filled its bit buffer it may have
     * met this one already: it shall look again. */
    jpeg->src->next_input_byte -= 2;
    jpeg->src->bytes_in_buffer += 2;
    jpeg->unread_marker = 0;
    if (!jpeg_resync_to_restart(jpeg, wanted)) return FALSE;
    bool skipped = job->skipped;
    job->skipped = false;
    if (jpeg->unread_marker == 0) return TRUE;
    if (skipped)
        note_lost_interval(job);
    else if (jpeg->unread_marker == MARKER_EOI)
        leave_truncated(job);
    else
        count_short_interval(job);
    job->blank_interval = true;
    return TRUE;
}

/* ---------------------------------------------------------------- limits */

static void add_work(struct job *job, int64_t work)
{
    job->work += work;
    if (job->work > MAX_WORK)
        REFUSE(job, "too costly a JPEG: %d scans over %u x %u pixels, %zu bytes", job->jpeg.input_scan_number,
               job->jpeg.image_width, job->jpeg.image_height, job->source->size_bytes);
}

static int work_without_data(const struct jpeg_decompress_struct *jpeg)
{
    /* A sequential scan brings them all, whatever its header says. */
    int coefficients = jpeg->progressive_mode ? jpeg->Se - jpeg->Ss + 1 : DCTSIZE2;
    bool refines = jpeg->progressive_mode && jpeg->Ah > 0;
    return 1 + coefficients * (refines ? 3 : 32) / DECISIONS_A_VISIT;
}

/* Called before libjpeg takes the next row of blocks, of all the components in the scan. */
static void on_progress(j_common_ptr common)
{
    struct job *job = job_of(common);
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    if (!job->reading_scans) return;
    if (job->scan != jpeg->input_scan_number) {
        job->scan = jpeg->input_scan_number;
        add_work(job, WORK_OF_SCAN);
        for (int i = 0; i < jpeg->comps_in_scan; i++)
            job->components_seen |= 1u << jpeg->cur_comp_info[i]->component_index;
    }
    const jpeg_component_info *first = jpeg->cur_comp_info[0];
    int64_t blocks = jpeg->comps_in_scan == 1 ? (int64_t)first->width_in_blocks * first->v_samp_factor
                                              : (int64_t)jpeg->MCUs_per_row * jpeg->blocks_in_MCU;
    int work = arithmetic_data_ended(jpeg) ? work_without_data(jpeg)
               : jpeg->arith_code          ? WORK_OF_ARITHMETIC
                                           : 1;
    add_work(job, WORK_OF_ROW + blocks * work);
}

/* What can be told before anything is decoded. */
static void check_cost(struct job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    bool several_scans = jpeg_has_multiple_scans(jpeg);
    int64_t file_bytes = (int64_t)job->source->size_bytes, blocks = 0;
    for (int i = 0; i < jpeg->num_components; i++) {
        const jpeg_component_info *component = &jpeg->comp_info[i];
        int64_t columns = component->width_in_blocks + (JDIMENSION)component->h_samp_factor - 1;
        int64_t rows = component->height_in_blocks + (JDIMENSION)component->v_samp_factor - 1;
        blocks += columns * rows;
    }
    int64_t pixel_bytes = (int64_t)jpeg->image_width * jpeg->image_height * 3;
    /* What is kept beside the pixels: the coefficients of all scans or, once these are gone, the pixels
     * turned upright. */
    int64_t coefficient_bytes = several_scans ? blocks * (int64_t)sizeof(JBLOCK) : 0;
    int64_t turned_bytes = job->facts->orientation > 1 ? pixel_bytes : 0;
    int64_t kept_bytes = file_bytes + pixel_bytes;
    kept_bytes += coefficient_bytes > turned_bytes ? coefficient_bytes : turned_bytes;
    if (kept_bytes > IMAGE_DECODING_BYTES)
        REFUSE(job, "too large, this JPEG of %u x %u takes %lld MB to decode; the limit is %lld",
               jpeg->image_width, jpeg->image_height, (long long)kept_bytes / 1000000,
               (long long)IMAGE_DECODING_BYTES / 1000000);
    if (jpeg->arith_code && file_bytes > MAX_ARITHMETIC_BYTES)
        REFUSE(job, "too large, %lld bytes of arithmetic code; the limit is %d", (long long)file_bytes,
               MAX_ARITHMETIC_BYTES);
    if (several_scans)
        add_work(job, file_bytes / 2);
    else if (jpeg->arith_code)
        add_work(job, blocks * WORK_OF_ARITHMETIC);
}

static void check_header(struct job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    if (jpeg->data_precision != 8) leave_precision(job); /* libjpeg-turbo 3 has let it pass */
    if (jpeg->num_components != 1 && jpeg->num_components != 3 && jpeg->num_components != 4)
        REFUSE(job, "a JPEG of %d components, which is not read; 1, 3 and 4 are", jpeg->num_components);
    int status = image_check_size(job->source, jpeg->image_width, jpeg->image_height);
    if (status) leave(job, status);
    IMAGE_WRITTEN(jpeg->comp_info, (size_t)jpeg->num_components * sizeof *jpeg->comp_info);
    check_cost(job);
}

/* All scans are read. A file that was cut between two of them lacks a component, or coefficients, or their
 * low bits. The standard allows an encoder to leave these out, too. That cannot be told apart but for one
 * case: all components end with the same coefficient and lack no bit up to there. It must lie above those
 * that libjpeg smooths where they are missing, since versions differ in that. */
static void check_scans(struct job *job)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    if (job->components_seen != (1u << jpeg->num_components) - 1) leave_truncated(job);
    if (!jpeg->progressive_mode) return;
    IMAGE_WRITTEN(jpeg->coef_bits, (size_t)jpeg->num_components * sizeof *jpeg->coef_bits);
    int count = DCTSIZE2;
    while (jpeg->coef_bits[0][count - 1] < 0 && count > SMOOTHED_COEFFICIENTS) count--;
    for (int i = 0; i < jpeg->num_components; i++)
        for (int k = 0; k < DCTSIZE2; k++) {
            if (jpeg->coef_bits[i][k] == (k < count ? 0 : -1)) continue;
            check_identifiers(job);
            REFUSE(job, "truncated, or not completed by its encoder: the scans do not bring "
                        "every coefficient in full");
        }
}

/* Whether MCUs from `row` on, `bytes` of a row of pixels, repeat what was above the end of the data. */
static bool repeats(const struct job *job, int64_t y, size_t at, size_t bytes)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    size_t row_bytes = (size_t)job->image->width * 3;
    int64_t mcu_rows = jpeg->max_v_samp_factor * DCTSIZE;
    const uint8_t *here = job->image->rgb + (size_t)y * row_bytes + at;
    int64_t above = job->data_end_row - mcu_rows + y % mcu_rows;
    for (int i = 0; i < ROWS_TO_REPEAT && above >= 0; i++, above -= mcu_rows)
        if (memcmp(here, job->image->rgb + (size_t)above * row_bytes + at, bytes) == 0) return true;
    return false;
}

/* Arithmetic code leaves out the zeros at its end. Out of these come the most probable decisions only, so
 * the bytes can end long before the image does, where that is flat or repeats a pattern. Behind the cut in a
 * photograph something new comes that nobody drew, all over. One row of pixels, which no other row of MCUs
 * has a share in, speaks for a row of MCUs. (Files in several scans are not looked at; there a cut shows by
 * the scans that are missing, and in the last scan it is not seen.) */
static void check_row_without_data(struct job *job, int64_t y)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    int64_t mcu_rows = jpeg->max_v_samp_factor * DCTSIZE;
    if (job->reading_scans || jpeg_has_multiple_scans(&job->jpeg)) return;
    if (job->data_end_row == 0 && arithmetic_data_ended(jpeg))
        job->data_end_row = jpeg->input_iMCU_row * mcu_rows;
    if (job->data_end_row == 0 || y < job->data_end_row || y % mcu_rows != DCTSIZE / 2) return;

    size_t row_bytes = (size_t)job->image->width * 3,
           mcu_bytes = (size_t)jpeg->max_h_samp_factor * DCTSIZE * 3;
    const uint8_t *row = job->image->rgb + (size_t)y * row_bytes;
    for (size_t at = 0; at < row_bytes; at += mcu_bytes) {
        size_t bytes = row_bytes - at < mcu_bytes ? row_bytes - at : mcu_bytes;
        bool flat = memcmp(row + at, row + at + 3, bytes - 3) == 0;
        if (flat) continue;
        add_work(job, (int64_t)jpeg->blocks_in_MCU * WORK_OF_PATTERN);
        if (!repeats(job, y, at, bytes)) job->new_mcus++;
    }
    if (job->new_mcus > MAX_NEW_MCUS) leave_truncated(job);
}

/* ---------------------------------------------------------------- pixels */

/* Inverted CMYK, in which 255 is no ink, to RGB: each ink times black, rounded. */
static void convert_cmyk(const JSAMPLE *cmyk, uint8_t *rgb, int width)
{
    for (int x = 0; x < width; x++, cmyk += 4, rgb += 3)
        for (int c = 0; c < 3; c++) {
            unsigned product = (unsigned)cmyk[c] * cmyk[3] + 128;
            rgb[c] = (uint8_t)((product + (product >> 8)) >> 8);
        }
}

/* Decides what part of the image is decoded. Where arithmetic code may have ended early, all pixels are
 * looked at. */
static void choose_window(struct job *job)
{
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    int width = (int)jpeg->image_width, height = (int)jpeg->image_height;
    struct image_facts *facts = job->facts;
    struct image_window *window = &job->window;
    int status = image_find_window(job->source, width, height, facts->orientation, window);
    if (status) leave(job, status);
    if (jpeg->arith_code) *window = (struct image_window){0, 0, width, height};
    /* Columns come as whole iMCUs. At an edge of them chroma is upsampled as at an edge of the image, for
     * which its neighbour was taken: one more column on each side makes it right. */
    int step = jpeg->max_h_samp_factor * DCTSIZE;
    int left = window->left > 0 ? window->left - 1 : 0, right = window->right + 1;
    window->left = left / step * step;
    window->right = right > width - step ? width : (right + step - 1) / step * step;
    facts->width = width;
    facts->height = height;
    facts->window = *window;
}

/* Takes up to `rows` rows of the window, as many as libjpeg gives at once. */
static void read_rows(struct job *job, uint8_t *rgb, JDIMENSION rows)
{
    enum { MOST_ROWS = 16 };
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    size_t row_bytes = (size_t)job->image->width * 3;
    JSAMPROW to[MOST_ROWS];
    if (rows > MOST_ROWS) rows = MOST_ROWS;
    for (JDIMENSION i = 0; i < rows; i++) to[i] = rgb + i * row_bytes;
    int64_t y = jpeg->output_scanline;
    JDIMENSION count = jpeg_read_scanlines(jpeg, to, rows);
    IMAGE_WRITTEN(rgb, count * row_bytes);
    for (JDIMENSION i = 0; i < count; i++) check_row_without_data(job, y + i);
}

static void read_cmyk_row(struct job *job, uint8_t *rgb)
{
    int64_t y = job->jpeg.output_scanline;
    jpeg_read_scanlines(&job->jpeg, &job->spare_row, 1);
    IMAGE_WRITTEN(job->spare_row, (size_t)job->image->width * 4);
    convert_cmyk(job->spare_row, rgb, job->image->width);
    check_row_without_data(job, y);
}

/* Goes through the data of the rows below the window, without making pixels of it, so that a cut shows. To
 * skip the very last row would leave the data before the end marker unread. */
static void pass_rows_below(struct job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    /* libjpeg-turbo skips right from the start of a row of samples alone. */
    JDIMENSION group = (JDIMENSION)jpeg->max_v_samp_factor;
    while (jpeg->output_scanline < jpeg->output_height && jpeg->output_scanline % group != 0)
        jpeg_read_scanlines(jpeg, &job->spare_row, 1);
    if (jpeg->output_height - jpeg->output_scanline > 1)
        jpeg_skip_scanlines(jpeg, jpeg->output_height - jpeg->output_scanline - 1);
    while (jpeg->output_scanline < jpeg->output_height) jpeg_read_scanlines(jpeg, &job->spare_row, 1);
}

static void read_window(struct job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    const struct image_window *window = &job->window;
    size_t row_bytes = (size_t)job->image->width * 3;
    JDIMENSION left = (JDIMENSION)window->left, width = (JDIMENSION)job->image->width;
    if (width < jpeg->output_width) jpeg_crop_scanline(jpeg, &left, &width);
    if (left != (JDIMENSION)window->left || width != (JDIMENSION)job->image->width)
        REFUSE(job, "bad JPEG: unexpected columns");
    job->spare_row = jpeg->mem->alloc_large((j_common_ptr)jpeg, JPOOL_IMAGE, (size_t)width * 4);

    if (window->top > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)window->top);
    while (jpeg->output_scanline < (JDIMENSION)window->bottom) {
        JDIMENSION y = jpeg->output_scanline - (JDIMENSION)window->top;
        uint8_t *rgb = job->image->rgb + y * row_bytes;
        if (jpeg->out_color_space == JCS_CMYK)
            read_cmyk_row(job, rgb);
        else
            read_rows(job, rgb, (JDIMENSION)job->image->height - y);
    }
}

/* What libjpeg leaves by longjmp ends in run. */
static void read_image(struct job *job)
{
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    jpeg_create_decompress(jpeg);
    jpeg->src = &job->bytes;
    jpeg->progress = &job->progress;
    jpeg_read_header(jpeg, TRUE);
    check_header(job);

    choose_window(job);
    const struct image_window *window = &job->window;
    int status = image_alloc(job->source, window->right - window->left, window->bottom - window->top,
                             job->image);
    if (status) leave(job, status);
    jpeg->out_color_space = jpeg->num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = TRUE;

    job->reading_scans = jpeg_has_multiple_scans(jpeg);
    jpeg_start_decompress(jpeg);
    bool all_read = job->reading_scans;
    if (all_read) check_scans(job);
    job->reading_scans = false;

    read_window(job);
    if (!all_read) {
        pass_rows_below(job);
        job->complete = true;
        jpeg_finish_decompress(jpeg); /* looks for the end marker */
    }
}

static void run(struct job *job)
{
    if (setjmp(job->leave) == 0) read_image(job);
}

int image_jpeg_decode(const struct image_source *source, struct effnet_image *out, struct image_facts *facts)
{
    struct job job = {.source = source, .image = out, .facts = facts};
    job.jpeg.err = jpeg_std_error(&job.errors);
    job.jpeg.client_data = &job;
    job.errors.error_exit = on_error;
    job.errors.emit_message = on_message;
    job.progress.progress_monitor = on_progress;
    job.bytes = (struct jpeg_source_mgr){
        .next_input_byte = source->data,
        .bytes_in_buffer = source->size_bytes,
        .init_source = on_start,
        .fill_input_buffer = on_data_used_up,
        .skip_input_data = on_skip,
        .resync_to_restart = on_restart_lost,
        .term_source = on_start,
    };
    run(&job);
    jpeg_destroy_decompress(&job.jpeg);
    return job.status;
}
