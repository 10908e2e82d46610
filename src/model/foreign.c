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
#define PULL     "fetch that with 'git lfs pull', and see tools/convert.py"
#define UNZIP    "tools/convert.py reads one that holds a PyTorch checkpoint"
#define SEARCHED 4096 /* bytes in which a second sign is looked for */

#define SIGN(text) text, sizeof text - 1

/* The first row whose sign stands at its offset and whose second sign, where there is one, follows soon is
 * it. */
static const struct {
    const char *sign;
    size_t length, offset;
    const char *second; /* anywhere in the first SEARCHED bytes */
    struct foreign_kind kind;
} signatures[] = {
    {SIGN("PK\3\4"), 0, "data.pkl", {"a PyTorch checkpoint", CONVERT}},
    {SIGN("PK\3\4"), 0, ".npy", {"an archive of NumPy arrays", ORIGINAL}},
    {SIGN("PK\3\4"), 0, "config.json", {"a Keras model", ORIGINAL}},
    {SIGN("PK\3\4"), 0, NULL, {"a zip archive", UNZIP}},
    /* torch.save's old format begins with a magic number, pickled */
    {SIGN("\x80\2\x8a\12\x6c\xfc\x9c\x46\xf9\x20"), 0, NULL, {"a PyTorch checkpoint", CONVERT}},
    {SIGN("\x80\2"), 0, NULL, {"a Python pickle", ORIGINAL}},
    {SIGN("\x80\3"), 0, NULL, {"a Python pickle", ORIGINAL}},
    {SIGN("\x80\4"), 0, NULL, {"a Python pickle", ORIGINAL}},
    {SIGN("\x80\5"), 0, NULL, {"a Python pickle", ORIGINAL}},
    {SIGN("version https://git-lfs"), 0, NULL, {"a git-lfs pointer, not the file itself", PULL}},
    {SIGN("\x08\1\x12"), 0, NULL, {"a TensorFlow model", ORIGINAL}},
    {SIGN("TFL3"), 4, NULL, {"a TensorFlow Lite model", ORIGINAL}},
    {SIGN("\x89HDF\r\n\x1a\n"), 0, NULL, {"an HDF5 file, as Keras writes them", ORIGINAL}},
    {SIGN("GGUF"), 0, NULL, {"a GGUF model", ORIGINAL}},
    {SIGN("\x93NUMPY"), 0, NULL, {"a NumPy array", ORIGINAL}},
    {SIGN("\x1f\x8b\x08"), 0, NULL, {"compressed with gzip", UNPACK}},
    {SIGN("\3757zXZ"), 0, NULL, {"compressed with xz", UNPACK}},
    {SIGN("\x28\xb5\x2f\xfd"), 0, NULL, {"compressed with zstd", UNPACK}},
    {SIGN("BZh"), 0, NULL, {"compressed with bzip2", UNPACK}},
    {SIGN("7z\xbc\xaf\x27\x1c"), 0, NULL, {"a 7-Zip archive", UNPACK}},
    {SIGN("ustar"), 257, NULL, {"a tar archive", UNPACK}},
    {SIGN("\x89PNG\r\n\x1a\n"), 0, NULL, {"a PNG image", AN_IMAGE}},
    {SIGN("\xff\xd8\xff"), 0, NULL, {"a JPEG image", AN_IMAGE}},
    {SIGN("GIF8"), 0, NULL, {"a GIF image", AN_IMAGE}},
    {SIGN("WEBP"), 8, NULL, {"a WebP image", AN_IMAGE}},
    {SIGN("BM"), 0, NULL, {"a BMP image", AN_IMAGE}},
    {SIGN("{"), 0, NULL, {"a JSON file", ORIGINAL}},
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
