/* Writes small weights files of every kind of layer into a folder, as seeds: save_weights FOLDER */
#include "weights_builder.h"

#include <stdio.h>

static int copy(const char *from, const char *folder, int number)
{
    char path[4096], bytes[4096];
    snprintf(path, sizeof path, "%s/%d.safetensors", folder, number);
    FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
    int status = !in || !out;
    for (size_t got; !status && (got = fread(bytes, 1, sizeof bytes, in)) > 0;)
        status = fwrite(bytes, 1, got, out) != got;
    if (in) fclose(in);
    if (out && fclose(out)) status = 1;
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: save_weights FOLDER\n");
        return 64;
    }
    struct weights *all[] = {weights_tiny(1), weights_tiny_excited(1), weights_graph(1), weights_graph(2)};
    const int count = sizeof all / sizeof all[0];
    int status = 0;
    weights_multi_label(all[2]);
    weights_squash(all[2]);
    for (int i = 0; i < count; i++) {
        status |= copy(weights_save(all[i]), argv[1], i);
        weights_free(all[i]);
    }
    return status;
}
