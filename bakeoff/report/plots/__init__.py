"""Pictures: what a report shows, as PNG."""
