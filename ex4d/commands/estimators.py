"""The arguments by which several commands choose where depth comes from."""

import argparse
from pathlib import Path


def add_depth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--depth`, `--estimator` and what belongs to them."""
    parser.add_argument(
        "--depth",
        type=Path,
        help="depth of the clip: .npz, .npy, or an image of an EXR or 16-bit PNG sequence; "
        "estimated where absent",
    )
    parser.add_argument(
        "--depth_kind",
        choices=("auto", "depth", "metric", "disparity", "reference"),
        default="auto",
        help="what the depth file holds (default: %(default)s)",
    )
    parser.add_argument(
        "--estimator",
        choices=(
            "video-depth-anything",
            "video-depth-anything-metric",
            "depth-anything",
            "depthcrafter",
        ),
        help="what estimates depth (default: video-depth-anything); depth-anything takes each "
        "frame for itself, for single images and quick looks; depthcrafter is for research",
    )
    parser.add_argument(
        "--depth_range",
        choices=("percentile", "min_max", "calibrated"),
        default="percentile",
        help="how disparity becomes depth: min_max is the reference's; calibrated fits it to "
        "video-depth-anything-metric on a few frames (default: %(default)s)",
    )
    parser.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="take flicker from depth, send sky back and snap edges to the picture's, each where "
        "the clip calls for it (default: if depth is estimated, but not with min_max)",
    )
    parser.add_argument(
        "--accept-research-licence",
        action="store_true",
        help="you use an estimator whose licence forbids production for research alone",
    )
