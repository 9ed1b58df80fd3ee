"""`ziprerank train demo`: trains a small checkpoint from scratch that ranks pages by the words printed on them.

In the first stage the vision tower learns to read; in the second the decoder learns to find the words of the query on pages.
Both stages resume after an interruption.
"""

import argparse
import ctypes
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.checkpoint import load_tokenizer, read_model_config
from model.config import RerankerConfig
from model.device import Compute, choose_compute
from model.loading import assemble_reranker, plan_loading
from model.pages.fonts import installed_fonts, is_usable
from model.qwen3_vl.network import Network
from model.reranker import Reranker
from model.training.demo.blank_checkpoint import make_network, write_blank_checkpoint
from model.training.demo.page_pool import draw_pool
from model.training.demo.pages import Style
from model.training.demo.ranking_stage import learn_to_rank
from model.training.demo.reading_stage import learn_to_read
from model.training.demo.recipe import BUNDLED, Recipe, World, read_recipe
from model.training.errors import RunFileError

RANKING_POOL = 50  # differs from the pools of all reading phases

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. Raises: TrainingError."""
    options = _parse(arguments)
    recipe = read_recipe(options.recipe)
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    _log_to(work / "training.log")
    keep_freed_memory()
    train(recipe, work, options.device)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ziprerank train demo", description=__doc__)
    parser.add_argument(
        "--recipe", default="small", help=f"{' or '.join(BUNDLED)} (bundled), or a TOML file (default: small)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("demo-training"),
        help="folder for saved states, the log, and the checkpoint in its subfolder `checkpoint` (default: demo-training)",
    )
    parser.add_argument(
        "--seed", type=int, help="replaces the seed of the recipe: other initial weights, other pages, other lists"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto); not yet tested on CUDA"
    )
    return parser.parse_args(arguments)


def _log_to(path: Path) -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(path)],
    )


def train(recipe: Recipe, work: Path, device: str = "cpu") -> Path:
    """Run both stages, skipping finished ones, and return the folder of the checkpoint."""
    checkpoint = work / "checkpoint"
    write_blank_checkpoint(checkpoint, fewest_pixels=recipe.world.fewest_pixels, most_pixels=recipe.world.most_pixels)
    config = read_model_config(checkpoint)
    style = style_of(recipe.world)
    torch.manual_seed(recipe.seed)
    compute = choose_compute(device, "float32")
    network = make_network(config).to(compute.device)
    learn_to_read(network, config, recipe, style, device=compute.device, work=work)
    reranker = reranker_of(checkpoint, network, compute)
    learn_to_rank(
        reranker,
        draw_pool(recipe.page_seeds(RANKING_POOL, recipe.ranking.pages), style, reranker.model_config.image),
        recipe.ranking,
        seed=recipe.seed,
        state_file=work / "ranking.pt",
    )
    weights = {name: tensor.bfloat16().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    logger.info("the checkpoint is in %s", checkpoint)
    return checkpoint


def reranker_of(checkpoint: Path, network: Network, compute: Compute) -> Reranker:
    """A reranker around `network`. It has no feature caches, because the weights change."""
    config = RerankerConfig(
        device=str(compute.device), quantise="none", feature_cache_gpu_bytes=0, feature_cache_host_bytes=0
    )
    plan = plan_loading(config, read_model_config(checkpoint), compute, load_tokenizer(checkpoint))
    return assemble_reranker(plan, network)


def style_of(world: World) -> Style:
    """The style with those fonts of `world` that are installed, or else with other installed fonts.

    Raises: RunFileError if this machine has no fonts.
    """
    installed = [path for path in installed_fonts() if is_usable(path)]
    by_name = {path.stem: path for path in installed}
    fonts = tuple(by_name[name] for name in world.fonts if name in by_name) or tuple(installed[: len(world.fonts)])
    if not fonts:
        raise RunFileError(f"This machine has no fonts. Install some of {', '.join(world.fonts)}.")
    logger.info("fonts: %s", ", ".join(path.stem for path in fonts))
    return Style(fonts=fonts, smallest_print=world.smallest_print, largest_print=world.largest_print)


def keep_freed_memory() -> None:
    """Make glibc keep the memory that torch frees, instead of requesting new pages from the system for every large tensor."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 512 * 2**20)
