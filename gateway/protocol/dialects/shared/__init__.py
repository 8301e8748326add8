"""What several dialects do alike."""
