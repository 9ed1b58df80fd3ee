"""The published sizes inside the package are those of the published files."""

import shutil
from pathlib import Path

from model.checkpoint import load_tokenizer, read_model_config
from model.config import MAX_WINDOW_SIZE
from model.placement import MOST_PROMPT_TOKENS, max_window_cost, max_window_cost_without_tokenizer
from model.prompt import PromptBuilder
from model.published import PUBLISHED_NAME, PUBLISHED_SIZES
from service.settings import Settings
from tests.conformance import CHECKPOINT

PUBLISHED = Path(__file__).parents[1] / "data" / "published_config.json"


def test_the_published_sizes_are_those_of_its_config(tmp_path: Path) -> None:
    """The small checkpoint has the published preprocessor's numbers: patches of 16, 2 x 2 merged, 2 frames."""
    shutil.copy(PUBLISHED, tmp_path / "config.json")
    shutil.copy(CHECKPOINT / "preprocessor_config.json", tmp_path)
    assert read_model_config(tmp_path) == PUBLISHED_SIZES
    image = PUBLISHED_SIZES.image
    assert (image.patch_size, image.merge_size, image.temporal_patch_size) == (16, 2, 2)
    assert (image.min_pixels, image.max_pixels) == (65_536, 16_777_216)


def test_a_window_without_a_tokenizer_is_a_little_larger_than_with_one() -> None:
    config = read_model_config(CHECKPOINT)
    prompts = PromptBuilder(
        load_tokenizer(CHECKPOINT),
        image_token_id=config.image_token_id,
        vision_start_token_id=config.vision_start_token_id,
    )
    exact = max_window_cost(prompts, config, 4096)
    bound = max_window_cost_without_tokenizer(config, 4096)
    assert bound.patches == exact.patches == MAX_WINDOW_SIZE * 1024 * 4
    assert 0 <= bound.tokens - exact.tokens < 100
    assert prompts.max_prompt_tokens(MAX_WINDOW_SIZE, 0) <= MOST_PROMPT_TOKENS


def test_the_published_checkpoint_is_the_default_of_the_service() -> None:
    assert Settings.model_fields["model"].default == PUBLISHED_NAME
