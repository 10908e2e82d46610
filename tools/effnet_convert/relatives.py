"""Networks that effnet does not run, but that people have checkpoints of: told by their tensors."""


def relative_of(tensors):
    """The network's name in words, or None."""
    return None
