"""What a page image is before the model sees it. Needs Pillow alone, so that processes without torch can share it."""
