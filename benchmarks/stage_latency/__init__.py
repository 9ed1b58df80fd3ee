"""The same request through the published path and through ours, one lever after another, side by side in one process."""
