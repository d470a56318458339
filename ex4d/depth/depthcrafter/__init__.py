"""DepthCrafter (arXiv 2409.02095): disparity of a video by diffusion; for research alone."""
