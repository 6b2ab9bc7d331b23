"""Where one element of a stream ends and the next begins: a framer, of which there are two engines, and lanes."""
