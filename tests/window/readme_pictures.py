"""Cut the README's pictures out of those that `run.py` left, of a Blender 5.2.

python tests/window/readme_pictures.py window
"""

import argparse
from pathlib import Path

import cv2

OUTPUT = Path(__file__).parents[2] / "docs" / "pictures"
#: The README shows them about so wide.
MOST_WIDTH_PX = 1100
JPEG_QUALITY = 82
#: README's picture -> picture of a step, left, top, right, bottom in pixels of the screen.
CROPS = {
    "install": ("1_installed", 1000, 26, 1576, 560),
    "pair": ("2_pairing", 950, 26, 1576, 560),
    "import": ("3_video", 1000, 26, 1576, 600),
    "aim": ("4_aimed", 400, 26, 1576, 760),
    "take": ("5_strips", 0, 450, 1920, 985),
    "strip": ("5_strips", 0, 0, 1920, 1080),
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="output of run.py")
    folder = parser.parse_args().folder
    for name, (step, left, top, right, bottom) in CROPS.items():
        picture = cv2.imread(str(folder / f"{step}.png"))[top:bottom, left:right]
        width_px = min(MOST_WIDTH_PX, right - left)
        size_px = (width_px, round((bottom - top) * width_px / (right - left)))
        small = cv2.resize(picture, size_px, interpolation=cv2.INTER_AREA)
        path = OUTPUT / f"{name}.jpg"
        cv2.imwrite(str(path), small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
