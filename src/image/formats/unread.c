/* Formats that are recognised to be named, and not read. */
#include "image/formats/formats.h"

#include <string.h>
#include <strings.h>

/* How far a text's first element is looked for: the bytes of a file that are read first. */
enum { SEARCHED_BYTES = 64 << 10 };

struct signature {
    const char *what, *bytes;
    size_t length;
};

#define SIGNATURE(what, bytes)                                                                               \
    {                                                                                                        \
        what, bytes, sizeof bytes - 1                                                                        \
    }

static const struct signature signatures[] = {
    SIGNATURE("a TIFF image", "II*\0"),
    SIGNATURE("a TIFF image", "MM\0*"),
    SIGNATURE("a TIFF image", "II+\0"),
    SIGNATURE("a TIFF image", "MM\0+"),
    SIGNATURE("a JPEG 2000 image", "\0\0\0\x0cjP  \r\n\x87\n"),
    SIGNATURE("a JPEG 2000 image", "\xff\x4f\xff\x51"),
    SIGNATURE("a JPEG XL image", "\0\0\0\x0cJXL \r\n\x87\n"),
    SIGNATURE("a JPEG XL image", "\xff\x0a"),
    SIGNATURE("a JPEG XR image", "II\xbc"),
    SIGNATURE("an icon (ICO)", "\0\0\1\0"),
    SIGNATURE("an icon (ICNS)", "icns"),
    SIGNATURE("a PCX image", "\x0a\5\1"),
    SIGNATURE("a PCX image", "\x0a\3\1"),
    SIGNATURE("a PCX image", "\x0a\2\1"),
    SIGNATURE("a Photoshop file (PSD)", "8BPS"),
    SIGNATURE("a PostScript file", "%!PS"),
    SIGNATURE("a PostScript file", "\xc5\xd0\xd3\xc6"),
    SIGNATURE("a QOI image", "qoif"),
    SIGNATURE("a DDS image", "DDS "),
    SIGNATURE("an OpenEXR image", "\x76\x2f\x31\1"),
    SIGNATURE("a Radiance HDR image", "#?RADIANCE"),
    SIGNATURE("a Radiance HDR image", "#?RGBE"),
    SIGNATURE("a PAM image", "P7\n"),
    SIGNATURE("a PFM image", "PF\n"),
    SIGNATURE("a PFM image", "Pf\n"),
    SIGNATURE("a gzip archive", "\x1f\x8b"),
    SIGNATURE("a ZIP archive", "PK\3\4"),
    SIGNATURE("a Git LFS pointer in place of the file", "version https://git-lfs"),
};

/* Whether the two words stand at the start and at `offset`. */
static bool has_words(const uint8_t *data, size_t size_bytes, const char *first, size_t offset,
                      const char *second)
{
    return size_bytes >= offset + strlen(second) && memcmp(data, first, strlen(first)) == 0 &&
           memcmp(data + offset, second, strlen(second)) == 0;
}

/* HEIF and AVIF: a box "ftyp" of brands of four letters, the chief one first. */
static const char *heif_kind(const uint8_t *data, size_t size_bytes)
{
    static const char *const hevc[] = {"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"};
    if (size_bytes < 12 || memcmp(data + 4, "ftyp", 4) != 0) return NULL;
    size_t length = (size_t)data[2] << 8 | data[3];
    if (data[0] || data[1] || length > size_bytes) length = size_bytes;
    /* An image in AVIF may name mif1 first: any brand tells. */
    for (size_t at = 8; at + 4 <= length; at += 4)
        if (memcmp(data + at, "avif", 4) == 0 || memcmp(data + at, "avis", 4) == 0) return "an AVIF image";
    for (size_t i = 0; i < sizeof hevc / sizeof hevc[0]; i++)
        if (memcmp(data + 8, hevc[i], 4) == 0) return "a HEIC image";
    return NULL;
}

/* A Windows cursor begins as a TGA does, so the place of its first image has to be right, too. */
static bool is_cursor(const uint8_t *data, size_t size_bytes)
{
    if (size_bytes < 22 || memcmp(data, "\0\0\2\0", 4) != 0) return false;
    unsigned images = data[4] | (unsigned)data[5] << 8;
    unsigned place = data[18] | (unsigned)data[19] << 8 | (unsigned)data[20] << 16 | (unsigned)data[21] << 24;
    return images > 0 && place == 6 + 16 * images;
}

static bool word_at(const char *text, size_t length, const char *word)
{
    return length >= strlen(word) && strncasecmp(text, word, strlen(word)) == 0;
}

/* SVG and HTML, behind white space, an XML declaration and comments. */
static const char *markup_kind(const char *text, size_t size_bytes)
{
    const char *end = text + size_bytes;
    while (text < end && memchr(" \t\r\n", *text, 4)) text++;
    if (text == end || *text != '<') return NULL;
    for (; text; text = memchr(text + 1, '<', (size_t)(end - text - 1))) {
        size_t length = (size_t)(end - text);
        if (word_at(text, length, "<svg") || word_at(text, length, "<!doctype svg")) return "an SVG image";
        if (word_at(text, length, "<html") || word_at(text, length, "<!doctype html")) return "an HTML page";
        if (word_at(text, length, "<!--")) text = memmem(text + 4, length - 4, "-->", 3);
        if (!text) break;
    }
    return NULL;
}

/* Text in UTF-8, with its mark or without, or in UTF-16, whose mark tells the order of the bytes. */
static const char *text_kind(const uint8_t *data, size_t size_bytes)
{
    char narrow[4096];
    if (size_bytes > SEARCHED_BYTES) size_bytes = SEARCHED_BYTES;
    if (size_bytes >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        return markup_kind((const char *)data + 3, size_bytes - 3);
    bool low_first = size_bytes >= 2 && memcmp(data, "\xff\xfe", 2) == 0;
    if (!low_first && (size_bytes < 2 || memcmp(data, "\xfe\xff", 2) != 0))
        return markup_kind((const char *)data, size_bytes);
    size_t length = 0;
    for (size_t at = 2; at + 2 <= size_bytes && length < sizeof narrow; at += 2) {
        uint8_t low = data[at + !low_first], high = data[at + low_first];
        narrow[length++] = (char)(high ? 0 : low);
    }
    return markup_kind(narrow, length);
}

/* Readers of PDF let up to 1024 bytes of anything come first. */
static bool is_pdf(const uint8_t *data, size_t size_bytes)
{
    return memmem(data, size_bytes < 1024 ? size_bytes : 1024, "%PDF-", 5) != NULL;
}

const char *image_format_unread(const uint8_t *data, size_t size_bytes)
{
    if (has_words(data, size_bytes, "RIFF", 8, "WEBP")) return "a WebP image";
    if (has_words(data, size_bytes, "BA", 14, "BM")) return "an OS/2 bitmap array";
    if (is_cursor(data, size_bytes)) return "a cursor (CUR)";
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++)
        if (size_bytes >= signatures[i].length &&
            memcmp(data, signatures[i].bytes, signatures[i].length) == 0)
            return signatures[i].what;
    const char *heif = heif_kind(data, size_bytes);
    if (heif) return heif;
    return is_pdf(data, size_bytes) ? "a PDF document" : text_kind(data, size_bytes);
}
