#!/usr/bin/env python3
"""Times effnet against other software, in one run on one machine.

    tools/compare_peers.py cpu      onnxruntime and OpenVINO: networks, also of integers; whole processes, memory
    tools/compare_peers.py gpu      PyTorch, as CUDA graph and compiled: networks
    tools/compare_peers.py files    Pillow with onnxruntime, OpenVINO or PyTorch, and torchvision's nvJPEG: files
    tools/compare_peers.py linear   PyTorch and cuBLAS: Linear + BatchNorm + GELU + ReLU, classifier heads

All contenders take turns, round after round, so that a slow or a hot spell of the machine meets each of
them; a ratio is taken within a round and the median of the rounds is printed. Everybody's logits are
compared before anybody is timed. What is not installed is skipped, and said to be. Needs `make tests
weights`; build/tests/run_session is effnet's side.
"""

import sys

from peers.command_line import main

if __name__ == "__main__":
    sys.exit(main())
