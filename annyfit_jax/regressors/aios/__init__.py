"""AiOS: one-stage regression of whole bodies, and Naive AiOS, its ablation without joint tokens.

Source: Sun et al., "AiOS: All-in-One-Stage Expressive Human Pose and Shape Estimation", CVPR 2024. Where the paper and the
released program differ, `aios_config` has both.
"""
