"""Places for tests to work on that are as real as one machine can make them."""
