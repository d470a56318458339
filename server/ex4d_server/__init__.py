"""The server of EX-4D: one encrypted socket, a job journal, a blob store and worker processes."""
