"""The Qwen3-VL network: vision tower, decoder, rotary angles, and the reading of its weights."""
