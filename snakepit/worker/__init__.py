"""The worker's side: the template that workers are forked from, their entry, their loop."""
