#!/usr/bin/env python3
"""What `effnet classify` does, by onnxruntime, Pillow and NumPy: the Python process that effnet is compared
with. All files go in one batch.

    tools/classify_onnxruntime.py [--threads N] FILE...
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

import pillow_preprocess


def main(arguments):
    options = onnxruntime.SessionOptions()
    if arguments[:1] == ["--threads"]:
        options.intra_op_num_threads = int(arguments[1])
        arguments = arguments[2:]
    preprocess = pillow_preprocess.read_preprocess("weights/lite1.safetensors")
    with open("weights/imagenet_labels.tsv", encoding="utf-8") as file:
        labels = [line.rstrip("\n").split("\t")[1:] for line in file][1:]
    session = onnxruntime.InferenceSession("weights/lite1.onnx", options, providers=["CPUExecutionProvider"])
    pixels = np.stack([pillow_preprocess.fit(Image.open(path), preprocess) for path in arguments])
    (logits,) = session.run(None, {"input": pillow_preprocess.normalise(pixels, preprocess)})
    for path, row in zip(arguments, logits.astype(np.float64)):
        probability = np.exp(row - row.max())
        probability /= probability.sum()
        print(path)
        for rank, index in enumerate(np.argsort(-probability, kind="stable")[:5], 1):
            wnid, label = labels[index]
            print(f"{rank:4}  {100 * probability[index]:6.2f} %  {label}  ({wnid})")


if __name__ == "__main__":
    main(sys.argv[1:])
