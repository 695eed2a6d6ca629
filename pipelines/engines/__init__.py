"""How samples are decoded, cut and handed out: FFCV, DALI, PIL, none."""
