"""The options of `fastdeit train`: each is a promise, so a new one is a decision."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import get_type_hints

from fastdeit.config import TrainConfig

OPTIONS = {
    "data": """
        train val engine image_size batch_size repeats sampling train_crop crop_scale
        crop_ratio interpolation eval_crop_ratio bad_images threads dali_device hw_decoder_load
        dataset
    """,
    "model": """
        model drop_path drop_path_decay drop_path_mode dropout patch_size embed_dim depth num_heads
        reg_tokens norm_eps
    """,
    "run": """
        out seed device precision compat compile compiled attention activation_checkpointing
        log_every_steps profile_steps save_minutes keep_checkpoints budget_hours tensorboard wandb
        timeout_minutes overwrite resume
    """,
    "augment": """
        hflip_prob auto_augment augment_interpolation color_jitter erase_prob erase_mode erase_count
        erase_splits mixup_alpha cutmix_alpha cutmix_minmax mix_prob switch_prob mix_mode smoothing
        augment_order
    """,
    "optim": """
        epochs optimizer base_lr scale_lr min_lr warmup_epochs warmup_lr weight_decay trainable
        momentum accumulate loss class_weights clip_grad ema_decay
    """,
    "distill": """
        distillation teacher teacher_labels teacher_top_k temperature teacher_weight
        teacher_smoothing teacher_image_size
    """,
    "": """
        init_from init_weights dry_run
    """,
}
"""By the part of the configuration; what nobody changes is no option."""


def test_no_option_comes_or_goes_by_itself() -> None:
    """Whoever adds or removes one says so here, and in the changelog."""
    found: dict[str, list[str]] = {}
    for part, kind in get_type_hints(TrainConfig).items():
        if is_dataclass(kind):
            found[part] = [field.name for field in fields(kind)]
        else:
            found.setdefault("", []).append(part)
    assert found == {part: names.split() for part, names in OPTIONS.items()}
