"""The console's frame, and the pages that cross applications."""
