"""From messages to token ids and their loss weights."""
