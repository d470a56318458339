"""The `ex4d` engine: EX-4D's adapter on Wan2.1-I2V-14B, with diffsynth's modules."""
