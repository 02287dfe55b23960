"""The optimiser that the runs use."""

import optax


def adam_with_warmup(
    *, learning_rate: float, steps: int, warmup: int = 50, weight_decay: float = 0.0, clip: float = 1.0
) -> optax.GradientTransformation:
    """AdamW behind a clip of the gradient's global norm, its rate rising linearly, then falling along a cosine.

    **Arguments:** `learning_rate`: at the peak, after `warmup` steps; at `steps` it has fallen to a fiftieth.
    `weight_decay`: decoupled (Loshchilov and Hutter 2019). `clip`: largest global norm of a gradient.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=min(warmup, max(steps - 1, 0)),
        decay_steps=max(steps, 1),
        end_value=learning_rate / 50,
    )
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule, weight_decay=weight_decay))
