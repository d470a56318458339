"""The messages and documents that both ends speak.

Imports only the standard library, msgspec and msgpack, and uses relative imports only: the build
copies this package into the Blender extension as it stands.
"""
