"""The core: one gRPC server that owns all jobs, their files and all decisions."""
