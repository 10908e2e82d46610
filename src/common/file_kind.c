#include "common/file_kind.h"

#include <string.h>
#include <strings.h>

enum {
    SEARCHED_WORD = 4096,     /* bytes in which a second sign is looked for, */
    SEARCHED_TEXT = 64 << 10, /* and a text's first element */
    SEARCHED_PDF = 1024,      /* as readers of PDF do: so many bytes of anything may come first */
};

#define SIGN(text) text, sizeof text - 1

/* A file is of the first kind whose sign stands at its offset and whose second sign, where there is one,
 * stands somewhere in the first SEARCHED_WORD bytes. */
static const struct {
    const char *sign;
    size_t length, offset;
    const char *second;
    struct file_kind kind;
} signatures[] = {
    {SIGN("\x89PNG\r\n\x1a\n"), 0, NULL, {"a PNG image", FILE_IMAGE_READ}},
    {SIGN("\xff\xd8\xff"), 0, NULL, {"a JPEG image", FILE_IMAGE_READ}},
    {SIGN("GIF8"), 0, NULL, {"a GIF image", FILE_IMAGE_READ}},
    {SIGN("BM"), 0, NULL, {"a BMP image", FILE_IMAGE_READ}},
    {SIGN("BA"), 0, "BM", {"an OS/2 bitmap array", FILE_IMAGE}},
    {SIGN("WEBP"), 8, "RIFF", {"a WebP image", FILE_IMAGE_READ}},
    {SIGN("II*\0"), 0, NULL, {"a TIFF image", FILE_IMAGE_READ}},
    {SIGN("MM\0*"), 0, NULL, {"a TIFF image", FILE_IMAGE_READ}},
    {SIGN("II+\0"), 0, NULL, {"a TIFF image", FILE_IMAGE_READ}},
    {SIGN("MM\0+"), 0, NULL, {"a TIFF image", FILE_IMAGE_READ}},
    {SIGN("\0\0\0\x0cjP  \r\n\x87\n"), 0, NULL, {"a JPEG 2000 image", FILE_IMAGE}},
    {SIGN("\xff\x4f\xff\x51"), 0, NULL, {"a JPEG 2000 image", FILE_IMAGE}},
    {SIGN("\0\0\0\x0cJXL \r\n\x87\n"), 0, NULL, {"a JPEG XL image", FILE_IMAGE}},
    {SIGN("\xff\x0a"), 0, NULL, {"a JPEG XL image", FILE_IMAGE}},
    {SIGN("II\xbc"), 0, NULL, {"a JPEG XR image", FILE_IMAGE}},
    {SIGN("\0\0\1\0"), 0, NULL, {"an icon (ICO)", FILE_IMAGE}},
    {SIGN("icns"), 0, NULL, {"an icon (ICNS)", FILE_IMAGE}},
    {SIGN("\x0a\5\1"), 0, NULL, {"a PCX image", FILE_IMAGE}},
    {SIGN("\x0a\3\1"), 0, NULL, {"a PCX image", FILE_IMAGE}},
    {SIGN("\x0a\2\1"), 0, NULL, {"a PCX image", FILE_IMAGE}},
    {SIGN("8BPS"), 0, NULL, {"a Photoshop file (PSD)", FILE_IMAGE}},
    {SIGN("%!PS"), 0, NULL, {"a PostScript file", FILE_OTHER}},
    {SIGN("\xc5\xd0\xd3\xc6"), 0, NULL, {"a PostScript file", FILE_OTHER}},
    {SIGN("qoif"), 0, NULL, {"a QOI image", FILE_IMAGE}},
    {SIGN("DDS "), 0, NULL, {"a DDS image", FILE_IMAGE}},
    {SIGN("\x76\x2f\x31\1"), 0, NULL, {"an OpenEXR image", FILE_IMAGE}},
    {SIGN("#?RADIANCE"), 0, NULL, {"a Radiance HDR image", FILE_IMAGE}},
    {SIGN("#?RGBE"), 0, NULL, {"a Radiance HDR image", FILE_IMAGE}},
    {SIGN("P7\n"), 0, NULL, {"a PAM image", FILE_IMAGE}},
    {SIGN("PF\n"), 0, NULL, {"a PFM image", FILE_IMAGE}},
    {SIGN("Pf\n"), 0, NULL, {"a PFM image", FILE_IMAGE}},
    {SIGN("PK\3\4"), 0, "data.pkl", {"a PyTorch checkpoint", FILE_CHECKPOINT}},
    {SIGN("PK\3\4"), 0, ".npy", {"an archive of NumPy arrays", FILE_OTHER}},
    {SIGN("PK\3\4"), 0, "config.json", {"a Keras model", FILE_OTHER}},
    {SIGN("PK\3\4"), 0, NULL, {"a ZIP archive", FILE_ZIP}},
    /* torch.save's old format begins with a magic number, pickled */
    {SIGN("\x80\2\x8a\12\x6c\xfc\x9c\x46\xf9\x20"), 0, NULL, {"a PyTorch checkpoint", FILE_CHECKPOINT}},
    {SIGN("\x80\2"), 0, NULL, {"a Python pickle", FILE_OTHER}},
    {SIGN("\x80\3"), 0, NULL, {"a Python pickle", FILE_OTHER}},
    {SIGN("\x80\4"), 0, NULL, {"a Python pickle", FILE_OTHER}},
    {SIGN("\x80\5"), 0, NULL, {"a Python pickle", FILE_OTHER}},
    {SIGN("version https://git-lfs"), 0, NULL, {"a Git LFS pointer in place of the file", FILE_POINTER}},
    {SIGN("\x08\1\x12"), 0, NULL, {"a TensorFlow model", FILE_OTHER}},
    {SIGN("TFL3"), 4, NULL, {"a TensorFlow Lite model", FILE_OTHER}},
    {SIGN("\x89HDF\r\n\x1a\n"), 0, NULL, {"an HDF5 file, as Keras writes them", FILE_OTHER}},
    {SIGN("GGUF"), 0, NULL, {"a GGUF model", FILE_OTHER}},
    {SIGN("\x93NUMPY"), 0, NULL, {"a NumPy array", FILE_OTHER}},
    {SIGN("\x1f\x8b"), 0, NULL, {"a gzip archive", FILE_PACKED}},
    {SIGN("\3757zXZ"), 0, NULL, {"an xz archive", FILE_PACKED}},
    {SIGN("\x28\xb5\x2f\xfd"), 0, NULL, {"a zstd archive", FILE_PACKED}},
    {SIGN("BZh"), 0, NULL, {"a bzip2 archive", FILE_PACKED}},
    {SIGN("7z\xbc\xaf\x27\x1c"), 0, NULL, {"a 7-Zip archive", FILE_PACKED}},
    {SIGN("ustar"), 257, NULL, {"a tar archive", FILE_PACKED}},
};

