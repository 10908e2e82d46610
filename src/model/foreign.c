#include "model/foreign.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#define CONVERT "tools/convert.py makes effnet's weights of it"
#define ORIGINAL                                                                                             \
    "effnet's weights come from tools/convert.py, which reads PyTorch checkpoints and safetensors"
#define UNPACK   "unpack it; tools/convert.py reads PyTorch checkpoints and safetensors"
#define DOWNLOAD "download the file itself; tools/convert.py then makes effnet's weights of it"
#define AN_IMAGE "-m takes weights, which tools/convert.py makes; images are named without -m"
#define SEARCHED 4096 /* bytes in which a second sign is looked for */

/* A sign is bytes at an offset; the first row whose sign and, where there is one, second sign are found is
 * it. */
static const struct {
    size_t offset, length;
    const char *sign;
    const char *second; /* anywhere in the first SEARCHED bytes */
    struct foreign_kind kind;
} signatures[] = {
    {0, 4, "PK\3\4", "data.pkl", {"a PyTorch checkpoint", CONVERT}},
    {0, 4, "PK\3\4", ".npy", {"an archive of NumPy arrays", ORIGINAL}},
    {0, 4, "PK\3\4", "config.json", {"a Keras model", ORIGINAL}},
    {0, 4, "PK\3\4", NULL, {"a zip archive", "tools/convert.py reads one that holds a PyTorch checkpoint"}},
    /* the magic number of torch.save's old format, pickled */
    {0,
     14,
     "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
     NULL,
     {"a PyTorch checkpoint", CONVERT}},
    {0, 2, "\x80\x02", NULL, {"a Python pickle", ORIGINAL}},
    {0, 2, "\x80\x03", NULL, {"a Python pickle", ORIGINAL}},
    {0, 2, "\x80\x04", NULL, {"a Python pickle", ORIGINAL}},
    {0, 2, "\x80\x05", NULL, {"a Python pickle", ORIGINAL}},
    {0,
     34,
     "version https://git-lfs.github.com",
     NULL,
     {"a git-lfs pointer, not the file itself", "fetch that with 'git lfs pull', and see tools/convert.py"}},
    {0, 3, "\x08\x01\x12", NULL, {"a TensorFlow model", ORIGINAL}},
    {4, 4, "TFL3", NULL, {"a TensorFlow Lite model", ORIGINAL}},
    {0, 8, "\x89HDF\r\n\x1a\n", NULL, {"an HDF5 file, as Keras writes them", ORIGINAL}},
    {0, 4, "GGUF", NULL, {"a GGUF model", ORIGINAL}},
    {0, 6, "\x93NUMPY", NULL, {"a NumPy array", ORIGINAL}},
    {0, 3, "\x1f\x8b\x08", NULL, {"compressed with gzip", UNPACK}},
    {0,
     6,
     "\xfd"
     "7zXZ\0",
     NULL,
     {"compressed with xz", UNPACK}},
    {0, 4, "\x28\xb5\x2f\xfd", NULL, {"compressed with zstd", UNPACK}},
    {0, 3, "BZh", NULL, {"compressed with bzip2", UNPACK}},
    {0, 6, "7z\xbc\xaf\x27\x1c", NULL, {"a 7-Zip archive", UNPACK}},
    {257, 5, "ustar", NULL, {"a tar archive", UNPACK}},
    {0, 8, "\x89PNG\r\n\x1a\n", NULL, {"a PNG image", AN_IMAGE}},
    {0, 3, "\xff\xd8\xff", NULL, {"a JPEG image", AN_IMAGE}},
    {0, 4, "GIF8", NULL, {"a GIF image", AN_IMAGE}},
    {8, 4, "WEBP", NULL, {"a WebP image", AN_IMAGE}},
    {0, 2, "BM", NULL, {"a BMP image", AN_IMAGE}},
    {0, 1, "{", NULL, {"a JSON file", ORIGINAL}},
};

/* An ONNX model has no signature: a protobuf message whose first field is ir_version, 3 or later, followed by
 * one of ModelProto's other fields: producer_name, producer_version, domain, model_version, doc_string,
 * graph, opset_import. */
static bool is_onnx(const uint8_t *data, size_t size)
{
    return size >= 3 && data[0] == 0x08 && data[1] >= 3 && data[1] < 64 &&
           memchr("\x12\x1a\x22\x28\x32\x3a\x42", data[2], 7);
}

/* HTML, or XML: most often the page that a server sent in place of the file. */
static bool is_web_page(const uint8_t *data, size_t size)
{
    static const char *const starts[] = {"<!doctype", "<html", "<?xml", "<!--", "<head"};
    size_t at = size >= 3 && !memcmp(data, "\xef\xbb\xbf", 3) ? 3 : 0;
    while (at < size && data[at] && strchr(" \t\r\n", data[at])) at++;
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (size - at >= strlen(starts[i]) &&
            !strncasecmp((const char *)data + at, starts[i], strlen(starts[i])))
            return true;
    return false;
}

const struct foreign_kind *effnet_foreign_kind(const void *data, size_t size)
{
    static const struct foreign_kind onnx = {
        "an ONNX model", "give tools/convert.py the PyTorch checkpoint or safetensors that it was made from"};
    static const struct foreign_kind web_page = {"a web page or XML", DOWNLOAD};
    if (size > 8 && ((const char *)data)[8] == '{') return NULL; /* as safetensors' header begins */
    for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++) {
        size_t offset = signatures[i].offset, length = signatures[i].length;
        const char *second = signatures[i].second;
        if (size < offset + length || memcmp((const char *)data + offset, signatures[i].sign, length) != 0)
            continue;
        if (!second || memmem(data, size < SEARCHED ? size : SEARCHED, second, strlen(second)))
            return &signatures[i].kind;
    }
    if (is_onnx(data, size)) return &onnx;
    return is_web_page(data, size) ? &web_page : NULL;
}
