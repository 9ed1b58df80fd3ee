"""Page images before they reach the model. Depends on Pillow alone, so that processes without torch can use it."""
