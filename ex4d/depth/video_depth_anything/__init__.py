"""Video-Depth-Anything (arXiv 2501.12375): affine-invariant disparity of a video, Apache-2.0."""
