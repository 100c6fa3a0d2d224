"""What people look at: the report, and text for a terminal."""
