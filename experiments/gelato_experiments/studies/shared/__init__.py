"""What several studies share: gains of tuned methods, the exact world, and rules with a part taken out."""
