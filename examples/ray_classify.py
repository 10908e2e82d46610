"""Classifies images on a Ray cluster, by Ray Data: files or Parquet in, Parquet out.

    ray_classify.py photos predictions                      files below a folder that all nodes see, or a bucket
    ray_classify.py --column bytes --name-column key data.parquet predictions
    ray_classify.py --actor-gpus 1 --actors 8 photos predictions

An actor holds a session, on a GPU or on a few cores. A row of the predictions is an image: filename, the k classes'
index, label and probability as lists, and error: null, or one line on why the image has no answer. The rows' order is not
that of the images. A node that is lost costs none: Ray does its blocks again elsewhere. Wants effnet and ray[data].
"""

import argparse

import numpy as np
import pyarrow as pa
import ray

import effnet


class Classifier:
    """An actor's: bytes in, classes out."""

    def __init__(self, model, device, threads, batch, k, columns):
        self.session = effnet.Model(model).session(device, batch=batch, threads=threads)
        self.k = k
        self.names, self.bytes = columns

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        with self.session.classify_iter(list(rows[self.bytes]), self.k) as predictions:
            answers = [self.row(prediction) for prediction in predictions]
        index, label, probability, error = zip(*answers, strict=True) if answers else ([], [], [], [])
        return pa.table({
            "filename": pa.array(list(map(str, rows[self.names])), pa.string()),
            "index": pa.array(index, pa.list_(pa.int32())),
            "label": pa.array(label, pa.list_(pa.string())),
            "probability": pa.array(probability, pa.list_(pa.float32())),
            "error": pa.array(error, pa.string()),
        })

    @staticmethod
    def row(prediction):
        if prediction.error is not None:
            # the file's name is in the row
            return None, None, None, str(prediction.error).removeprefix(f"image {prediction.index}: ")
        classes = prediction.classes
        return [c.index for c in classes], [c.name for c in classes], [c.probability for c in classes], None


def classify(source, target, *, model="lite1", k=5, column=None, name_column="path", actors=1, actor_cpus=1.0, actor_gpus=0.0,
             batch=32, rows=256):
    """Reads `source`, writes the folder `target`. column None: files, else that Parquet column has their bytes. `rows` go
    to an actor at a time."""
    # Reading and writing wait for no core: actors may hold all that there are, or that are left when a node is lost.
    beside = {"ray_remote_args": {"num_cpus": 0}, "concurrency": actors}
    if column is None:
        images = ray.data.read_binary_files(source, include_paths=True, **beside)
        name_column, column = "path", "bytes"
    else:
        ray.data.DataContext.get_current().use_datasource_v2 = False  # it lists files by tasks that take a core
        images = ray.data.read_parquet(source, columns=[name_column, column], **beside)
    predictions = images.map_batches(
        Classifier,
        fn_constructor_args=(model, "cuda" if actor_gpus else "cpu", max(1, int(actor_cpus)), batch, k, (name_column, column)),
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=actor_cpus,
        num_gpus=actor_gpus or None,
    )
    predictions.write_parquet(target, **beside)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="a folder of images, or with --column Parquet")
    parser.add_argument("target", help="the folder for the predictions, as Parquet")
    parser.add_argument("-m", "--model", default="lite1", help="weights file, or a network's name")
    parser.add_argument("-k", "--topk", type=int, default=5, dest="k")
    parser.add_argument("--column", help="the Parquet column with the images' bytes")
    parser.add_argument("--name-column", default="path", help="and that with their names (default: path)")
    parser.add_argument("--actors", type=int, default=1, help="sessions at once")
    parser.add_argument("--actor-cpus", type=float, default=1, help="cores an actor")
    parser.add_argument("--actor-gpus", type=float, default=0, help="1: an actor's session is on a GPU")
    parser.add_argument("-b", "--batch-size", type=int, default=32, dest="batch", help="images a pass")
    options = vars(parser.parse_args())
    ray.init(log_to_driver=False)
    classify(options.pop("source"), options.pop("target"), **options)


if __name__ == "__main__":
    main()
