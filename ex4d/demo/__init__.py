"""The whole path in one go: a server process, Blender with the real extension, a take as strips."""
