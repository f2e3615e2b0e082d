"""From scores to downstream accuracy: which score goes with it, and how sure that is."""
