"""The sizes of the published checkpoint, for plans on a machine without its files.

Used only for planning; loading reads the checkpoint's own files.
Source: config.json and preprocessor_config.json of mtri-admin/ZipRerank on the hub.
"""

from model.config import ImageConfig, ModelConfig, TextConfig, VisionConfig

PUBLISHED_NAME = "mtri-admin/ZipRerank"

PUBLISHED_SIZES = ModelConfig(
    vision=VisionConfig(
        depth=27,
        hidden_size=1152,
        intermediate_size=4304,
        num_heads=16,
        in_channels=3,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=4096,
        num_position_embeddings=2304,
        deepstack_visual_indexes=(8, 16, 24),
    ),
    text=TextConfig(
        vocab_size=151_936,
        hidden_size=4096,
        intermediate_size=12_288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=5_000_000.0,
        mrope_section=(24, 20, 20),
    ),
    image=ImageConfig(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=65_536, max_pixels=16_777_216),
    image_token_id=151_655,
    vision_start_token_id=151_652,
    tie_word_embeddings=False,
)