/* The HEIF family begins with a box "ftyp" of brands of four letters, the chief one first. */
static bool is_heif(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 12 && memcmp(data + 4, "ftyp", 4) == 0;
}

/* An image in AVIF may name mif1 first: any brand tells. */
bool effnet_is_avif(const uint8_t *data, size_t size_bytes)
{
    if (!is_heif(data, size_bytes)) return false;
    size_t length = (size_t)data[2] << 8 | data[3];
    if (data[0] || data[1] || length > size_bytes) length = size_bytes;
    for (size_t at = 8; at + 4 <= length; at += 4)
        if (memcmp(data + at, "avif", 4) == 0 || memcmp(data + at, "avis", 4) == 0) return true;
    return false;
}

static bool is_heic(const uint8_t *data, size_t size_bytes)
{
    static const char *const brands[] = {"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"};
    for (size_t i = 0; i < sizeof brands / sizeof brands[0] && is_heif(data, size_bytes); i++)
        if (memcmp(data + 8, brands[i], 4) == 0) return true;
    return false;
}

/* A Windows cursor begins as a TGA does, so where its first image lies has to be right, too. */
static bool is_cursor(const uint8_t *data, size_t size_bytes)
{
    if (size_bytes < 22 || memcmp(data, "\0\0\2\0", 4) != 0) return false;
    unsigned images = data[4] | (unsigned)data[5] << 8;
    unsigned offset = data[18] | (unsigned)data[19] << 8 | (unsigned)data[20] << 16 |
                      (unsigned)data[21] << 24;
    return images > 0 && offset == 6 + 16 * images;
}

