"""Images, splits, views, pairs and corruptions."""
