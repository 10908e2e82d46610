"""What a conversion says of itself: everything that was assumed, a fact a field."""

from .preprocess import short_numbers


def _head(network):
    """The head's layers, where there is more to it than one linear layer with a bias."""
    layers = [layer for layer in network.layers if layer.name.startswith("classifier")]
    plain = len(layers) == 1 and network.parameters[layers[0].name].bias is not None
    parameters = [network.parameters[layer.name] for layer in layers]
    said = [
        f"{layer.outputs} {layer.activation}" + ("" if source.bias is not None or source.norm else " without bias")
        for layer, source in zip(layers, parameters)
    ]
    epsilons = sorted({source.norm.epsilon for source in parameters if source.norm})
    said += [f"batch norm epsilon {' and '.join(f'{epsilon:g}' for epsilon in epsilons)}"] if epsilons else []
    return [] if plain and len(said) == 1 else [f"  head: {', '.join(said)}"]


def report(network, parameter_count, multi_label, labels, weights):
    """Lines of text. weights: which of raw and EMA weights were taken, or ""."""
    variant = network.variant
    classes = f"{network.classes} class" + ("" if network.classes == 1 else "es")
    first = [network.arch.name, f"{len(network.layers)} layers", f"{parameter_count} parameters", classes]
    image = [
        f"size {variant.size}",
        f"both sides to {variant.size}" if variant.resize == "squash" else f"short side {variant.short_side}",
        variant.interpolation,
        f"mean {short_numbers(variant.mean)}",
        f"std {short_numbers(variant.std)}",
    ]
    return [
        ", ".join(first),
        f"  network: {variant.full_name}, padding {variant.padding}, epsilon {variant.epsilon:g}",
        f"  image: {', '.join(image)}",
        *_head(network),
        f"  labels: {labels.origin}" + (", each with its own sigmoid" if multi_label else ""),
        *([f"  weights: {weights}"] if weights else []),
    ]
