"""From a method to the file that is trained on, and why it holds what it holds."""
