"""Networks that effnet does not run, but of which people have checkpoints: told by their tensors, so that a refusal can
name them. EfficientNet-B5 and larger are told by naming.py, as they are entries of the same table."""

import re

# The first stages' output channels, at width 1, of networks whose names in timm are EfficientNet's.
_TIMM_WIDTHS = {
    (16, 24, 32, 64, 96, 160, 320): "MobileNetV2",
    (16, 24, 40, 80, 112, 160, 320): "MnasNet-A1",
    (16, 24, 40, 80, 96, 192, 320): "MnasNet-B1",
    (16, 24, 40, 80, 112, 160): "MobileNetV3",
    (16, 24, 40, 48, 96): "MobileNetV3 small",
    (16, 24, 32, 64, 112, 184, 352): "FBNet-C",
}

# (a pattern of a tensor's whole name, the network): the first that some name follows. The more particular come first.
_NAMES = (
    (r"blocks\.0\.0\.conv_exp\.weight", "EfficientNet-EdgeTPU (or another with fused blocks)"),
    (r"blocks\.\d+\.\d+\.conv_exp\.weight", "EfficientNetV2"),
    (r"blocks\.\d+\.\d+\.conv_(dw|pw|pwl)\.\d\.weight", "MixNet"),
    (r"blocks\.\d+\.\d+\.routing_fn\.weight", "EfficientNet with conditional convolutions"),
    (r"efficientnet\.embeddings\.convolution\.weight", "an EfficientNet of transformers, whose names are not read"),
    (r"features\.\d+\.0\.layer_scale|stages\.0\.blocks\.0\.gamma|stages\.0\.0\.gamma", "ConvNeXt"),
    (r"features\.\d+\.conv\.0\.0\.weight", "MobileNetV2"),
    (r"classifier\.3\.weight&features\.\d+\.block\.0\.0\.weight", "MobileNetV3"),
    (r"layers\.0\.weight&layers\.8\.0\.layers\.0\.weight", "MnasNet"),
    (r"features\.denseblock1\.denselayer1\.norm1\.weight", "a DenseNet"),
    (r"features\.\d+\.squeeze\.weight", "SqueezeNet"),
    (r"layer1\.0\.conv1\.weight|resnet\.embedder\.embedder\.convolution\.weight", "a ResNet"),
    (r".*\.relative_position_bias_table", "a Swin transformer"),
    (r"cls_token|class_token|patch_embed\.proj\.weight|vit\.embeddings\.cls_token", "a vision transformer (ViT)"),
    (r"trunk_output\.block1\..*|s1\.b1\.conv1\.conv\.weight", "a RegNet"),
    (r"stage2\.0\.branch1\.0\.weight", "ShuffleNetV2"),
    (r"Mixed_5b\.branch1x1\.conv\.weight", "Inception-v3"),
    (r"features\.0\.weight&classifier\.6\.weight", "a VGG or AlexNet"),
)


def _stage_widths(tensors):
    """The output channels of timm's stages, by the last convolution of each one's first block."""
    widths = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"blocks\.(\d+)\.0\.(conv_pwl|conv_pw|conv)\.weight", name)
        if found and len(tensor.shape) == 4:
            stage = int(found[1])
            if found[2] == "conv_pwl" or f"blocks.{stage}.0.conv_pwl.weight" not in tensors:
                widths[stage] = tensor.shape[0]
    return tuple(width for _, width in sorted(widths.items()))


def _is_v2_of_torchvision(tensors):
    """Its first stage's blocks are plain 3x3 convolutions, as EfficientNet's are depthwise ones."""
    first = tensors.get("features.1.0.block.0.0.weight")
    return first is not None and len(first.shape) == 4 and first.shape[1] > 1 and first.shape[2] == 3


def relative_of(tensors):
    """The network's name in words, or None."""
    if _is_v2_of_torchvision(tensors):
        return "EfficientNetV2"
    for patterns, name in _NAMES:
        if all(any(re.fullmatch(pattern, tensor) for tensor in tensors) for pattern in patterns.split("&")):
            return name
    widths = _stage_widths(tensors)
    return next((name for known, name in _TIMM_WIDTHS.items() if widths[: len(known)] == known), None)
