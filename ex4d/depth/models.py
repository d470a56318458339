"""The depth estimators' published weights; loads no torch."""

from ex4d.weights.files import PublishedFile, PublishedModel

_SVD_REPOSITORY = "stabilityai/stable-video-diffusion-img2vid-xt"
_SVD_FOLDER = "stable-video-diffusion-img2vid-xt"
_CRAFTER_FOLDER = "DepthCrafter"


def _of_svd(name: str, size_gb: float) -> PublishedFile:
    return PublishedFile(_SVD_REPOSITORY, name, _SVD_FOLDER, size_gb)


VIDEO_DEPTH_ANYTHING = PublishedModel(
    name="video-depth-anything",
    files=(
        PublishedFile(
            "depth-anything/Video-Depth-Anything-Small",
            "video_depth_anything_vits.pth",
            "Video-Depth-Anything-Small",
            0.12,
        ),
    ),
    licence="Apache-2.0",
)
VIDEO_DEPTH_ANYTHING_METRIC = PublishedModel(
    name="video-depth-anything-metric",
    files=(
        PublishedFile(
            "depth-anything/Metric-Video-Depth-Anything-Small",
            "metric_video_depth_anything_vits.pth",
            "Metric-Video-Depth-Anything-Small",
            0.12,
        ),
    ),
    # The makers' README gives Apache-2.0 for the Small model without naming this variant; others
    # who list it contradict each other.
    licence="as its model card on the hub says",
)
DEPTH_ANYTHING = PublishedModel(
    name="depth-anything",
    files=tuple(
        PublishedFile(
            "depth-anything/Depth-Anything-V2-Small-hf", name, "Depth-Anything-V2-Small-hf", size_gb
        )
        for name, size_gb in (("config.json", 0.0), ("model.safetensors", 0.1))
    ),
    licence="Apache-2.0",
)
#: DepthCrafter's own network, and what it takes from Stable Video Diffusion: all but its network.
DEPTHCRAFTER = PublishedModel(
    name="depthcrafter",
    files=(
        PublishedFile("tencent/DepthCrafter", "config.json", _CRAFTER_FOLDER, 0.0),
        PublishedFile(
            "tencent/DepthCrafter", "diffusion_pytorch_model.safetensors", _CRAFTER_FOLDER, 3.05
        ),
        _of_svd("vae/config.json", 0.0),
        _of_svd("vae/diffusion_pytorch_model.fp16.safetensors", 0.2),
        _of_svd("image_encoder/config.json", 0.0),
        _of_svd("image_encoder/model.fp16.safetensors", 1.26),
        _of_svd("scheduler/scheduler_config.json", 0.0),
    ),
    licence=(
        "DepthCrafter: academic use only, no production; "
        "Stable Video Diffusion: Stability AI's community licence"
    ),
    for_research_only=True,
)

DEPTH_MODELS = (
    VIDEO_DEPTH_ANYTHING,
    VIDEO_DEPTH_ANYTHING_METRIC,
    DEPTH_ANYTHING,
    DEPTHCRAFTER,
)
