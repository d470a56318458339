"""What rendering and packing the sample both know; imports nothing."""

FRAME_COUNT = 49
FRAME_RATE = 24
#: Focal length as a share of the picture's width: a field of view of 54 degrees.
FOCAL_SHARE = 500.0 / 512.0
#: Distance of the pivot from the source camera, and height of the camera above the floor.
RADIUS_M = 3.0
CAMERA_HEIGHT_M = 1.15
ORBIT_DEG = 90.0
