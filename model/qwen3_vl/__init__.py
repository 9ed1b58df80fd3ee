"""The Qwen3-VL network: vision tower, decoder, rotary embeddings, and the loading of weights."""
