"""Other libraries that can take the place of our own curvature engine, through adapters that express the pair loss."""
