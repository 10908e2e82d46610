"""Networks of 8-bit integers by effnet, by NNCF for OpenVINO and by onnxruntime, of one network of floats and calibrated
with the same images."""

import contextlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import photographs
import pillow_preprocess

from . import common
from .files import find_files

CALIBRATION, TEST = (64, 18), (400, 81)  # how many crops of the photographs, and the seed that cuts them
UNAVAILABLE = 69  # effnet's exit status for networks that integers are not defined for


def images_of(options, folder):
    """The files to calibrate with and those to test on."""
    if bool(options.calibrate) != bool(options.test):
        raise common.CannotCompare("--calibrate and --test go together")
    if options.calibrate:
        return find_files(options.calibrate), find_files(options.test)
    return tuple(photographs.write_crops(folder / name, *crops)
                 for name, crops in (("calibration", CALIBRATION), ("test", TEST)))


def read_pixels(paths, preprocess):
    """uint8 [len(paths)][crop][crop][3]"""
    crops = []
    for path in paths:
        with Image.open(path) as image:
            crops.append(pillow_preprocess.fit(image, preprocess))
    return np.stack(crops)


def quantize_effnet(build, weights, paths, out):
    """Why there is no such network, or None where there is."""
    command = [Path(build) / "effnet", "quantize", weights, "-o", out, "-q", "--calibrate", *paths]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=common.environment(build), check=False)
    if done.returncode not in (0, UNAVAILABLE):
        raise common.CannotCompare(done.stderr.strip())
    return done.stderr.strip() if done.returncode else None


def quantize_openvino(onnx, images, out):
    """NNCF's post-training quantization, all options its own. images: float32 [1][3][crop][crop] each."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.convert_model(str(onnx))
    with contextlib.redirect_stdout(sys.stderr):  # progress, which would land among the tables
        model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    openvino.save_model(model, out, compress_to_fp16=False)


def quantize_onnxruntime(onnx, images, out):
    """Static, as QDQ: activations of unsigned bytes, weights of signed ones with a scale a channel."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        rest = iter([{"input": x} for x in images])

        def get_next(self):
            return next(self.rest, None)

    prepared = Path(out).with_suffix(".prepared.onnx")
    quant_pre_process(str(onnx), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(str(prepared), str(out), Reader(), quant_format=quantization.QuantFormat.QDQ,
                                 activation_type=quantization.QuantType.QUInt8,
                                 weight_type=quantization.QuantType.QInt8, per_channel=True)


def quantize_all(options, report, network, paths, folder):
    """{contender: file} of the network; none where integers are not defined for it."""
    weights, onnx = Path("weights") / f"{network}.safetensors", Path("weights") / f"{network}.onnx"
    ours, openvino, onnxruntime = (folder / f"{network}{ending}" for ending in (".safetensors", ".xml", ".onnx"))
    refusal = quantize_effnet(options.build, weights, paths, ours)
    if refusal:
        report.skip(f"{network} int8", refusal)
        return {}
    preprocess = pillow_preprocess.read_preprocess(weights)
    images = [pillow_preprocess.normalise(crop[None], preprocess) for crop in read_pixels(paths, preprocess)]
    files = {"effnet": ours}
    for name, quantize, out in (("OpenVINO", quantize_openvino, openvino),
                                ("onnxruntime", quantize_onnxruntime, onnxruntime)):
        try:
            quantize(onnx, images, out)
            files[name] = out
        except ImportError as error:
            report.skip(f"{name} int8", f"{error.name} is not installed")
    return files


def agreement(logits, floats):
    """How many images have the same most probable class, and the signal to noise of all logits in dB."""
    logits, floats = np.asarray(logits, np.float64), np.asarray(floats, np.float64)
    same = int((logits.argmax(1) == floats.argmax(1)).sum())
    return same, float(10 * np.log10(np.sum(floats**2) / np.sum((logits - floats)**2)))


def report_agreement(report, title, logits, floats):
    """logits: {contender: [images][classes]}"""
    print(f"\n{title}\n\n| contender | same top-1 as fp32 | of | logits, dB |\n|---|--:|--:|--:|")
    for name, values in logits.items():
        same, snr_db = agreement(values, floats)
        print(f"| {name} | {same} | {len(floats)} | {snr_db:.1f} |")
        report.measured.append({"title": title, "contender": name, "unit": "images", "same": same,
                                "images": len(floats), "logits_db": snr_db})
    sys.stdout.flush()