/* An ONNX model has no signature: a protobuf message whose first field is ir_version, 3 or later, followed by
 * one of ModelProto's other fields: producer_name, producer_version, domain, model_version, doc_string,
 * graph, opset_import. */
static bool is_onnx(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 3 && data[0] == 0x08 && data[1] >= 3 && data[1] < 64 &&
           memchr("\x12\x1a\x22\x28\x32\x3a\x42", data[2], 7);
}

/* One that begins with an object. */
static bool is_json(const uint8_t *data, size_t size_bytes)
{
    return size_bytes >= 2 && data[0] == '{' && memchr("\"} \t\r\n", data[1], 6);
}

static bool word_at(const char *text, size_t length, const char *word)
{
    return length >= strlen(word) && strncasecmp(text, word, strlen(word)) == 0;
}

/* SVG and HTML, behind white space, an XML declaration and comments; other XML. */
static struct file_kind element_kind(const char *text, size_t size_bytes)
{
    static const struct file_kind none = {NULL, FILE_OTHER}, xml = {"an XML file", FILE_PAGE};
    const char *end = text + size_bytes;
    while (text < end && memchr(" \t\r\n", *text, 4)) text++;
    if (text == end || *text != '<') return none;
    const bool declared = word_at(text, (size_t)(end - text), "<?xml");
    for (; text; text = memchr(text + 1, '<', (size_t)(end - text - 1))) {
        size_t length = (size_t)(end - text);
        if (word_at(text, length, "<svg") || word_at(text, length, "<!doctype svg"))
            return (struct file_kind){"an SVG image", FILE_IMAGE};
        if (word_at(text, length, "<html") || word_at(text, length, "<!doctype html"))
            return (struct file_kind){"an HTML page", FILE_PAGE};
        if (word_at(text, length, "<!--")) text = memmem(text + 4, length - 4, "-->", 3);
        if (!text) break;
    }
    return declared ? xml : none;
}

/* Text in UTF-8, with its mark or without, or in UTF-16, whose mark tells the order of the bytes. */
static struct file_kind markup_kind(const uint8_t *data, size_t size_bytes)
{
    char narrow[4096];
    if (size_bytes > SEARCHED_TEXT) size_bytes = SEARCHED_TEXT;
    if (size_bytes >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0)
        return element_kind((const char *)data + 3, size_bytes - 3);
    bool low_first = size_bytes >= 2 && memcmp(data, "\xff\xfe", 2) == 0;
    if (!low_first && (size_bytes < 2 || memcmp(data, "\xfe\xff", 2) != 0))
        return element_kind((const char *)data, size_bytes);
    size_t length = 0;
    for (size_t at = 2; at + 2 <= size_bytes && length < sizeof narrow; at += 2) {
        uint8_t low = data[at + !low_first], high = data[at + low_first];
        narrow[length++] = (char)(high ? 0 : low);
    }
    return element_kind(narrow, length);
}

struct file_kind effnet_file_kind(const void *data, size_t size_bytes)
{
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        size_t offset = signatures[i].offset, length = signatures[i].length;
        const char *second = signatures[i].second;
        if (size_bytes < offset + length ||
            memcmp((const char *)data + offset, signatures[i].sign, length) != 0)
            continue;
        if (!second ||
            memmem(data, size_bytes < SEARCHED_WORD ? size_bytes : SEARCHED_WORD, second, strlen(second)))
            return signatures[i].kind;
    }
    if (effnet_is_avif(data, size_bytes)) return (struct file_kind){"an AVIF image", FILE_IMAGE_READ};
    if (is_heic(data, size_bytes)) return (struct file_kind){"a HEIC image", FILE_IMAGE};
    if (is_cursor(data, size_bytes)) return (struct file_kind){"a cursor (CUR)", FILE_IMAGE};
    if (is_onnx(data, size_bytes)) return (struct file_kind){"an ONNX model", FILE_ONNX};
    if (is_json(data, size_bytes)) return (struct file_kind){"a JSON file", FILE_OTHER};
    if (memmem(data, size_bytes < SEARCHED_PDF ? size_bytes : SEARCHED_PDF, "%PDF-", 5))
        return (struct file_kind){"a PDF document", FILE_OTHER};
    return markup_kind(data, size_bytes);
}
