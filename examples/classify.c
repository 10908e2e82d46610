/* Classifies one image: the five most probable classes.
 *
 *   cc -o classify classify.c $(pkg-config --cflags --libs effnet)
 *   ./classify lite1.safetensors photo.jpg */
#include <effnet.h>

#include <stdio.h>
#include <stdlib.h>

enum { TOP = 5 };

/* From pixels to the printed classes. */
static int classify(effnet_session *session, const effnet_model *model, const struct effnet_image *image,
                    struct effnet_error *error)
{
    const struct effnet_model_info *info = effnet_model_get_info(model);
    const size_t side = (size_t)info->preprocess.crop;
    uint8_t *crop = malloc(side * side * 3);
    float *logits = malloc((size_t)info->classes * sizeof *logits);
    struct effnet_class top[TOP];
    int status = EFFNET_E_NOMEM;
    if (crop && logits) status = effnet_image_fit(image, &info->preprocess, crop, error);
    if (!status) status = effnet_session_run(session, crop, 1, logits, error);
    const bool multi_label = info->multi_label; /* the classes do not exclude one another */
    int count = 0;
    if (!status)
        count = (multi_label ? effnet_top_k_multi_label : effnet_top_k)(logits, info->classes, TOP, top);
    for (int i = 0; i < count; i++)
        printf("%5.1f %%  %s\n", 100 * (double)top[i].probability,
               effnet_model_label(model, top[i].index).name);
    free(crop);
    free(logits);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: classify WEIGHTS IMAGE\n");
        return 64;
    }
    struct effnet_error error = {0};
    struct effnet_image image = {0};
    effnet_model *model = NULL;
    effnet_session *session = NULL;
    struct effnet_session_options options = effnet_session_defaults();
    options.device = "auto"; /* the default, too: the GPU where there is one, else the CPU */
    int status = effnet_model_open(argv[1], &model, &error);
    if (!status) status = effnet_session_open(model, &options, &session, &error);
    if (!status) status = effnet_image_read(argv[2], NULL, &image, &error);
    if (!status) status = classify(session, model, &image, &error);
    if (status) fprintf(stderr, "classify: %s\n", error.status ? error.message : effnet_status_text(status));
    effnet_image_free(&image);
    effnet_session_close(session);
    effnet_model_close(model);
    return status ? 1 : 0;
}
