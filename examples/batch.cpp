// Classifies many images, eight at a time, and prints the most probable class of each.
//
//   c++ -std=c++17 -o batch batch.cpp $(pkg-config --cflags --libs effnet)
//   ./batch lite1.safetensors *.jpg
#include <effnet.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace
{

constexpr int BATCH = 8;

struct Close {
    void operator()(effnet_model *model) const { effnet_model_close(model); }
    void operator()(effnet_session *session) const { effnet_session_close(session); }
};
using Model = std::unique_ptr<effnet_model, Close>;
using Session = std::unique_ptr<effnet_session, Close>;

// Turns a status into an exception.
void check(int status, const effnet_error &error)
{
    if (status != EFFNET_OK) throw std::runtime_error(error.message);
}

Model open_model(const char *path)
{
    effnet_error error;
    effnet_model *model;
    check(effnet_model_open(path, &model, &error), error);
    return Model(model);
}

Session open_session(const effnet_model *model)
{
    effnet_session_options options = effnet_session_defaults();
    options.max_batch = BATCH;
    effnet_error error;
    effnet_session *session;
    check(effnet_session_open(model, &options, &session, &error), error);
    return Session(session);
}

// Decodes a file that is in memory, and writes its crop.
void read_crop(const std::string &path, const effnet_preprocess &preprocess, std::uint8_t *crop)
{
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be opened");
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    effnet_image_options options = effnet_image_defaults();
    options.has_background = true; // white, behind what is transparent
    std::fill_n(options.background, 3, 255);
    effnet_error error;
    effnet_image image;
    check(effnet_image_decode(bytes.data(), bytes.size(), path.c_str(), &options, &image, &error), error);
    const int status = effnet_image_fit(&image, &preprocess, crop, &error);
    effnet_image_free(&image);
    check(status, error);
}

void classify(const char *weights, const std::vector<std::string> &paths)
{
    const Model model = open_model(weights);
    const Session session = open_session(model.get());
    const effnet_model_info *info = effnet_model_get_info(model.get());
    const std::size_t crop_bytes = std::size_t(info->preprocess.crop) * info->preprocess.crop * 3;
    std::vector<std::uint8_t> crops(paths.size() * crop_bytes);
    std::vector<float> logits(paths.size() * info->classes);
    for (std::size_t i = 0; i < paths.size(); i++)
        read_crop(paths[i], info->preprocess, &crops[i * crop_bytes]);
    effnet_error error; // any number of images: the session takes them in passes of BATCH
    check(effnet_session_run(session.get(), crops.data(), int(paths.size()), logits.data(), &error), error);
    const auto top_k = info->multi_label ? effnet_top_k_multi_label : effnet_top_k;
    for (std::size_t i = 0; i < paths.size(); i++) {
        effnet_class best;
        top_k(&logits[i * info->classes], info->classes, 1, &best);
        std::printf("%s: %s, %.1f %%\n", paths[i].c_str(), effnet_model_label(model.get(), best.index).name,
                    100 * double(best.probability));
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: batch WEIGHTS IMAGE...\n");
        return 64;
    }
    try {
        classify(argv[1], {argv + 2, argv + argc});
    } catch (const std::exception &e) {
        std::fprintf(stderr, "batch: %s\n", e.what());
        return 1;
    }
    return 0;
}
