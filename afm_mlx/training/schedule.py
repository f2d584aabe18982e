"""The learning rate over a stage. Plain numbers, no MLX."""

from math import cos, pi


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, final_fraction: float) -> float:
    """Share of the peak learning rate at one optimizer step, 0 to 1.

    Rises linearly to 1 at step `warmup_steps`, then falls along half a cosine to `final_fraction`
    at step `steps`, and stays there. A stage that ends before its warm-up never reaches 1.

    Args:
        step: optimizer step, counted from 1.
        steps: optimizer steps of the stage.
        warmup_steps: steps of the rise; 0 starts at the peak.
        final_fraction: share of the peak at the end, 0 to 1.

    Source: arXiv:2407.21075, core pre-training. Steps are counted from 1, so that the first one
    already trains.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    if step >= steps:
        return final_fraction
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return final_fraction + (1 - final_fraction) * (1 + cos(pi * progress)) / 2
