"""Arguments of tools/compare_peers.py."""

import argparse
import os
import sys
from pathlib import Path

from . import common, cpu, files, gpu, linear


def numbers(text):
    return [int(part) for part in text.split(",")]


def parse(arguments):
    parser = argparse.ArgumentParser(prog="compare_peers.py", description="Times effnet against other software.")
    parser.add_argument("--build", default="build", help="effnet's build folder (default: build)")
    parser.add_argument("--rounds", type=int, default=9, help="turns that each contender takes (default 9)")
    parser.add_argument("--json", metavar="FILE", help="also write everything measured to a file")
    commands = parser.add_subparsers(dest="command", required=True)

    on_cpu = commands.add_parser("cpu", help="onnxruntime and OpenVINO")
    on_cpu.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    on_cpu.add_argument("--batch", type=numbers, default=[1, 8, 32], metavar="N,...")
    on_cpu.add_argument("--networks", default="lite1,b1-plain", metavar="NAME,...")
    on_cpu.add_argument("--calibrate", nargs="+", metavar="FILE|FOLDER",
                        help="JPEGs to calibrate int8 networks with (default: 64 crops of tools/photographs.py)")
    on_cpu.add_argument("--test", nargs="+", metavar="FILE|FOLDER",
                        help="JPEGs to count their answers on, with --calibrate (default: 400 other crops)")
    on_cpu.add_argument("--skip-int8", action="store_true", help="leave int8 networks out")
    on_cpu.add_argument("--skip-processes", action="store_true", help="leave whole processes and memory out")

    on_gpu = commands.add_parser("gpu", help="PyTorch, as CUDA graph and compiled")
    on_gpu.add_argument("--batch", type=numbers, default=[1, 10, 256], metavar="N,...")
    on_gpu.add_argument("--networks", default="lite1,b1-plain", metavar="NAME,...")
    on_gpu.add_argument("--plan", action="append", metavar="PLAN", help="effnet's plans (default: auto)")
    on_gpu.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes minutes)")

    on_files = commands.add_parser("files", help="Python programs, from files to classes")
    on_files.add_argument("files", nargs="+", metavar="FILE|FOLDER", help="JPEGs, or folders that hold some")
    on_files.add_argument("--device", default="cpu", help="effnet's device, cpu or cuda: peers for the same (default cpu)")
    on_files.add_argument("--threads", type=int, default=0, help="on the CPU (default: all)")
    on_files.add_argument("--batch", type=numbers, default=[32], metavar="N", help="effnet's batch (default 32)")
    on_files.add_argument("--peer-batch", type=int, default=32, metavar="N", help="the peers' batch (default 32)")
    on_files.add_argument("--base", metavar="FOLDER", help="a second build of effnet, to be held against")
    on_files.add_argument("--decode-gpu", action="store_true", help="effnet with --decode gpu, too")

    on_linear = commands.add_parser("linear", help="PyTorch and cuBLAS on single linear layers")
    on_linear.add_argument("--shape", action="append", metavar="M,N,K,EPILOGUE,OUTPUT",
                           help="as in 16384,4096,4096,bn-gelu-relu,fp32; again for more (default: a set)")
    on_linear.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser.parse_args(arguments)


def main():
    options = parse(sys.argv[1:])
    root = Path(__file__).resolve().parents[2]
    os.chdir(root)
    report = common.Report()
    try:
        {"cpu": cpu, "files": files, "gpu": gpu, "linear": linear}[options.command].compare(options, report)
    except common.CannotCompare as error:
        print(f"compare_peers.py: {error}", file=sys.stderr)
        return 1
    finally:
        if options.json:
            report.write(options.json)
    return 0
