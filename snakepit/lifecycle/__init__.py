"""Starting, watching, replacing and ending workers."""
